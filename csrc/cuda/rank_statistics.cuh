// Rank statistics on the GPU by counting: the correct items of a query are sorted, every kept item
// finds its place among them, and the sums of those counts are the ranks.
#pragma once

#include "sort.cuh"

namespace vireid_fast {
namespace ranks {

constexpr int kBlockSize = 256;
constexpr int kLargeBlock = 1024;
constexpr int64_t kFewQueries = 512;
constexpr int kSharedPositives = 512;  // more are sorted in global memory
constexpr int64_t kMostBlocks = 1024;

// Codes of `drop` in the raw ops; ops/rank_statistics/op.py holds the same list.
enum class Drop : int64_t { kNone = 0, kSameGroup = 1, kSameGroupAndId = 2 };

// Labels as in csrc/cpu/rank_counter.h; only what the counting reads.
struct Labels {
  const int64_t* query_identity;
  const int64_t* query_group;
  const int64_t* identity_of;
  const int64_t* identity_start;
  const int64_t* identity_items;
  const int64_t* group_of;
  int64_t num_identities;
  int64_t num_gallery;
  Drop drop;
};

struct Outputs {
  int64_t* first_rank;
  int64_t* first_identity_rank;
  double* average_precision;
  double* inverse_negative_penalty;
  int64_t* num_positives;  // -1 for a query with a distance that is NaN
};

// Raises the flag unless the lists of items may be read; takes the longest list's length.
static __global__ void __launch_bounds__(kBlockSize)
    check_labels_kernel(Labels labels, int64_t num_query, int* broken, int* longest) {
  for (int64_t i = thread_index(); i < labels.num_gallery; i += thread_count()) {
    const int64_t item = labels.identity_items[i];
    const int64_t identity = labels.identity_of[i];
    if (item < 0 || item >= labels.num_gallery || identity < 0 ||
        identity >= labels.num_identities) {
      *broken = 1;
    }
  }
  for (int64_t i = thread_index(); i < labels.num_identities; i += thread_count()) {
    const int64_t begin = labels.identity_start[i];
    const int64_t end = labels.identity_start[i + 1];
    if (begin < 0 || end < begin || end > labels.num_gallery) {
      *broken = 1;
    } else {
      atomicMax(longest, static_cast<int>(end - begin));
    }
  }
  for (int64_t q = thread_index(); q < num_query; q += thread_count()) {
    if (labels.query_identity[q] < -1 || labels.query_identity[q] >= labels.num_identities) {
      *broken = 1;
    }
  }
}

template <typename T>
struct Arguments {
  const T* distances;      // (num_query, width), of the queries from first_query on
  const int64_t* columns;  // column of each gallery item; absent if they are the same
  int64_t first_query;
  int64_t num_query;
  int64_t width;
  int64_t longest;         // most items of one identity
  typename Ordered<T>::Key* scratch_keys;
  int64_t* scratch_items;
  int* scratch_counts;
  unsigned* seen;          // a bit for each identity, for each block
  Outputs out;
};

template <typename Key>
struct Positives {
  // Place of the first positive behind (key, item).
  __device__ int64_t behind(Key key, int64_t item) const {
    int64_t begin = 0;
    int64_t end = count;
    while (begin < end) {
      const int64_t middle = begin + (end - begin) / 2;
      const bool before = entries.keys[middle] < key ||
                          (entries.keys[middle] == key && entries.indices[middle] <= item);
      if (before) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin;
  }

  KeyedIndices<Key, int64_t> entries;
  int64_t count;
};

__device__ inline void write_none(const Outputs& out, int64_t query, int64_t positives) {
  out.first_rank[query] = out.first_identity_rank[query] = -1;
  out.average_precision[query] = out.inverse_negative_penalty[query] = NAN;
  out.num_positives[query] = positives;
}

// counts[p]: kept items between the positives p - 1 and p.
__device__ inline void write_ranks(const Outputs& out, int64_t query, const int* counts,
                                   int64_t positives, int64_t identities) {
  int64_t rank = 0;
  double precision = 0;
  for (int64_t p = 0; p < positives; ++p) {
    rank += counts[p];
    if (p == 0) out.first_rank[query] = rank;
    precision += static_cast<double>(p + 1) / static_cast<double>(rank + 1);
  }
  const double hits = static_cast<double>(positives);
  out.first_identity_rank[query] = identities;
  out.average_precision[query] = precision / hits;
  out.inverse_negative_penalty[query] = hits / static_cast<double>(rank + 1);
  out.num_positives[query] = positives;
}

// One block per query, each taking queries in turn.
template <typename T>
__global__ void __launch_bounds__(kLargeBlock, 1)
    rank_statistics_kernel(Arguments<T> task, Labels labels) {
  using Key = typename Ordered<T>::Key;
  __shared__ Key shared_keys[kSharedPositives];
  __shared__ int64_t shared_items[kSharedPositives];
  __shared__ int shared_counts[kSharedPositives];
  __shared__ int totals[kLargeBlock / kWarp];
  __shared__ int has_nan;
  __shared__ int identities;
  const bool in_shared = task.longest <= kSharedPositives;
  const int64_t scratch = static_cast<int64_t>(blockIdx.x) * task.longest;
  int* counts = in_shared ? shared_counts : task.scratch_counts + scratch;
  const int64_t words = (labels.num_identities + 31) / 32;
  unsigned* seen = task.seen + static_cast<int64_t>(blockIdx.x) * words;
  for (int64_t i = blockIdx.x; i < task.num_query; i += gridDim.x) {
    const int64_t query = task.first_query + i;
    const int64_t identity = labels.query_identity[query];
    const int64_t group = labels.query_group[query];
    const T* row = task.distances + i * task.width;
    const auto key_of = [&](int64_t item) {
      return Ordered<T>::key(row[task.columns != nullptr ? task.columns[item] : item]);
    };
    if (threadIdx.x == 0) has_nan = identities = 0;
    for (int64_t w = threadIdx.x; w < words; w += blockDim.x) seen[w] = 0;
    // 1. The correct items that are kept, sorted.
    Positives<Key> positives = {{in_shared ? shared_keys : task.scratch_keys + scratch,
                                 in_shared ? shared_items : task.scratch_items + scratch},
                                0};
    const int64_t begin = identity < 0 ? 0 : labels.identity_start[identity];
    const int64_t end = identity < 0 ? 0 : labels.identity_start[identity + 1];
    for (int64_t first = begin; first < end; first += blockDim.x) {
      const int64_t at = first + threadIdx.x;
      const int64_t item = at < end ? labels.identity_items[at] : 0;
      const bool kept =
          at < end && (labels.drop == Drop::kNone || labels.group_of[item] != group);
      int sum = 0;
      const int64_t place = positives.count + place_in_block(kept, totals, &sum);
      if (kept) {
        positives.entries.keys[place] = key_of(item);
        positives.entries.indices[place] = item;
        counts[place] = 0;
      }
      positives.count += sum;
    }
    sort_entries<BlockGroup>(positives.entries, positives.count);
    // 2. Every kept item: its place, and its identity if it stands before the nearest correct one.
    for (int64_t item = threadIdx.x; item < labels.num_gallery; item += blockDim.x) {
      const Key key = key_of(item);
      if (key == Ordered<T>::kNan) has_nan = 1;
      if (positives.count == 0) continue;
      const bool same_group = labels.group_of[item] == group;
      if (labels.drop == Drop::kSameGroup && same_group) continue;
      if (labels.drop == Drop::kSameGroupAndId && same_group &&
          labels.identity_of[item] == identity) {
        continue;
      }
      if (key > positives.entries.keys[positives.count - 1]) continue;
      const int64_t place = positives.behind(key, item);
      if (place < positives.count) atomicAdd(&counts[place], 1);
      if (place == 0) {
        const int64_t its = labels.identity_of[item];
        const unsigned bit = 1u << (its % 32);
        if ((atomicOr(&seen[its / 32], bit) & bit) == 0) atomicAdd(&identities, 1);
      }
    }
    __syncthreads();
    // 3. Sums of the counts.
    if (threadIdx.x == 0) {
      if (has_nan != 0 || positives.count == 0) {
        write_none(task.out, query, has_nan != 0 ? -1 : 0);
      } else {
        write_ranks(task.out, query, counts, positives.count, identities);
      }
    }
    __syncthreads();
  }
}

}  // namespace ranks

inline int64_t rank_blocks(int64_t num_query, int64_t longest) {
  constexpr int64_t kMostEntries = 1 << 23;
  const int64_t fitting = longest <= ranks::kSharedPositives ? ranks::kMostBlocks
                                                             : 1 + kMostEntries / longest;
  const int64_t most = fitting < ranks::kMostBlocks ? fitting : ranks::kMostBlocks;
  return num_query < most ? num_query : most;
}

// Entries of scratch (keys, items, counts) of a launch.
inline int64_t rank_scratch(int64_t num_query, int64_t longest) {
  return longest <= ranks::kSharedPositives ? 0 : rank_blocks(num_query, longest) * longest;
}

// `longest` and `broken` (0 before) on the device.
inline cudaError_t launch_check_labels(const ranks::Labels& labels, int64_t num_query, int* broken,
                                       int* longest, cudaStream_t stream) {
  const int64_t most = labels.num_gallery > num_query ? labels.num_gallery : num_query;
  const int64_t blocks = ceil_div(most > 1 ? most : 1, ranks::kBlockSize);
  return launch(ranks::check_labels_kernel, blocks < ranks::kMostBlocks ? blocks
                                                                        : ranks::kMostBlocks,
                ranks::kBlockSize, 0, stream, labels, num_query, broken, longest);
}

template <typename T>
cudaError_t launch_rank_statistics(const ranks::Arguments<T>& task, const ranks::Labels& labels,
                                   cudaStream_t stream) {
  // Few queries get larger blocks, so that the GPU has enough to do.
  const int threads = task.num_query < ranks::kFewQueries ? ranks::kLargeBlock : ranks::kBlockSize;
  return launch(ranks::rank_statistics_kernel<T>, rank_blocks(task.num_query, task.longest),
                threads, 0, stream, task, labels);
}

}  // namespace vireid_fast
