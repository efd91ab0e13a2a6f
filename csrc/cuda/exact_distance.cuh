// Distances in the one order of operations that all kernels share, the CPU's included: 64-byte
// groups of lanes run along the width, each lane sums rounded products, and at the end lane i is
// added to lane i + half, half = 8, 4, 2, 1 for float32. So a pair has the same bits everywhere.
#pragma once

#include "../metric.h"
#include "device.cuh"

namespace vireid_fast {
namespace exact {

constexpr int kQuad = 4;  // threads that share one pair of rows, 16 bytes of each group per thread

template <typename T>
constexpr int kLanes = 64 / static_cast<int>(sizeof(T));

template <typename T>
constexpr int kLanesOfThread = kLanes<T> / kQuad;

template <typename T>
struct Piece;
template <>
struct Piece<float> {
  __device__ static void load(const float* source, float (&values)[4]) {
    const float4 piece = *reinterpret_cast<const float4*>(source);
    values[0] = piece.x;
    values[1] = piece.y;
    values[2] = piece.z;
    values[3] = piece.w;
  }
};
template <>
struct Piece<double> {
  __device__ static void load(const double* source, double (&values)[2]) {
    const double2 piece = *reinterpret_cast<const double2*>(source);
    values[0] = piece.x;
    values[1] = piece.y;
  }
};

template <typename T>
__device__ T add_square(T sum, T x, T y) {
  const T difference = x - y;
  return Rounded<T>::add(sum, Rounded<T>::multiply(difference, difference));
}

// |x - y|^2 of two rows, in all four threads of a quad. Whole warps must call this together.
// `aligned`: rows begin at multiples of 16 bytes.
template <typename T>
__device__ T quad_distance(const T* x, const T* y, int64_t width, bool aligned) {
  constexpr int kMine = kLanesOfThread<T>;
  T sums[kMine] = {};
  int64_t d = threadIdx.x % kQuad * kMine;
  if (aligned) {
#pragma unroll 4
    for (; d + kMine <= width; d += kLanes<T>) {
      T x_values[kMine];
      T y_values[kMine];
      Piece<T>::load(x + d, x_values);
      Piece<T>::load(y + d, y_values);
#pragma unroll
      for (int i = 0; i < kMine; ++i) sums[i] = add_square(sums[i], x_values[i], y_values[i]);
    }
  }
  for (; d < width; d += kLanes<T>) {
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      if (d + i < width) sums[i] = add_square(sums[i], x[d + i], y[d + i]);
    }
  }
#pragma unroll
  for (int threads = kQuad / 2; threads > 0; threads /= 2) {
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      sums[i] = Rounded<T>::add(sums[i], __shfl_xor_sync(kWholeWarp, sums[i], threads));
    }
  }
#pragma unroll
  for (int half = kMine / 2; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) sums[i] = Rounded<T>::add(sums[i], sums[i + half]);
  }
  return sums[0];
}

// Whether the rows of a matrix can be read 16 bytes at a time.
template <typename T>
bool rows_are_aligned(const T* rows, int64_t width) {
  return reinterpret_cast<uintptr_t>(rows) % 16 == 0 && width * sizeof(T) % 16 == 0;
}

// out[p] = |x[row[p]] - x[column[p]]|^2; a pair that lies outside raises the flag instead.
template <typename T>
__global__ void __launch_bounds__(256)
    pair_distance_kernel(const T* __restrict__ x, int64_t num_rows, int64_t width, bool aligned,
                         const int64_t* __restrict__ row, const int64_t* __restrict__ column,
                         int64_t pairs, T* __restrict__ out, int* outside) {
  const int64_t stride = thread_count() / kQuad;
  const int64_t rounds = (pairs + stride - 1) / stride;
  int64_t p = thread_index() / kQuad;
  for (int64_t i = 0; i < rounds; ++i, p += stride) {
    int64_t a = p < pairs ? row[p] : 0;
    int64_t b = p < pairs ? column[p] : 0;
    const bool inside = a >= 0 && a < num_rows && b >= 0 && b < num_rows;
    if (p < pairs && !inside) *outside = 1;
    if (!inside) a = b = 0;
    const T distance = quad_distance(x + a * width, x + b * width, width, aligned);
    if (threadIdx.x % kQuad == 0 && p < pairs) out[p] = distance;
  }
}

