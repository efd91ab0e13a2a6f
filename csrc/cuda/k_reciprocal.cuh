// From neighbour lists to sparse weights on the GPU. Sets are made by one thread per item with the
// functions that the CPU uses too; rows are counted, their offsets summed, and then filled.
#pragma once

#include "../reciprocal_sets.h"
#include "exact_distance.cuh"
#include "sparse_rows.cuh"

namespace vireid_fast {
namespace reciprocal {

constexpr int kBlockSize = 128;

// One warp per row, each taking rows in turn: the row in (distance / farthest, index) order.
template <typename T>
__global__ void __launch_bounds__(kWarp)
    rank_normalised_kernel(const T* __restrict__ distances, const int64_t* __restrict__ indices,
                           const T* __restrict__ farthest, int64_t rows, int64_t width, int64_t k,
                           typename Ordered<T>::Key* scratch_keys, int64_t* scratch_indices,
                           int64_t* ranked, bool* open) {
  using Key = typename Ordered<T>::Key;
  __shared__ Key shared_keys[kSortedInShared];
  __shared__ int64_t shared_indices[kSortedInShared];
  const bool in_shared = width <= kSortedInShared;
  const KeyedIndices<Key, int64_t> row = {
      in_shared ? shared_keys : scratch_keys + blockIdx.x * width,
      in_shared ? shared_indices : scratch_indices + blockIdx.x * width};
  for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
    // 0 / 0 has no order; all items of such a row tie, as they do for a stable sort of NaN.
    const T scale = farthest[i] > 0 ? farthest[i] : T(1);
    for (int64_t a = threadIdx.x; a < width; a += kWarp) {
      row.keys[a] = Ordered<T>::key(Rounded<T>::divide(distances[i * width + a], scale));
      row.indices[a] = indices[i * width + a];
    }
    sort_entries<WarpGroup>(row, width);
    for (int64_t a = threadIdx.x; a < k; a += kWarp) ranked[i * k + a] = row.indices[a];
    if (threadIdx.x == 0) {
      open[i] = row.keys[k - 1] == row.keys[width - 1] && row.keys[k - 1] != Ordered<T>::kNan;
    }
    __syncwarp();
  }
}

// Rows of queries, then of gallery items, as one.
template <typename T>
struct ItemRows {
  __device__ const T* row(int64_t item) const {
    return item < num_query ? query + item * width : gallery + (item - num_query) * width;
  }

