// Pairwise distances on the GPU: one block of 16 x 16 threads computes a 64 x 64 tile of the
// output, 4 x 4 pairs per thread, from slices of x and y staged in shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../metric.h"

namespace vireid_fast {
namespace pairwise {

constexpr int kThreads = 16;             // threads along each side of the tile
constexpr int kPerThread = 4;            // pairs along each side of one thread's share
constexpr int kTile = kThreads * kPerThread;
constexpr int kDepth = 16;               // columns of x and y per slice
constexpr int kBlockSize = kThreads * kThreads;

// slice[k][r] = rows[first + r][column + k], zero outside. The padding column keeps the
// transposing stores of neighbouring threads in different banks.
template <typename T>
__device__ void stage(const T* rows, int64_t count, int64_t first, int64_t width, int64_t column,
                      T (&slice)[kDepth][kTile + 1]) {
  for (int i = threadIdx.x; i < kTile * kDepth; i += kBlockSize) {
    const int r = i / kDepth;
    const int k = i % kDepth;
    const bool inside = first + r < count && column + k < width;
    slice[k][r] = inside ? rows[(first + r) * width + column + k] : T(0);
  }
}

template <typename T, Metric M>
__device__ T accumulate(T sum, T x, T y) {
  if constexpr (M == Metric::kNegativeDot) return sum - x * y;
  const T difference = x - y;
  return sum + difference * difference;
}

// Blocks per multiprocessor that leave a thread the registers it needs: 64 for float, 128 for
// double. Left alone, ptxas takes 48 and spills.
template <typename T>
constexpr int kResidentBlocks = sizeof(T) == sizeof(float) ? 4 : 2;

template <typename T, Metric M>
__global__ void __launch_bounds__(kBlockSize, kResidentBlocks<T>)
    pairwise_distance_kernel(const T* __restrict__ x, int64_t n, const T* __restrict__ y,
                             int64_t m, int64_t width, int64_t tiles_across,
                             T* __restrict__ out) {
  __shared__ T x_slice[kDepth][kTile + 1];
  __shared__ T y_slice[kDepth][kTile + 1];
  const int64_t row = static_cast<int64_t>(blockIdx.x) / tiles_across * kTile;
  const int64_t col = static_cast<int64_t>(blockIdx.x) % tiles_across * kTile;
  // Neighbouring threads own neighbouring columns, so that stores to `out` coalesce.
  const int thread_row = threadIdx.x / kThreads;
  const int thread_col = threadIdx.x % kThreads;
  T sums[kPerThread][kPerThread] = {};
  for (int64_t column = 0; column < width; column += kDepth) {
    stage(x, n, row, width, column, x_slice);
    stage(y, m, col, width, column, y_slice);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      T x_values[kPerThread];
      T y_values[kPerThread];
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
        x_values[i] = x_slice[k][thread_row + i * kThreads];
        y_values[i] = y_slice[k][thread_col + i * kThreads];
      }
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) {
          sums[i][j] = accumulate<T, M>(sums[i][j], x_values[i], y_values[j]);
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int64_t r = row + thread_row + i * kThreads;
      const int64_t c = col + thread_col + j * kThreads;
      if (r < n && c < m) {
        out[r * m + c] = M == Metric::kEuclidean ? sqrt(sums[i][j]) : sums[i][j];
      }
    }
  }
}

template <typename T>
using Kernel = void (*)(const T*, int64_t, const T*, int64_t, int64_t, int64_t, T*);

template <typename T>
Kernel<T> kernel_of(Metric metric) {
  switch (metric) {
    case Metric::kEuclidean:
      return pairwise_distance_kernel<T, Metric::kEuclidean>;
    case Metric::kSquaredEuclidean:
      return pairwise_distance_kernel<T, Metric::kSquaredEuclidean>;
    default:
      return pairwise_distance_kernel<T, Metric::kNegativeDot>;
  }
}

}  // namespace pairwise

// x (n, width), y (m, width) and out (n, m) are row-major without gaps.
template <typename T>
cudaError_t launch_pairwise_distance(Metric metric, const T* x, int64_t n, const T* y, int64_t m,
                                     int64_t width, T* out, cudaStream_t stream) {
  if (n == 0 || m == 0) return cudaSuccess;
  const int64_t tiles_across = (m + pairwise::kTile - 1) / pairwise::kTile;
  const int64_t tiles = (n + pairwise::kTile - 1) / pairwise::kTile * tiles_across;
  if (tiles > INT32_MAX) return cudaErrorInvalidConfiguration;
  pairwise::kernel_of<T>(metric)<<<static_cast<unsigned>(tiles), pairwise::kBlockSize, 0,
                                   stream>>>(x, n, y, m, width, tiles_across, out);
  return cudaGetLastError();
}

}  // namespace vireid_fast
