// Neighbour lists and the lists of further items to lists of all of them.
#pragma once

#include "sort.cuh"

namespace vireid_fast {
namespace merging {

template <typename T>
struct Arguments {
  const T* distances;       // (rows, listed)
  const int64_t* indices;
  const T* farthest;        // (rows)
  const T* new_distances;   // (rows, added), of items that are counted from first_index on
  const int64_t* new_indices;
  const T* new_farthest;
  int64_t rows;
  int64_t listed;
  int64_t added;
  int64_t first_index;
  int64_t k;
  typename Ordered<T>::Key* scratch_keys;
  int64_t* scratch_indices;
  T* distances_out;         // (rows, k)
  int64_t* indices_out;
  T* farthest_out;
};

// One warp per row, each taking rows in turn.
template <typename T>
__global__ void __launch_bounds__(kWarp) merge_lists_kernel(Arguments<T> task) {
  using Key = typename Ordered<T>::Key;
  __shared__ Key shared_keys[kSortedInShared];
  __shared__ int64_t shared_indices[kSortedInShared];
  const int64_t count = task.listed + task.added;
  const bool in_shared = count <= kSortedInShared;
  const KeyedIndices<Key, int64_t> row = {
      in_shared ? shared_keys : task.scratch_keys + blockIdx.x * count,
      in_shared ? shared_indices : task.scratch_indices + blockIdx.x * count};
  for (int64_t i = blockIdx.x; i < task.rows; i += gridDim.x) {
    for (int64_t a = threadIdx.x; a < count; a += kWarp) {
      const bool old = a < task.listed;
      const int64_t at = old ? i * task.listed + a : i * task.added + a - task.listed;
      row.keys[a] = Ordered<T>::key(old ? task.distances[at] : task.new_distances[at]);
      row.indices[a] = old ? task.indices[at] : task.new_indices[at] + task.first_index;
    }
    sort_entries<WarpGroup>(row, count);
    for (int64_t a = threadIdx.x; a < task.k; a += kWarp) {
      task.distances_out[i * task.k + a] = Ordered<T>::value(row.keys[a]);
      task.indices_out[i * task.k + a] = row.indices[a];
    }
    if (threadIdx.x == 0) {
      const Key before = Ordered<T>::key(task.farthest[i]);
      const Key added = Ordered<T>::key(task.new_farthest[i]);
      task.farthest_out[i] = Ordered<T>::value(before > added ? before : added);
    }
    __syncwarp();
  }
}

}  // namespace merging

template <typename T>
cudaError_t launch_merge_lists(const merging::Arguments<T>& task, cudaStream_t stream) {
  return launch(merging::merge_lists_kernel<T>,
                sort_blocks(task.rows, task.listed + task.added), kWarp, 0, stream, task);
}

}  // namespace vireid_fast
