// Entries of distance rows before given (distance, index) pairs: one block per pair. A count is an
// integer, so that no order of work changes it.
#pragma once

#include "sparse_rows.cuh"

namespace vireid_fast {
namespace nearer {

constexpr int kBlockSize = 256;

template <typename T>
__global__ void __launch_bounds__(kBlockSize)
    count_nearer_kernel(const T* __restrict__ distances, int64_t rows, int64_t width,
                        const int64_t* __restrict__ crow, const T* __restrict__ bounds,
                        const int64_t* __restrict__ indices, int64_t first,
                        int64_t* __restrict__ counts) {
  __shared__ unsigned long long total;
  const int64_t pair = blockIdx.x;
  const T bound = bounds[pair];
  // Entries equal to the bound count left of its item only.
  const int64_t left = indices[pair] - first;
  const T* row = distances + sparse::row_of_entry(crow, rows, pair) * width;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  unsigned long long count = 0;
  for (int64_t i = threadIdx.x; i < width; i += kBlockSize) {
    count += row[i] < bound || (row[i] == bound && i < left);
  }
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    count += __shfl_xor_sync(kWholeWarp, count, lanes);
  }
  if (threadIdx.x % kWarp == 0) atomicAdd(&total, count);
  __syncthreads();
  if (threadIdx.x == 0) counts[pair] = static_cast<int64_t>(total);
}

}  // namespace nearer

// distances (rows, width); the pairs of row r are crow[r] .. crow[r + 1].
template <typename T>
cudaError_t launch_count_nearer(const T* distances, int64_t rows, int64_t width,
                                const int64_t* crow, const T* bounds, const int64_t* indices,
                                int64_t pairs, int64_t first, int64_t* counts,
                                cudaStream_t stream) {
  return launch(nearer::count_nearer_kernel<T>, pairs, nearer::kBlockSize, 0, stream, distances,
                rows, width, crow, bounds, indices, first, counts);
}

}  // namespace vireid_fast
