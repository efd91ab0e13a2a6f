// The k smallest entries of each row of a matrix in (value, index) order, and the row maximum: the
// k-th smallest by counting digits, then the entries up to it, sorted.
#pragma once

#include "sort.cuh"

namespace vireid_fast {
namespace selection {

constexpr int kBlockSize = 256;
constexpr int kSharedEntries = 512;   // longer lists are sorted in global memory
constexpr int64_t kMostBlocks = 2048;

// Lists of one search: distances and indices (rows, k), farthest (rows).
template <typename T>
struct Lists {
  T* distances;
  int64_t* indices;
  T* farthest;
};

// Each block takes rows in turn. With `targets`, row r of the matrix goes to row targets[r] of the
// lists. `scratch` holds k (key, index) entries for each block if k exceeds kSharedEntries.
// Left alone, ptxas takes 32 registers and spills.
template <typename T>
__global__ void __launch_bounds__(kBlockSize, 4)
    smallest_k_kernel(const T* __restrict__ matrix, int64_t rows, int64_t count, int64_t k,
                      const int64_t* __restrict__ targets, typename Ordered<T>::Key* scratch_keys,
                      int64_t* scratch_indices, Lists<T> lists) {
  using Key = typename Ordered<T>::Key;
  __shared__ unsigned long long bins[256];
  __shared__ int totals[kBlockSize / kWarp];
  __shared__ Key shared_keys[kSharedEntries];
  __shared__ int64_t shared_indices[kSharedEntries];
  __shared__ Key largest[kBlockSize / kWarp];
  const bool in_shared = k <= kSharedEntries;
  const KeyedIndices<Key, int64_t> taken = {
      in_shared ? shared_keys : scratch_keys + blockIdx.x * k,
      in_shared ? shared_indices : scratch_indices + blockIdx.x * k};
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* values = matrix + row * count;
    const int64_t target = targets != nullptr ? targets[row] : row;
    const auto key_at = [values](int64_t i) { return Ordered<T>::key(values[i]); };
    int64_t equal = 0;
    const Key last = kth_smallest<Key>(Ordered<T>::kBits, count, k, key_at, bins, &equal);
    // Everything below the k-th key, and its first equals by index. The places follow the indices.
    Key most = 0;
    int64_t filled = 0;
    int64_t equals_before = 0;
    for (int64_t begin = 0; begin < count; begin += kBlockSize) {
      const int64_t i = begin + threadIdx.x;
      const Key key = i < count ? key_at(i) : 0;
      if (i < count && key > most) most = key;
      int equals = 0;
      const int place = place_in_block(i < count && key == last, totals, &equals);
      const bool first_equal = key == last && equals_before + place < equal;
      int takes = 0;
      const bool take = i < count && (key < last || first_equal);
      const int at = place_in_block(take, totals, &takes);
      if (take) {
        taken.keys[filled + at] = key;
        taken.indices[filled + at] = i;
      }
      equals_before += equals;
      filled += takes;
    }
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
      const Key other = __shfl_xor_sync(kWholeWarp, most, lanes);
      most = other > most ? other : most;
    }
    if (threadIdx.x % kWarp == 0) largest[threadIdx.x / kWarp] = most;
    sort_entries<BlockGroup>(taken, k);
    for (int64_t i = threadIdx.x; i < k; i += kBlockSize) {
      lists.distances[target * k + i] = values[taken.indices[i]];
      lists.indices[target * k + i] = taken.indices[i];
    }
    if (threadIdx.x == 0) {
      for (const Key key : largest) most = key > most ? key : most;
      lists.farthest[target] = Ordered<T>::value(most);
    }
    __syncthreads();
  }
}

}  // namespace selection

// Blocks of a launch, and with them the entries of scratch (keys and indices) that it needs.
inline int64_t smallest_k_blocks(int64_t rows, int64_t k) {
  constexpr int64_t kMostEntries = 1 << 23;
  const int64_t fitting = k <= selection::kSharedEntries ? selection::kMostBlocks
                                                         : 1 + kMostEntries / k;
  const int64_t most = fitting < selection::kMostBlocks ? fitting : selection::kMostBlocks;
  return rows < most ? rows : most;
}

inline int64_t smallest_k_scratch(int64_t rows, int64_t k) {
  return k <= selection::kSharedEntries ? 0 : smallest_k_blocks(rows, k) * k;
}

// matrix (rows, count), row-major; 1 <= k <= count.
template <typename T>
cudaError_t launch_smallest_k(const T* matrix, int64_t rows, int64_t count, int64_t k,
                              const int64_t* targets, typename Ordered<T>::Key* scratch_keys,
                              int64_t* scratch_indices, selection::Lists<T> lists,
                              cudaStream_t stream) {
  return launch(selection::smallest_k_kernel<T>, smallest_k_blocks(rows, k), selection::kBlockSize,
                0, stream, matrix, rows, count, k, targets, scratch_keys, scratch_indices, lists);
}

}  // namespace vireid_fast