// One block makes a kTile x kTile tile of the distances between all pairs. Its threads form teams
// of one thread per lane of a group; a team owns kTeamRows x kTeamCols pairs, each thread one lane
// of all of them.
constexpr int kTile = 32;
constexpr int kBlockSize = 256;
constexpr int kTeamRows = 8;
constexpr int kRowBytes = 320;  // 256 bytes of a row, and 64 that keep neighbours in other banks

template <typename T>
constexpr int kTeamCols = sizeof(T) == sizeof(float) ? 8 : 4;

template <typename T, Metric M>
__device__ T accumulate(T sum, T x, T y) {
  if constexpr (M == Metric::kNegativeDot) {
    return Rounded<T>::add(sum, Rounded<T>::multiply(x, y));
  } else {
    return add_square(sum, x, y);
  }
}

template <typename T>
__device__ void stage(const T* rows, int64_t count, int64_t first, int64_t width, int64_t column,
                      const int64_t* list, T* slice) {
  constexpr int kDepth = 256 / sizeof(T);
  constexpr int kStride = kRowBytes / sizeof(T);
  for (int i = threadIdx.x; i < kTile * kDepth; i += kBlockSize) {
    const int r = i / kDepth;
    const int k = i % kDepth;
    const bool inside = first + r < count && column + k < width;
    const int64_t row = inside && list != nullptr ? list[first + r] : first + r;
    slice[r * kStride + k] = inside ? rows[row * width + column + k] : T(0);
  }
}

template <typename T, Metric M>
__device__ T finished(T sum, T offset) {
  if constexpr (M == Metric::kEuclidean) return Rounded<T>::root(sum);
  if constexpr (M == Metric::kNegativeDot) return offset - sum;
  return sum;
}

// x (n, width), y (m, width), out (n, m), row-major. With a list, row r of x is x[list[r]].
// `offset` is what dot products are subtracted from.
template <typename T, Metric M>
__global__ void __launch_bounds__(kBlockSize, 2)
    distance_tile_kernel(const T* __restrict__ x, const int64_t* __restrict__ list, int64_t n,
                         const T* __restrict__ y, int64_t m, int64_t width, int64_t tiles_across,
                         T offset, T* __restrict__ out) {
  constexpr int kDepth = 256 / sizeof(T);
  constexpr int kStride = kRowBytes / sizeof(T);
  constexpr int kTeam = kLanes<T>;
  constexpr int kCols = kTeamCols<T>;
  constexpr int kPairs = kTeamRows * kCols;
  constexpr int kTeamsDown = kTile / kTeamRows;
  constexpr int kTeamsAcross = kTile / kCols;
  static_assert(kTeamsDown * kTeamsAcross * kTeam == kBlockSize);
  __shared__ T x_slice[kTile * kStride];
  __shared__ T y_slice[kTile * kStride];
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) / tiles_across * kTile;
  const int64_t first_col = static_cast<int64_t>(blockIdx.x) % tiles_across * kTile;
  const int lane = threadIdx.x % kTeam;
  const int down = threadIdx.x / kTeam / kTeamsAcross;
  const int across = threadIdx.x / kTeam % kTeamsAcross;
  T sums[kPairs] = {};
  for (int64_t column = 0; column < width; column += kDepth) {
    stage<T>(x, n, first_row, width, column, list, x_slice);
    stage<T>(y, m, first_col, width, column, nullptr, y_slice);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; k += kTeam) {
      T x_values[kTeamRows];
      T y_values[kCols];
      // Rows of a team lie apart, so that the teams of a warp read neighbouring rows.
#pragma unroll
      for (int r = 0; r < kTeamRows; ++r) {
        x_values[r] = x_slice[(down + r * kTeamsDown) * kStride + k + lane];
      }
#pragma unroll
      for (int c = 0; c < kCols; ++c) {
        y_values[c] = y_slice[(across + c * kTeamsAcross) * kStride + k + lane];
      }
#pragma unroll
      for (int r = 0; r < kTeamRows; ++r) {
#pragma unroll
        for (int c = 0; c < kCols; ++c) {
          sums[r * kCols + c] = accumulate<T, M>(sums[r * kCols + c], x_values[r], y_values[c]);
        }
      }
    }
    __syncthreads();
  }
  // Lane i takes over one half of the pairs from lane i ^ half and gives it the other half.
  int count = kPairs;
