// What surrounds the coarse product: the centre and the bfloat16 copies before it, the tests
// between its passes, the exact distances of what is left after it.
#pragma once

#include "coarse_tiles.cuh"
#include "exact_distance.cuh"
#include "smallest_k.cuh"

namespace vireid_fast {
namespace coarse {

constexpr int kMostNeighbours = 256;
constexpr int kSampledRows = 256;
constexpr int kRefreshThreads = 128;
constexpr int kRescoreWarps = 4;

// Position p holds row p * step mod count: neighbours in the database are far from each other, so
// that data sorted by anything still give a fair sample in the first columns.
struct Order {
  VIREID_COARSE_DEVICE int64_t row(int64_t position) const { return position * step % count; }

  int64_t count;
  int64_t step;
};

inline Order order_of(int64_t count) {
  const auto common = [](int64_t a, int64_t b) {
    while (b != 0) {
      const int64_t rest = a % b;
      a = b;
      b = rest;
    }
    return a;
  };
  // The golden section spreads best.
  int64_t step = static_cast<int64_t>(0.6180339887498949 * static_cast<double>(count));
  if (step < 1) step = 1;
  while (common(count, step) != 1) ++step;
  return {count, step};
}

// centre[d] = median of the means of eight parts of some rows. Any centre is right; a good one
// makes the margins small, and a median is one even where a few rows lie far out.
static __global__ void __launch_bounds__(kBlockSize)
    centre_kernel(const float* __restrict__ rows, int64_t count, int64_t width, float* centre) {
  constexpr int kParts = kBlockSize / kWarp;
  __shared__ float means[kParts][kWarp];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x % kWarp;
  const int part = threadIdx.x / kWarp;
  const int64_t samples = count < kSampledRows ? count : kSampledRows;
  float sum = 0;
  int summed = 0;
  for (int64_t s = part; s < samples && column < width; s += kParts) {
    sum += rows[s * count / samples * width + column];
    ++summed;
  }
  const float mean = summed > 0 ? sum / static_cast<float>(summed) : 0.0f;
  // What overflowed would spoil every row.
  means[part][threadIdx.x % kWarp] = mean - mean == 0 ? mean : 0.0f;
  __syncthreads();
  if (part != 0 || column >= width) return;
  const int parts = samples < kParts ? static_cast<int>(samples) : kParts;
  float median = 0;
  for (int i = 0; i < parts; ++i) {
    int before = 0;
    for (int other = 0; other < parts; ++other) {
      const float difference = means[other][threadIdx.x] - means[i][threadIdx.x];
      before += difference < 0 || (difference == 0 && other < i);
    }
    if (before == (parts - 1) / 2) median = means[i][threadIdx.x];
  }
  centre[column] = median;
}

// Nearest bfloat16, ties to even. What lies below its normal range becomes 0.
VIREID_COARSE_DEVICE inline uint16_t to_bfloat16(float value) {
  union {
    float number;
    uint32_t bits;
  } word = {value};
  if ((word.bits & 0x7f800000u) == 0) return 0;
  if (value != value) return 0x7fff;
  return static_cast<uint16_t>((word.bits + 0x7fffu + (word.bits >> 16 & 1)) >> 16);
}

VIREID_COARSE_DEVICE inline float from_bfloat16(uint16_t half) {
  union {
    uint32_t bits;
    float number;
  } word = {static_cast<uint32_t>(half) << 16};
  return word.number;
}

__device__ inline double sum_over_warp(double value) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, lanes);
  }
  return value;
}

// One warp per position: the centred row in bfloat16, its norms, and its part in the tests.
static __global__ void __launch_bounds__(kBlockSize)
    convert_kernel(const float* __restrict__ rows, Order order, int64_t width, int64_t stride,
                   const float* __restrict__ centre, uint16_t* __restrict__ copies,
                   RowNorms* __restrict__ norms, float4* __restrict__ columns) {
  const int64_t position = thread_index() / kWarp;
  if (position >= order.count) return;
  const int lane = threadIdx.x % kWarp;
  const float* row = rows + order.row(position) * width;
  uint16_t* copy = copies + position * stride;
  double square = 0;
  double coarse_square = 0;
  double residual_square = 0;
  for (int64_t d = lane; d < stride; d += kWarp) {
    const double value =
        d < width ? static_cast<double>(row[d]) - static_cast<double>(centre[d]) : 0.0;
    const uint16_t half = to_bfloat16(static_cast<float>(value));
    const double coarse = from_bfloat16(half);
    copy[d] = half;
    square += value * value;
    coarse_square += coarse * coarse;
    residual_square += (value - coarse) * (value - coarse);
  }
  square = sum_over_warp(square);
  coarse_square = sum_over_warp(coarse_square);
  residual_square = sum_over_warp(residual_square);
  if (lane != 0) return;
  const RowNorms found = norms_of(square, coarse_square, residual_square, width);
  norms[position] = found;
  columns[position] = make_float4(rounded_down(found.half_square * (1 - kCompareSlack)),
                                  rounded_up(found.half_square * (1 + kCompareSlack)), found.norm,
                                  found.weighted);
}