  const T* query;
  const T* gallery;
  int64_t num_query;
  int64_t width;
  bool aligned;
};

// Distance of each entry, four threads each. It has the bits of the neighbour lists, so that
// looking them up there would gain nothing.
template <typename T>
__global__ void __launch_bounds__(kBlockSize)
    entry_distance_kernel(ItemRows<T> features, const int64_t* __restrict__ crow, int64_t rows,
                          const int64_t* __restrict__ col, int64_t entries,
                          T* __restrict__ distances) {
  const int64_t stride = thread_count() / exact::kQuad;
  const int64_t rounds = (entries + stride - 1) / stride;
  int64_t entry = thread_index() / exact::kQuad;
  for (int64_t round = 0; round < rounds; ++round, entry += stride) {
    const int64_t at = entry < entries ? entry : 0;
    const int64_t row = sparse::row_of_entry(crow, rows, at);
    const T distance = exact::quad_distance(features.row(row), features.row(col[at]),
                                            features.width, features.aligned);
    if (threadIdx.x % exact::kQuad == 0 && entry < entries) distances[entry] = distance;
  }
}

// The first `length` entries of each list as 32-bit ids; an id out of range raises the flag.
static __global__ void __launch_bounds__(kBlockSize)
    shorten_lists_kernel(const int64_t* __restrict__ lists, int64_t rows, int64_t width,
                         int64_t length, int32_t* __restrict__ out, int* broken) {
  for (int64_t i = thread_index(); i < rows * length; i += thread_count()) {
    const int64_t id = lists[i / length * width + i % length];
    const bool inside = id >= 0 && id < rows;
    if (!inside) *broken = 1;
    out[i] = inside ? static_cast<int32_t>(id) : 0;
  }
}

static __global__ void __launch_bounds__(kBlockSize)
    half_sets_kernel(NeighbourLists<int32_t> lists, int64_t rows, int64_t half,
                     int32_t* __restrict__ values, int32_t* __restrict__ counts) {
  const int64_t i = thread_index();
  if (i >= rows) return;
  counts[i] = static_cast<int32_t>(
      mutual_neighbours(lists, static_cast<int32_t>(i), half, values + i * half));
}

// The sets of items first + 0, 1, ..., `rows` of them. Without `col` only their sizes are written,
// to crow[item + 1]. `scratch` has room for `bound` ids of each item.
static __global__ void __launch_bounds__(kBlockSize)
    expanded_sets_kernel(NeighbourLists<int32_t> lists, HalfSets<int32_t> half_sets, int64_t first,
                         int64_t rows, int64_t full, int64_t bound, int32_t* scratch,
                         int64_t* crow, int64_t* __restrict__ col) {
  const int64_t i = thread_index();
  if (i >= rows) return;
  const int64_t item = first + i;
  int32_t* set = scratch + i * bound;
  const int64_t found = mutual_neighbours(lists, static_cast<int32_t>(item), full, set);
  // A list that repeats an item, which no search gives, must still give a set.
  int64_t count = 0;
  for (int64_t a = 0; a < found; ++a) {
    if (!list_holds(set, count, set[a])) set[count++] = set[a];
  }
  SearchedMembers<int32_t> members = {set, count, count};
  const int64_t size = expand_set(half_sets, set, count, members);
  if (col == nullptr) {
    crow[item + 1] = size;
    return;
  }
  sort_ascending(set, size);
  for (int64_t a = 0; a < size; ++a) col[crow[item] + a] = set[a];
}

template <typename T>
__device__ T exponential(T value) {
  if constexpr (sizeof(T) == sizeof(float)) return expf(value);
  return exp(value);
}

// One thread per row, which is summed in order.
template <typename T>
__global__ void __launch_bounds__(kBlockSize)
    reciprocal_weights_kernel(const int64_t* __restrict__ crow, int64_t rows,
                              const T* __restrict__ distances, T* __restrict__ weights) {
  const int64_t i = thread_index();
  if (i >= rows) return;
  T total = 0;
  for (int64_t e = crow[i]; e < crow[i + 1]; ++e) {
    weights[e] = exponential(-distances[e]);
    total += weights[e];
  }
  for (int64_t e = crow[i]; e < crow[i + 1]; ++e) {
    weights[e] = Rounded<T>::divide(weights[e], total);
  }
}

// Entries of the first `length` neighbours' rows, repeated columns included; and the largest.
static __global__ void __launch_bounds__(kBlockSize)
    expansion_bound_kernel(const int64_t* __restrict__ crow, const int64_t* __restrict__ lists,
                           int64_t rows, int64_t width, int64_t length,
                           unsigned long long* longest) {
  const int64_t i = thread_index();
  if (i >= rows) return;
  int64_t entries = 0;
  for (int64_t a = 0; a < length; ++a) {
    const int64_t neighbour = lists[i * width + a];
    entries += crow[neighbour + 1] - crow[neighbour];
  }
  atomicMax(longest, static_cast<unsigned long long>(entries));
}

template <typename T>
struct ExpansionArguments {
  const int64_t* crow;
  const int64_t* col;
  const T* weight;
  const int64_t* lists;
  int64_t rows;
  int64_t width;
  int64_t length;
  int64_t longest;
  uint64_t* scratch_keys;
  T* scratch_weights;
  int64_t* crow_out;
  int64_t* col_out;   // absent in the pass that counts
  T* weight_out;
};

// One warp per row, each taking rows in turn: the entries of the neighbours' rows sorted by
// (column, place), so that each column is summed in the order of the neighbours.
template <typename T>
__global__ void __launch_bounds__(kWarp) expand_query_kernel(ExpansionArguments<T> task) {
  __shared__ uint64_t shared_keys[kSortedInShared];
  __shared__ T shared_weights[kSortedInShared];
  const bool in_shared = task.longest <= kSortedInShared;
  const KeyedIndices<uint64_t, T> entries = {
      in_shared ? shared_keys : task.scratch_keys + blockIdx.x * task.longest,
      in_shared ? shared_weights : task.scratch_weights + blockIdx.x * task.longest};
  for (int64_t i = blockIdx.x; i < task.rows; i += gridDim.x) {
    int64_t count = 0;
    for (int64_t a = 0; a < task.length; ++a) {
      const int64_t neighbour = task.lists[i * task.width + a];
      const int64_t begin = task.crow[neighbour];
      const int64_t size = task.crow[neighbour + 1] - begin;
      for (int64_t e = threadIdx.x; e < size; e += kWarp) {
        entries.keys[count + e] = static_cast<uint64_t>(task.col[begin + e]) << 32 |
                                  static_cast<uint64_t>(count + e);
        entries.indices[count + e] = task.weight[begin + e];
      }
      count += size;
    }
    sort_entries<WarpGroup>(entries, count);
    int64_t written = 0;
    for (int64_t first = 0; first < count; first += kWarp) {
      const int64_t at = first + threadIdx.x;
      const bool begins =
          at < count && (at == 0 || entries.keys[at] >> 32 != entries.keys[at - 1] >> 32);
      const unsigned beginning = __ballot_sync(kWholeWarp, begins);
      if (begins && task.col_out != nullptr) {
        T sum = 0;
        for (int64_t e = at; e < count && entries.keys[e] >> 32 == entries.keys[at] >> 32; ++e) {
          sum += entries.indices[e];
        }
        const int64_t place =
            task.crow_out[i] + written + __popc(beginning & ((1u << threadIdx.x) - 1));
        task.col_out[place] = static_cast<int64_t>(entries.keys[at] >> 32);
        task.weight_out[place] = Rounded<T>::divide(sum, static_cast<T>(task.length));
      }
      written += __popc(beginning);
    }
    if (task.col_out == nullptr && threadIdx.x == 0) task.crow_out[i + 1] = written;
    __syncwarp();
  }
}

}  // namespace reciprocal