#pragma unroll
  for (int half = kTeam / 2; half > 0; half /= 2) {
    count /= 2;
    const bool upper = (lane & half) != 0;
#pragma unroll
    for (int i = 0; i < kPairs / 2; ++i) {
      if (i >= count) break;
      const T kept = upper ? sums[i + count] : sums[i];
      const T given = upper ? sums[i] : sums[i + count];
      sums[i] = Rounded<T>::add(kept, __shfl_xor_sync(kWholeWarp, given, half));
    }
  }
  constexpr int kLeft = kPairs / kTeam;
#pragma unroll
  for (int i = 0; i < kLeft; ++i) {
    const int pair = lane * kLeft + i;
    const int64_t r = first_row + down + pair / kCols * kTeamsDown;
    const int64_t c = first_col + across + pair % kCols * kTeamsAcross;
    if (r < n && c < m) out[r * m + c] = finished<T, M>(sums[i], offset);
  }
}

}  // namespace exact

// x (n, width), y (m, width) and out (n, m) are row-major without gaps. With a list of n rows (on
// the device), row r of the result is that of x[list[r]].
template <Metric M, typename T>
cudaError_t launch_distance_tiles(const T* x, const int64_t* list, int64_t n, const T* y, int64_t m,
                                  int64_t width, T offset, T* out, cudaStream_t stream) {
  const int64_t tiles_across = ceil_div(m, exact::kTile);
  const int64_t tiles = ceil_div(n, exact::kTile) * tiles_across;
  return launch(exact::distance_tile_kernel<T, M>, tiles, exact::kBlockSize, 0, stream, x, list, n,
                y, m, width, tiles_across, offset, out);
}

// By a metric that is known at run time; `offset` is what dot products are subtracted from.
template <typename T>
cudaError_t launch_pairwise_distance(Metric metric, const T* x, int64_t n, const T* y, int64_t m,
                                     int64_t width, T offset, T* out, cudaStream_t stream) {
  switch (metric) {
    case Metric::kEuclidean:
      return launch_distance_tiles<Metric::kEuclidean>(x, nullptr, n, y, m, width, offset, out,
                                                       stream);
    case Metric::kSquaredEuclidean:
      return launch_distance_tiles<Metric::kSquaredEuclidean>(x, nullptr, n, y, m, width, offset,
                                                              out, stream);
    default:
      return launch_distance_tiles<Metric::kNegativeDot>(x, nullptr, n, y, m, width, offset, out,
                                                         stream);
  }
}

// `outside` (on the device, 0 before) becomes 1 if an index lies outside [0, num_rows).
template <typename T>
cudaError_t launch_pair_distance(const T* x, int64_t num_rows, int64_t width, const int64_t* row,
                                 const int64_t* column, int64_t pairs, T* out, int* outside,
                                 cudaStream_t stream) {
  constexpr int kThreads = 256;
  constexpr int64_t kMostBlocks = 1 << 16;
  const int64_t blocks = ceil_div(pairs * exact::kQuad, kThreads);
  return launch(exact::pair_distance_kernel<T>, blocks < kMostBlocks ? blocks : kMostBlocks,
                kThreads, 0, stream, x, num_rows, width, exact::rows_are_aligned(x, width), row,
                column, pairs, out, outside);
}

}  // namespace vireid_fast