// The tests of a row, from what its nearest and farthest reach to.
__device__ inline float4 tests_of(const RowNorms& norms, double nearest, double farthest,
                                  int64_t width) {
  const double half = norms.half_square;
  const double lost = 2 * kTiny * static_cast<double>(width);
  const double near_slack = kCompareSlack * (half + fabs(nearest)) + lost;
  const double far_slack = kCompareSlack * (half + fabs(farthest)) + lost;
  return make_float4(rounded_down(half - nearest - near_slack),
                     rounded_up(half - farthest + far_slack), norms.residual, norms.coarse_norm);
}

struct RefreshArguments {
  const RowNorms* query;     // of the round's rows
  const RowNorms* database;
  Candidates candidates;
  int64_t first_count;  // products of each row in the first pass; 0 after it
  int64_t width;
  int k;
};

// Keeps of `count` candidates those that `keeps(i)`, from and to the given places, in order.
template <typename Keeps>
__device__ int64_t compact(int64_t count, bool by_place, const float* dots, const int* columns,
                           int64_t capacity, float* kept_dots, int* kept_columns, int* totals,
                           Keeps keeps) {
  int64_t filled = 0;
  for (int64_t begin = 0; begin < count; begin += kRefreshThreads) {
    const int64_t i = begin + threadIdx.x;
    const bool inside = i < count;
    const float dot = inside ? dots[i] : 0.0f;
    const int column = !inside ? 0 : by_place ? static_cast<int>(i) : columns[i];
    const bool stays = inside && keeps(dot, column);
    int sum = 0;
    const int64_t at = filled + place_in_block(stays, totals, &sum);
    if (stays && at < capacity) {
      kept_dots[at] = dot;
      kept_columns[at] = column;
    }
    filled += sum;
  }
  return filled;
}

// One block per row: the k-th smallest upper bound of the candidates is an upper bound of the k-th
// smallest distance, and the largest lower bound one of the largest. Drops what cannot matter.
static __global__ void __launch_bounds__(kRefreshThreads) refresh_kernel(RefreshArguments task) {
  __shared__ uint32_t uppers[kNearCapacity];
  __shared__ unsigned long long bins[256];
  __shared__ int totals[kRefreshThreads / kWarp];
  __shared__ double largest[kRefreshThreads / kWarp];
  const int64_t row = blockIdx.x;
  const Candidates& kept = task.candidates;
  float* near_dots = kept.near_dots + row * kNearCapacity;
  int* near_columns = kept.near_columns + row * kNearCapacity;
  float* far_dots = kept.far_dots + row * kFarCapacity;
  int* far_columns = kept.far_columns + row * kFarCapacity;
  const bool first = task.first_count > 0;
  const int64_t near_count = first ? task.first_count : kept.near_counts[row];
  const int64_t far_count = first ? task.first_count : kept.far_counts[row];
  const bool lost_before = !first && kept.lost[row] != 0;
  if (lost_before || near_count > kNearCapacity || (!first && far_count > kFarCapacity)) {
    if (threadIdx.x == 0) {
      kept.lost[row] = 1;
      kept.tests[row] = make_float4(INFINITY, -INFINITY, 0, 0);
    }
    return;
  }
  const RowNorms norms = task.query[row];
  const auto middle = [&](float dot, int column) {
    return coarse_half(norms, task.database[column], dot);
  };
  const auto margin_to = [&](int column) {
    return margin(norms, task.database[column], task.width);
  };
  // 1. Bounds of every candidate; NaN counts as no bound.
  for (int64_t i = threadIdx.x; i < near_count; i += kRefreshThreads) {
    const int column = first ? static_cast<int>(i) : near_columns[i];
    uppers[i] =
        Ordered<float>::key(rounded_up(middle(near_dots[i], column) + margin_to(column)));
  }
  const float* seen_dots = first ? near_dots : far_dots;
  double low = first ? -INFINITY : kept.farthest[row];
  for (int64_t i = threadIdx.x; i < far_count; i += kRefreshThreads) {
    const int column = first ? static_cast<int>(i) : far_columns[i];
    const double lower = middle(seen_dots[i], column) - margin_to(column);
    if (lower > low) low = lower;
  }
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    const double other = __shfl_xor_sync(kWholeWarp, low, lanes);
    if (other > low) low = other;
  }
  if (threadIdx.x % kWarp == 0) largest[threadIdx.x / kWarp] = low;
  __syncthreads();
  for (const double other : largest) {
    if (other > low) low = other;
  }
  // 2. What the nearest and the farthest reach to.
  int64_t equal = 0;
  const uint32_t last = kth_smallest<uint32_t>(
      32, near_count, task.k, [&](int64_t i) { return uppers[i]; }, bins, &equal);
  const double nearest = reach_of_nearest(Ordered<float>::value(last), task.width);
  const double farthest = reach_of_farthest(low, task.width);
  // 3. The farthest first: in the first pass they come from the list that is compacted next.
  const int64_t far_left =
      compact(far_count, first, seen_dots, far_columns, kFarCapacity, far_dots, far_columns, totals,
              [&](float dot, int column) {
                return !(middle(dot, column) + margin_to(column) < farthest);
              });
  const int64_t near_left =
      compact(near_count, first, near_dots, near_columns, kNearCapacity, near_dots, near_columns,
              totals, [&](float dot, int column) {
                return !(middle(dot, column) - margin_to(column) > nearest);
              });
  if (threadIdx.x != 0) return;
  const bool lost = far_left > kFarCapacity;
  kept.near_counts[row] = static_cast<int>(near_left);
  kept.far_counts[row] = static_cast<int>(far_left);
  kept.farthest[row] = low;
  kept.lost[row] = lost;
  kept.tests[row] = lost ? make_float4(INFINITY, -INFINITY, 0, 0)
                         : tests_of(norms, nearest, farthest, task.width);
}

