// Sparse rows in CSR form on the GPU: checks of what will be read, and offsets from sizes.
#pragma once

#include "sort.cuh"

namespace vireid_fast {
namespace sparse {

constexpr int kBlockSize = 256;
constexpr int64_t kMostBlocks = 1 << 16;
constexpr int kScanSize = 1024;

inline int64_t blocks_for(int64_t threads) {
  const int64_t blocks = ceil_div(threads, kBlockSize);
  return blocks < kMostBlocks ? blocks : kMostBlocks;
}

// Raises the flag unless the offsets rise from 0 to `entries`, or, if they are a part of more, from
// anywhere to anywhere between.
static __global__ void __launch_bounds__(kBlockSize)
    check_offsets_kernel(const int64_t* __restrict__ crow, int64_t rows, int64_t entries,
                         bool part, int* broken) {
  for (int64_t i = thread_index(); i <= rows; i += thread_count()) {
    const int64_t before = i == 0 ? 0 : crow[i - 1];
    const bool ends = part || ((i > 0 || crow[0] == 0) && (i < rows || crow[i] == entries));
    if (crow[i] < before || crow[i] > entries || !ends) *broken = 1;
  }
}

// Raises the flag unless all indices lie in [0, size).
template <typename Index>
__global__ void __launch_bounds__(kBlockSize)
    check_indices_kernel(const Index* __restrict__ indices, int64_t count, int64_t size,
                         int* broken) {
  for (int64_t i = thread_index(); i < count; i += thread_count()) {
    if (indices[i] < 0 || indices[i] >= size) *broken = 1;
  }
}

// Row that holds an entry: the last whose offset is not above it.
__device__ inline int64_t row_of_entry(const int64_t* crow, int64_t rows, int64_t entry) {
  int64_t low = 0;
  int64_t high = rows;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (crow[middle] <= entry) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// One block: values[i] becomes the sum of the values up to i.
static __global__ void __launch_bounds__(kScanSize) scan_kernel(int64_t* values, int64_t count) {
  __shared__ int64_t totals[kScanSize / kWarp];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  int64_t carried = 0;
  for (int64_t begin = 0; begin < count; begin += kScanSize) {
    const int64_t i = begin + threadIdx.x;
    int64_t sum = i < count ? values[i] : 0;
    for (int lanes = 1; lanes < kWarp; lanes *= 2) {
      const int64_t other = __shfl_up_sync(kWholeWarp, sum, lanes);
      if (lane >= lanes) sum += other;
    }
    if (lane == kWarp - 1) totals[warp] = sum;
    __syncthreads();
    int64_t before = carried;
    for (int w = 0; w < kScanSize / kWarp; ++w) {
      if (w < warp) before += totals[w];
      carried += totals[w];
    }
    if (i < count) values[i] = before + sum;
    __syncthreads();
  }
}

inline cudaError_t launch_scan(int64_t* values, int64_t count, cudaStream_t stream) {
  return launch(scan_kernel, count > 0 ? 1 : 0, kScanSize, 0, stream, values, count);
}

}  // namespace sparse

// The flag (0 before) is raised unless the offsets of `rows` rows rise from 0 to `entries`; a part
// of the offsets of more rows may begin and end between.
inline cudaError_t launch_check_offsets(const int64_t* crow, int64_t rows, int64_t entries,
                                        bool part, int* broken, cudaStream_t stream) {
  return launch(sparse::check_offsets_kernel, sparse::blocks_for(rows + 1), sparse::kBlockSize, 0,
                stream, crow, rows, entries, part, broken);
}

template <typename Index>
cudaError_t launch_check_indices(const Index* indices, int64_t count, int64_t size, int* broken,
                                 cudaStream_t stream) {
  return launch(sparse::check_indices_kernel<Index>, sparse::blocks_for(count), sparse::kBlockSize,
                0, stream, indices, count, size, broken);
}

}  // namespace vireid_fast
