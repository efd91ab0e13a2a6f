// Jaccard distances on the GPU: an inverted index of the gallery rows, and for each query and
// segment of the gallery one block that adds the minima in shared memory, entry by entry of the
// query's row, which fixes the order of the additions.
#pragma once

#include <type_traits>

#include "../reciprocal_sets.h"
#include "sparse_rows.cuh"

namespace vireid_fast {
namespace jaccard {

constexpr int kBlockSize = 128;
constexpr int kSegmentBytes = 40 * 1024;
constexpr int64_t kMostBlocks = 2048;

template <typename T>
constexpr int kSegment = kSegmentBytes / static_cast<int>(sizeof(T));

// Inverted rows: those of column c stand at first[c] .. first[c + 1], ascending. With T const, all
// of it is.
template <typename T>
struct Inverted {
  template <typename U>
  using Alike = std::conditional_t<std::is_const_v<T>, const U, U>;

  Alike<int64_t>* first;
  Alike<int32_t>* row;
  T* weight;
};

// counts[col + 1] += 1 for each entry.
static __global__ void __launch_bounds__(kBlockSize)
    count_columns_kernel(const int64_t* __restrict__ col, int64_t entries,
                         unsigned long long* counts) {
  for (int64_t e = thread_index(); e < entries; e += thread_count()) {
    atomicAdd(&counts[col[e] + 1], 1ull);
  }
}

// Moves the entries of rows first_row, first_row + 1, ... to their columns, in any order; `next`
// holds the offsets of the columns and is used up.
template <typename T>
__global__ void __launch_bounds__(kBlockSize)
    scatter_kernel(const int64_t* __restrict__ crow, const int64_t* __restrict__ col,
                   const T* __restrict__ weight, int64_t first_row, int64_t rows,
                   unsigned long long* next, int32_t* __restrict__ row_out,
                   T* __restrict__ weight_out) {
  const int64_t warps = thread_count() / kWarp;
  for (int64_t i = thread_index() / kWarp; i < rows; i += warps) {
    const int64_t end = crow[first_row + i + 1];
    for (int64_t e = crow[first_row + i] + threadIdx.x % kWarp; e < end; e += kWarp) {
      const unsigned long long place = atomicAdd(&next[col[e]], 1ull);
      row_out[place] = static_cast<int32_t>(i);
      weight_out[place] = weight[e];
    }
  }
}

// One block per column in turn: its entries by row, whatever order they came in.
template <typename T>
__global__ void __launch_bounds__(kBlockSize) sort_columns_kernel(Inverted<T> index,
                                                                  int64_t num_columns) {
  for (int64_t c = blockIdx.x; c < num_columns; c += gridDim.x) {
    const int64_t begin = index.first[c];
    sort_entries<BlockGroup>(
        KeyedIndices<int32_t, T>{index.row + begin, index.weight + begin},
        index.first[c + 1] - begin);
  }
}

// First place in [begin, end) of an ascending list whose row is not below `row`.
__device__ inline int64_t first_from(const int32_t* rows, int64_t begin, int64_t end, int64_t row) {
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (rows[middle] < row) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

template <typename T>
struct OverlapArguments {
  const int64_t* crow;      // offsets of the queries' rows, from the first query on
  const int64_t* col;
  const T* weight;
  Inverted<const T> index;
  const T* farthest;        // of the queries; absent for the plain Jaccard distance
  int64_t num_query;
  int64_t num_gallery;
  int64_t segments;
  T lambda;
  T rest;                   // 1 - lambda, rounded once
  T* out;                   // (num_query, num_gallery); holds the distances to be blended
};

// Sums of minima of one query's row with the gallery rows begin .. begin + size.
template <typename T>
__device__ void add_minima(const OverlapArguments<T>& task, int64_t query, int64_t begin,
                           int64_t size, T* overlap) {
  __shared__ int64_t begins[kBlockSize];
  __shared__ int64_t ends[kBlockSize];
  __shared__ T weights[kBlockSize];
  const int64_t last = task.crow[query + 1];
  for (int64_t first = task.crow[query]; first < last; first += kBlockSize) {
    const int64_t e = first + threadIdx.x;
    if (e < last) {
      const int64_t column = task.col[e];
      const int64_t from = task.index.first[column];
      const int64_t to = task.index.first[column + 1];
      begins[threadIdx.x] = first_from(task.index.row, from, to, begin);
      ends[threadIdx.x] = first_from(task.index.row, begins[threadIdx.x], to, begin + size);
      weights[threadIdx.x] = task.weight[e];
    }
    __syncthreads();
    const int count = static_cast<int>(last - first < kBlockSize ? last - first : kBlockSize);
    for (int entry = 0; entry < count; ++entry) {
      // A gallery row stands once in each list, so that no two threads add to one place.
      for (int64_t i = begins[entry] + threadIdx.x; i < ends[entry]; i += kBlockSize) {
        overlap[task.index.row[i] - begin] += smaller_weight(task.index.weight[i], weights[entry]);
      }
      __syncthreads();
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kBlockSize) overlap_kernel(OverlapArguments<T> task) {
  T* overlap = reinterpret_cast<T*>(dynamic_shared());
  const int64_t query = static_cast<int64_t>(blockIdx.x) / task.segments;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) % task.segments * kSegment<T>;
  const int64_t left = task.num_gallery - begin;
  const int64_t size = left < kSegment<T> ? left : kSegment<T>;
  for (int64_t g = threadIdx.x; g < size; g += kBlockSize) overlap[g] = T(0);
  __syncthreads();
  add_minima(task, query, begin, size, overlap);
  T* out = task.out + query * task.num_gallery + begin;
  for (int64_t g = threadIdx.x; g < size; g += kBlockSize) {
    const T distance = jaccard_of_overlap(overlap[g]);
    if (task.farthest == nullptr) {
      out[g] = distance;
    } else {
      // blended_distance of reciprocal_sets.h, with no product contracted.
      const T original = Rounded<T>::divide(out[g], task.farthest[query]);
      out[g] = Rounded<T>::add(Rounded<T>::multiply(distance, task.rest),
                               Rounded<T>::multiply(original, task.lambda));
    }
  }
}

}  // namespace jaccard

// The index of the rows first_row .. num_rows of a sparse (num_rows, num_rows) matrix. `entries` of
// them stand from first_entry on. `next` has room for num_rows offsets.
template <typename T>
cudaError_t launch_invert_rows(const int64_t* crow, const int64_t* col, const T* weight,
                               int64_t num_rows, int64_t first_row, int64_t first_entry,
                               int64_t entries, int64_t* next, jaccard::Inverted<T> index,
                               cudaStream_t stream) {
  using Counter = unsigned long long;
  cudaError_t status = cudaMemsetAsync(
      index.first, 0, static_cast<size_t>(num_rows + 1) * sizeof(int64_t), stream);
  if (status != cudaSuccess) return status;
  status = launch(jaccard::count_columns_kernel, sparse::blocks_for(entries), jaccard::kBlockSize,
                  0, stream, col + first_entry, entries, reinterpret_cast<Counter*>(index.first));
  if (status != cudaSuccess) return status;
  status = sparse::launch_scan(index.first, num_rows + 1, stream);
  if (status != cudaSuccess || entries == 0) return status;
  status = cudaMemcpyAsync(next, index.first, static_cast<size_t>(num_rows) * sizeof(int64_t),
                           cudaMemcpyDeviceToDevice, stream);
  if (status != cudaSuccess) return status;
  status = launch(jaccard::scatter_kernel<T>, sparse::blocks_for((num_rows - first_row) * kWarp),
                  jaccard::kBlockSize, 0, stream, crow, col, weight, first_row,
                  num_rows - first_row, reinterpret_cast<Counter*>(next), index.row, index.weight);
  if (status != cudaSuccess) return status;
  return launch(jaccard::sort_columns_kernel<T>,
                num_rows < jaccard::kMostBlocks ? num_rows : jaccard::kMostBlocks,
                jaccard::kBlockSize, 0, stream, index, num_rows);
}

// Raises the flag unless the offsets rise from 0 to `entries` and all rows lie in the gallery.
inline cudaError_t launch_check_inverted(const int64_t* first, int64_t num_columns,
                                         const int32_t* row, int64_t entries, int64_t num_gallery,
                                         int* broken, cudaStream_t stream) {
  const cudaError_t status =
      launch_check_offsets(first, num_columns, entries, false, broken, stream);
  if (status != cudaSuccess) return status;
  return launch_check_indices(row, entries, num_gallery, broken, stream);
}

// Jaccard distances, or with task.farthest their blend with the distances that task.out holds.
template <typename T>
cudaError_t launch_overlaps(jaccard::OverlapArguments<T> task, cudaStream_t stream) {
  task.segments = ceil_div(task.num_gallery, jaccard::kSegment<T>);
  return launch(jaccard::overlap_kernel<T>, task.num_query * task.segments, jaccard::kBlockSize,
                jaccard::kSegmentBytes, stream, task);
}

}  // namespace vireid_fast