template <typename T>
cudaError_t launch_rank_normalised(const T* distances, const int64_t* indices, const T* farthest,
                                   int64_t rows, int64_t width, int64_t k,
                                   typename Ordered<T>::Key* scratch_keys,
                                   int64_t* scratch_indices, int64_t* ranked, bool* open,
                                   cudaStream_t stream) {
  return launch(reciprocal::rank_normalised_kernel<T>, sort_blocks(rows, width), kWarp,
                0, stream, distances, indices, farthest, rows, width, k, scratch_keys,
                scratch_indices, ranked, open);
}

template <typename T>
cudaError_t launch_entry_distance(const T* query, int64_t num_query, const T* gallery,
                                  int64_t width, const int64_t* crow, int64_t rows,
                                  const int64_t* col, int64_t entries, T* distances,
                                  cudaStream_t stream) {
  constexpr int64_t kMostBlocks = 1 << 16;
  const int64_t blocks = ceil_div(entries * exact::kQuad, reciprocal::kBlockSize);
  const reciprocal::ItemRows<T> features = {
      query, gallery, num_query, width,
      exact::rows_are_aligned(query, width) && exact::rows_are_aligned(gallery, width)};
  return launch(reciprocal::entry_distance_kernel<T>, blocks < kMostBlocks ? blocks : kMostBlocks,
                reciprocal::kBlockSize, 0, stream, features, crow, rows, col, entries, distances);
}

// The expanded sets of neighbour lists (rows, width), in two passes over the same memory.
struct ReciprocalSets {
  ReciprocalSets(int64_t rows, int64_t width, int64_t k1) : rows(rows), width(width) {
    full = k1 + 1 < width ? k1 + 1 : width;
    half = half_list_length(k1) < width ? half_list_length(k1) : width;
    // A list that repeats items, which no search gives, must not leave memory either.
    const int64_t joined = full * (half + 1);
    bound = joined < rows + full ? joined : rows + full;
    constexpr int64_t kMostIds = 1 << 24;
    const int64_t fitting = kMostIds / bound > 1 ? kMostIds / bound : 1;
    chunk = fitting < rows ? fitting : rows;
  }

