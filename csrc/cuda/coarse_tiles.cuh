// The coarse product on the tensor cores, whose epilogue keeps what may be near or farthest.
#pragma once

#include "coarse_bound.h"
#include "device.cuh"

namespace vireid_fast {
namespace coarse {

constexpr int kBlockSize = 256;
constexpr int kTile = 128;    // rows and columns of a block's tile
constexpr int kDepth = 64;    // elements of the width per stage, 128 bytes of a row
constexpr int kStages = 3;
constexpr int kWarpRows = 64;
constexpr int kWarpCols = 32;
constexpr int kRowTilesOfGroup = 16;  // tiles that follow each other share a part of the database
constexpr int kNearCapacity = 1024;   // candidates of a row
constexpr int kFarCapacity = 256;
constexpr int kFirstColumns = kNearCapacity;  // whose products are all kept, to begin with
constexpr size_t kStageBytes = 2 * kTile * kDepth * sizeof(uint16_t);

// Rows of one side: bfloat16 copies, padded by zeros to `stride` elements, and their norms.
struct Side {
  const uint16_t* rows;
  const RowNorms* norms;
  const float4* columns;  // half_low, half_high, norm, weighted: what the epilogue reads
  int64_t count;
};

// What is kept of each row of a round, by position: products and columns of the candidates, their
// numbers, and the tests that a further candidate must pass: near, far, residual, coarse_norm.
struct Candidates {
  float* near_dots;
  int* near_columns;
  int* near_counts;
  float* far_dots;
  int* far_columns;
  int* far_counts;
  float4* tests;
  double* farthest;  // a lower bound of half the largest distance
  int* lost;         // 1 where candidates were too many: the row is to be searched in full
};

struct TileArguments {
  Side query;
  Side database;
  Candidates candidates;
  int64_t first_row;  // the round's rows, by position in `query`
  int64_t rows;
  int64_t first_col;  // multiple of kTile
  int64_t last_col;
  int64_t stride;
};

// 16-byte chunks of a row lie permuted, so that eight rows at one chunk are in different banks.
__device__ inline int chunk_offset(int row, int chunk) {
  return row * kDepth + ((chunk ^ (row & 7)) << 3);
}

__device__ inline void copy_rows(const uint16_t* rows, int64_t first, int64_t last, int64_t stride,
                                 int64_t depth, uint16_t* target) {
  constexpr int kChunks = kDepth / 8;
#pragma unroll
  for (int i = 0; i < kTile * kChunks / kBlockSize; ++i) {
    const int at = threadIdx.x + i * kBlockSize;
    const int row = at / kChunks;
    const int chunk = at % kChunks;
    const bool inside = first + row < last;
    const uint16_t* source = rows + (inside ? first + row : first) * stride + depth + chunk * 8;
    copy_async(target + chunk_offset(row, chunk), source, inside);
  }
}

// sums[m][n]: 16 x 8 products of the warp's rows 16 m and columns 8 n.
using Sums = float[kWarpRows / 16][kWarpCols / 8][4];

__device__ inline void multiply_stage(const uint16_t* a, const uint16_t* b, Sums& sums) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int a_row = warp / (kTile / kWarpCols) * kWarpRows + lane % 16;
  const int b_row = warp % (kTile / kWarpCols) * kWarpCols + lane % 8 + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k) {
    uint32_t left[kWarpRows / 16][4];
    uint32_t right[kWarpCols / 16][4];
#pragma unroll
    for (int m = 0; m < kWarpRows / 16; ++m) {
      load_matrices(left[m], a + chunk_offset(a_row + m * 16, 2 * k + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < kWarpCols / 16; ++n) {
      load_matrices(right[n], b + chunk_offset(b_row + n * 16, 2 * k + lane / 8 % 2));
    }
#pragma unroll
    for (int m = 0; m < kWarpRows / 16; ++m) {
#pragma unroll
      for (int n = 0; n < kWarpCols / 8; ++n) {
        const uint32_t pair[2] = {right[n / 2][n % 2 * 2], right[n / 2][n % 2 * 2 + 1]};
        multiply_add(sums[m][n], left[m], pair);
      }
    }
  }
}

__device__ inline void append(float dot, int64_t column, int64_t row, int capacity, float* dots,
                              int* columns, int* counts) {
  // The order of the candidates is of no consequence: they are sorted by their exact distances.
  const int place = atomicAdd(&counts[row], 1);
  if (place >= capacity) return;
  dots[row * capacity + place] = dot;
  columns[row * capacity + place] = static_cast<int>(column);
}

// `tests` and `columns`, in shared memory, are those of the tile's rows and columns.
template <bool kFirst>
__device__ void keep(const TileArguments& task, const Sums& sums, int64_t first_row,
                     int64_t first_col, const float4* tests, const float4* columns) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int row_of_thread = warp / (kTile / kWarpCols) * kWarpRows + lane / 4;
  const int col_of_thread = warp % (kTile / kWarpCols) * kWarpCols + lane % 4 * 2;
  const Candidates& kept = task.candidates;
#pragma unroll
  for (int m = 0; m < kWarpRows / 16; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row_of_thread + m * 16 + half * 8;
      const int64_t row = first_row + r;
      if (row >= task.rows) continue;
      const float4 test = kFirst ? make_float4(0, 0, 0, 0) : tests[r];
#pragma unroll
      for (int i = 0; i < kWarpCols / 8 * 2; ++i) {
        const int c = col_of_thread + i / 2 * 8 + i % 2;
        const int64_t column = first_col + c;
        if (column >= task.last_col) continue;
        const float dot = sums[m][i / 2][half * 2 + i % 2];
        if constexpr (kFirst) {
          kept.near_dots[row * kNearCapacity + column] = dot;
        } else {
          const float4 item = columns[c];
          const float margin = test.z * item.z + test.w * item.w;
          // Negated, so that NaN is kept.
          if (!(dot + margin < test.x + item.x)) {
            append(dot, column, row, kNearCapacity, kept.near_dots, kept.near_columns,
                   kept.near_counts);
          }
          if (!(dot - margin > test.y + item.y)) {
            append(dot, column, row, kFarCapacity, kept.far_dots, kept.far_columns,
                   kept.far_counts);
          }
        }
      }
    }
  }
}

