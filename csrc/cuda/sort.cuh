// Ordered keys of floating-point values, and sorting and selecting by whole blocks or warps.
#pragma once

#include "device.cuh"

namespace vireid_fast {

// Unsigned integers in the order of the values, NaN last and both zeros alike.
template <typename T>
struct Ordered;

template <>
struct Ordered<float> {
  using Key = uint32_t;
  static constexpr int kBits = 32;
  static constexpr Key kNan = 0xffffffffu;

  __device__ static Key key(float value) {
    if (value != value) return kNan;
    const Key bits = __float_as_uint(value == 0.0f ? 0.0f : value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  }

  __device__ static float value(Key key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
  }
};

template <>
struct Ordered<double> {
  using Key = uint64_t;
  static constexpr int kBits = 64;
  static constexpr Key kNan = 0xffffffffffffffffull;

  __device__ static Key key(double value) {
    if (value != value) return kNan;
    const Key bits = static_cast<Key>(__double_as_longlong(value == 0.0 ? 0.0 : value));
    return bits >> 63 ? ~bits : bits | 0x8000000000000000ull;
  }

  __device__ static double value(Key key) {
    const Key bits = key >> 63 ? key & 0x7fffffffffffffffull : ~key;
    return __longlong_as_double(static_cast<long long>(bits));
  }
};

struct BlockGroup {
  __device__ static int rank() { return threadIdx.x; }
  __device__ static int size() { return blockDim.x; }
  __device__ static void sync() { __syncthreads(); }
};

struct WarpGroup {
  __device__ static int rank() { return threadIdx.x % kWarp; }
  __device__ static int size() { return kWarp; }
  __device__ static void sync() { __syncwarp(); }
};

// Sorts `count` entries by a bitonic network in which the smaller entry always goes to the lower
// place, so that the places beyond `count`, up to a power of two, need not exist. Array offers
// `less(i, j)` and `swap(i, j)`.
template <typename Group, typename Array>
__device__ void sort_entries(Array array, int64_t count) {
  Group::sync();
  for (int64_t size = 2; size / 2 < count; size *= 2) {
    // Partners first mirror each other within `size` entries, then stand a quarter, ... apart.
    for (int64_t distance = size / 2; distance > 0; distance /= 2) {
      const bool mirrored = distance == size / 2;
      for (int64_t pair = Group::rank();; pair += Group::size()) {
        const int64_t low = pair / distance * distance * 2 + pair % distance;
        if (low >= count) break;
        const int64_t high = mirrored ? (low / size + 1) * size - 1 - low % size : low + distance;
        if (high < count && array.less(high, low)) array.swap(low, high);
      }
      Group::sync();
    }
  }
}

// Entries of a value's key and an index, in (key, index) order.
template <typename Key, typename Index>
struct KeyedIndices {
  __device__ bool less(int64_t a, int64_t b) const {
    return keys[a] < keys[b] || (keys[a] == keys[b] && indices[a] < indices[b]);
  }

  __device__ void swap(int64_t a, int64_t b) const {
    const Key key = keys[a];
    keys[a] = keys[b];
    keys[b] = key;
    const Index index = indices[a];
    indices[a] = indices[b];
    indices[b] = index;
  }

  Key* keys;
  Index* indices;
};

// Rows that a warp each sorts: up to this length in shared memory, longer ones in global memory, of
// which every warp needs `sort_scratch` entries. Warps take rows in turn, so that this is bounded.
constexpr int kSortedInShared = 512;

inline int64_t sort_blocks(int64_t rows, int64_t longest) {
  constexpr int64_t kMostBlocks = 4096;
  constexpr int64_t kMostEntries = 1 << 23;
  const int64_t fitting = longest <= kSortedInShared ? kMostBlocks : 1 + kMostEntries / longest;
  const int64_t most = fitting < kMostBlocks ? fitting : kMostBlocks;
  return rows < most ? rows : most;
}

inline int64_t sort_scratch(int64_t rows, int64_t longest) {
  return longest <= kSortedInShared ? 0 : sort_blocks(rows, longest) * longest;
}

// For one whole warp: the bin of 256 in which the k-th entry (k from 1) lies, and the entries below
// that bin. A lane looks at eight bins.
__device__ inline void find_bin(const unsigned long long* bins, unsigned long long k,
                                unsigned long long* chosen) {
  constexpr int kBins = 256 / kWarp;
  const int lane = threadIdx.x % kWarp;
  unsigned long long own = 0;
  for (int i = 0; i < kBins; ++i) own += bins[lane * kBins + i];
  unsigned long long upto = own;
  for (int lanes = 1; lanes < kWarp; lanes *= 2) {
    const unsigned long long other = __shfl_up_sync(kWholeWarp, upto, lanes);
    if (lane >= lanes) upto += other;
  }
  if (upto < k || upto - own >= k) return;
  unsigned long long below = upto - own;
  int bin = lane * kBins;
  while (below + bins[bin] < k) below += bins[bin++];
  chosen[0] = static_cast<unsigned long long>(bin);
  chosen[1] = below;
}

// The k-th smallest (k from 1) of the `count` keys that `key_at(i)` gives, digit by digit, for the
// whole block; `equal` gets how many of its equals belong to the k smallest. `bins` holds 256
// counters in shared memory. Counting does not depend on the order of the atomic additions.
template <typename Key, typename KeyAt>
__device__ Key kth_smallest(int bits, int64_t count, int64_t k, KeyAt key_at,
                            unsigned long long* bins, int64_t* equal) {
  __shared__ unsigned long long chosen[2];  // digit, entries below it
  Key prefix = 0;
  Key mask = 0;
  int64_t left = k;
  for (int shift = bits - 8; shift >= 0; shift -= 8) {
    for (int bin = threadIdx.x; bin < 256; bin += blockDim.x) bins[bin] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
      const Key key = key_at(i);
      if ((key & mask) == prefix) atomicAdd(&bins[key >> shift & 255], 1ull);
    }
    __syncthreads();
    if (threadIdx.x < kWarp) find_bin(bins, static_cast<unsigned long long>(left), chosen);
    __syncthreads();
    prefix |= static_cast<Key>(chosen[0]) << shift;
    mask |= static_cast<Key>(255) << shift;
    left -= static_cast<int64_t>(chosen[1]);
    __syncthreads();
  }
  *equal = left;
  return prefix;
}

// Place of this thread among the threads of the block whose flag is set, in order, and their
// number. `totals` holds one counter per warp in shared memory.
__device__ inline int place_in_block(bool flag, int* totals, int* sum) {
  const unsigned ballot = __ballot_sync(kWholeWarp, flag);
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  if (lane == 0) totals[warp] = __popc(ballot);
  __syncthreads();
  int before = 0;
  int all = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) {
    if (w < warp) before += totals[w];
    all += totals[w];
  }
  __syncthreads();
  *sum = all;
  return before + __popc(ballot & ((1u << lane) - 1));
}

}  // namespace vireid_fast