  // 32-bit ids in memory: short lists, half sets and their sizes, sets of a chunk of items.
  int64_t memory() const { return rows * (full + half + 1) + chunk * bound; }

  // Half sets and crow; the flag (0 before) is raised if an id is out of range.
  cudaError_t count(const int64_t* lists, int32_t* memory, int64_t* crow, int* broken,
                    cudaStream_t stream) const {
    cudaError_t status = launch(
        reciprocal::shorten_lists_kernel, sparse::blocks_for(rows * full), reciprocal::kBlockSize,
        0, stream, lists, rows, width, full, memory, broken);
    if (status != cudaSuccess) return status;
    int32_t* half_values = memory + rows * full;
    status = launch(reciprocal::half_sets_kernel, ceil_div(rows, reciprocal::kBlockSize),
                    reciprocal::kBlockSize, 0, stream, NeighbourLists<int32_t>{memory, full}, rows,
                    half, half_values, half_values + rows * half);
    if (status != cudaSuccess) return status;
    status = cudaMemsetAsync(crow, 0, sizeof(int64_t), stream);
    if (status == cudaSuccess) status = expand(memory, crow, nullptr, stream);
    if (status != cudaSuccess) return status;
    return sparse::launch_scan(crow, rows + 1, stream);
  }

  cudaError_t fill(int32_t* memory, int64_t* crow, int64_t* col, cudaStream_t stream) const {
    return expand(memory, crow, col, stream);
  }

  int64_t rows, width, full, half, bound, chunk;

 private:
  cudaError_t expand(int32_t* memory, int64_t* crow, int64_t* col, cudaStream_t stream) const {
    const int32_t* half_values = memory + rows * full;
    const int32_t* half_counts = half_values + rows * half;
    int32_t* sets = memory + rows * (full + half + 1);
    for (int64_t first = 0; first < rows; first += chunk) {
      const int64_t count = rows - first < chunk ? rows - first : chunk;
      const cudaError_t status = launch(
          reciprocal::expanded_sets_kernel, ceil_div(count, reciprocal::kBlockSize),
          reciprocal::kBlockSize, 0, stream, NeighbourLists<int32_t>{memory, full},
          HalfSets<int32_t>{half_values, half_counts, half}, first, count, full, bound, sets, crow,
          col);
      if (status != cudaSuccess) return status;
    }
    return cudaSuccess;
  }
};

template <typename T>
cudaError_t launch_reciprocal_weights(const int64_t* crow, int64_t rows, const T* distances,
                                      T* weights, cudaStream_t stream) {
  return launch(reciprocal::reciprocal_weights_kernel<T>, ceil_div(rows, reciprocal::kBlockSize),
                reciprocal::kBlockSize, 0, stream, crow, rows, distances, weights);
}

inline cudaError_t launch_expansion_bound(const int64_t* crow, const int64_t* lists, int64_t rows,
                                          int64_t width, int64_t length,
                                          unsigned long long* longest, cudaStream_t stream) {
  return launch(reciprocal::expansion_bound_kernel, ceil_div(rows, reciprocal::kBlockSize),
                reciprocal::kBlockSize, 0, stream, crow, lists, rows, width, length, longest);
}

// Without col_out, writes the offsets; with it, the entries.
template <typename T>
cudaError_t launch_expand_query(const reciprocal::ExpansionArguments<T>& task,
                                cudaStream_t stream) {
  const cudaError_t status =
      launch(reciprocal::expand_query_kernel<T>, sort_blocks(task.rows, task.longest),
             kWarp, 0, stream, task);
  if (status != cudaSuccess || task.col_out != nullptr) return status;
  return sparse::launch_scan(task.crow_out + 1, task.rows, stream);
}

}  // namespace vireid_fast