struct RescoreArguments {
  const float* query;
  const float* database;
  Order query_order;
  Order database_order;
  Candidates candidates;
  int64_t first_row;
  int64_t rows;
  int64_t width;
  bool aligned;
  int k;
  selection::Lists<float> lists;
  int64_t* lost_rows;  // rows that must be searched in full
  unsigned long long* lost_count;
};

// One warp per row: exact distances of the candidates, sorted.
static __global__ void __launch_bounds__(kRescoreWarps* kWarp)
    rescore_kernel(RescoreArguments task) {
  __shared__ uint32_t keys[kRescoreWarps][kNearCapacity];
  __shared__ int indices[kRescoreWarps][kNearCapacity];
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRescoreWarps + warp;
  if (row >= task.rows) return;
  const Candidates& kept = task.candidates;
  const int64_t target = task.query_order.row(task.first_row + row);
  if (kept.lost[row] != 0) {
    if (lane == 0) task.lost_rows[atomicAdd(task.lost_count, 1ull)] = target;
    return;
  }
  const float* x = task.query + target * task.width;
  const auto key_of = [&](int64_t item) {
    return Ordered<float>::key(
        exact::quad_distance(x, task.database + item * task.width, task.width, task.aligned));
  };
  constexpr int kQuads = kWarp / exact::kQuad;
  const int count = kept.near_counts[row];
  for (int begin = 0; begin < count; begin += kQuads) {
    const int i = begin + lane / exact::kQuad;
    const int column = kept.near_columns[row * kNearCapacity + (i < count ? i : begin)];
    const int64_t item = task.database_order.row(column);
    const uint32_t key = key_of(item);
    if (i < count && lane % exact::kQuad == 0) {
      keys[warp][i] = key;
      indices[warp][i] = static_cast<int>(item);
    }
  }
  uint32_t most = 0;
  const int far_count = kept.far_counts[row];
  for (int begin = 0; begin < far_count; begin += kQuads) {
    const int i = begin + lane / exact::kQuad;
    const int column = kept.far_columns[row * kFarCapacity + (i < far_count ? i : begin)];
    const uint32_t key = key_of(task.database_order.row(column));
    most = key > most ? key : most;
  }
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    const uint32_t other = __shfl_xor_sync(kWholeWarp, most, lanes);
    most = other > most ? other : most;
  }
  sort_entries<WarpGroup>(KeyedIndices<uint32_t, int>{keys[warp], indices[warp]}, count);
  for (int i = lane; i < task.k; i += kWarp) {
    task.lists.distances[target * task.k + i] = Ordered<float>::value(keys[warp][i]);
    task.lists.indices[target * task.k + i] = indices[warp][i];
  }
  if (lane == 0) task.lists.farthest[target] = Ordered<float>::value(most);
}

}  // namespace coarse
}  // namespace vireid_fast