// kFirst: keeps all products of the first kFirstColumns columns, at the column's place.
template <bool kFirst>
__global__ void __launch_bounds__(kBlockSize, 2) coarse_tile_kernel(TileArguments task) {
  uint16_t* stages = reinterpret_cast<uint16_t*>(dynamic_shared());
  __shared__ float4 tests[kTile];
  __shared__ float4 columns[kTile];
  const int64_t row_tiles = (task.rows + kTile - 1) / kTile;
  const int64_t col_tiles = (task.last_col - task.first_col + kTile - 1) / kTile;
  const int64_t group_tiles = kRowTilesOfGroup * col_tiles;
  const int64_t first_tile = static_cast<int64_t>(blockIdx.x) / group_tiles * kRowTilesOfGroup;
  const int64_t tiles_left = row_tiles - first_tile;
  const int64_t height = tiles_left < kRowTilesOfGroup ? tiles_left : kRowTilesOfGroup;
  const int64_t inside = static_cast<int64_t>(blockIdx.x) % group_tiles;
  const int64_t first_row = (first_tile + inside % height) * kTile;
  const int64_t first_col = task.first_col + inside / height * kTile;

  const int64_t steps = task.stride / kDepth;
  const auto fetch = [&](int64_t step) {
    if (step < steps) {
      uint16_t* stage = stages + step % kStages * (2 * kTile * kDepth);
      copy_rows(task.query.rows, task.first_row + first_row, task.first_row + task.rows,
                task.stride, step * kDepth, stage);
      copy_rows(task.database.rows, first_col, task.last_col, task.stride, step * kDepth,
                stage + kTile * kDepth);
    }
    copy_async_commit();
  };
  if constexpr (!kFirst) {
    if (threadIdx.x < kTile) {
      const int64_t row = first_row + threadIdx.x;
      if (row < task.rows) tests[threadIdx.x] = task.candidates.tests[row];
    } else {
      const int64_t column = first_col + threadIdx.x - kTile;
      if (column < task.last_col) {
        columns[threadIdx.x - kTile] = task.database.columns[column];
      }
    }
  }
  Sums sums = {};
  for (int step = 0; step < kStages - 1; ++step) fetch(step);
  for (int64_t step = 0; step < steps; ++step) {
    copy_async_wait<kStages - 2>();
    __syncthreads();
    // Into the stage that the barrier has just shown to be read by all.
    fetch(step + kStages - 1);
    const uint16_t* stage = stages + step % kStages * (2 * kTile * kDepth);
    multiply_stage(stage, stage + kTile * kDepth, sums);
  }
  keep<kFirst>(task, sums, first_row, first_col, tests, columns);
}

template <bool kFirst>
cudaError_t launch_coarse_tiles(const TileArguments& task, cudaStream_t stream) {
  const int64_t tiles =
      ceil_div(task.rows, kTile) * ceil_div(task.last_col - task.first_col, kTile);
  return launch(coarse_tile_kernel<kFirst>, tiles, kBlockSize, kStages * kStageBytes, stream,
                task);
}

}  // namespace coarse
}  // namespace vireid_fast
