// Set logic of the k-reciprocal encoding (Zhong et al., CVPR 2017) on raw pointers, the same on the
// CPU and in CUDA kernels: one thread makes one row. No torch, no allocation; what a function
// writes is bounded by its arguments. `Index` is a signed integer that holds every item's id.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define VIREID_HOST_DEVICE __host__ __device__
#else
#define VIREID_HOST_DEVICE
#endif

namespace vireid_fast {

// Length of the half lists: numpy's around(k1 / 2), half to even, and the item itself.
VIREID_HOST_DEVICE inline int64_t half_list_length(int64_t k1) {
  return k1 / 2 + (k1 % 4 == 3 ? 1 : 0) + 1;
}

// Lists of neighbours, nearest first. Row i stands at values + i * stride.
template <typename Index>
struct NeighbourLists {
  VIREID_HOST_DEVICE const Index* row(int64_t item) const { return values + item * stride; }

  const Index* values;
  int64_t stride;
};

// Whether `wanted` is among the first `length` entries. Lists are short and their order is not
// that of the ids: looking at all of them without a branch is what vectorises.
template <typename Index>
VIREID_HOST_DEVICE inline bool list_holds(const Index* list, int64_t length, Index wanted) {
  int found = 0;
  for (int64_t a = 0; a < length; ++a) found |= list[a] == wanted;
  return found != 0;
}

// Items that stand in each other's first `length` entries, in list order. `out` has room for
// `length`; returns their number.
template <typename Index>
VIREID_HOST_DEVICE inline int64_t mutual_neighbours(const NeighbourLists<Index>& lists, Index item,
                                                    int64_t length, Index* out) {
  const Index* list = lists.row(item);
  int64_t count = 0;
  for (int64_t a = 0; a < length; ++a) {
    const Index other = list[a];
    // Written at once and kept only if mutual: no branch to predict.
    out[count] = other;
    count += list_holds(lists.row(other), length, item);
  }
  return count;
}

// Whether a half set of `size` items joins R of which it shares `common`: more than two thirds, in
// integers what the published code asks in floats.
VIREID_HOST_DEVICE inline bool half_set_joins(int64_t common, int64_t size) {
  return 3 * common > 2 * size;
}

// Room that an expanded set needs: R and one half set for each of its members.
VIREID_HOST_DEVICE inline int64_t expanded_set_bound(int64_t full, int64_t half,
                                                     int64_t num_items) {
  const int64_t joining = full * half;
  return full + (joining < num_items ? joining : num_items);
}

// The mutual neighbours within the half lists, one row of `stride` for each item.
template <typename Index>
struct HalfSets {
  VIREID_HOST_DEVICE const Index* row(int64_t item) const { return values + item * stride; }

  const Index* values;
  const Index* counts;
  int64_t stride;
};

// Expands R = out[0 .. count) of one item by the half sets of its members. `members` answers
// `original(x)`, whether x is in R, and `add(x)`, whether x was in neither R nor the set so far (it
// then is). `out` has room for expanded_set_bound entries; returns how many there are, R first and
// what joined behind it, in no order.
template <typename Index, typename Members>
VIREID_HOST_DEVICE inline int64_t expand_set(const HalfSets<Index>& half_sets, Index* out,
                                             int64_t count, Members& members) {
  int64_t total = count;
  for (int64_t c = 0; c < count; ++c) {
    const Index* joining = half_sets.row(out[c]);
    const int64_t size = half_sets.counts[out[c]];
    int64_t common = 0;
    for (int64_t h = 0; h < size; ++h) common += members.original(joining[h]);
    if (!half_set_joins(common, size)) continue;
    for (int64_t h = 0; h < size; ++h) {
      if (members.add(joining[h])) out[total++] = joining[h];
    }
  }
  return total;
}

// Members of a set that is small enough to be searched: for threads without a table of all items.
template <typename Index>
struct SearchedMembers {
  VIREID_HOST_DEVICE bool original(Index item) const { return list_holds(values, count, item); }

  VIREID_HOST_DEVICE bool add(Index item) {
    if (list_holds(values, total, item)) return false;
    ++total;  // expand_set appends the item right behind
    return true;
  }

  const Index* values;  // the `out` of expand_set
  int64_t count;        // entries of R
  int64_t total;        // entries so far, at first `count`
};

// Sorts a short row of distinct values, mostly in order already.
template <typename Index>
VIREID_HOST_DEVICE inline void sort_ascending(Index* values, int64_t count) {
  for (int64_t i = 1; i < count; ++i) {
    const Index value = values[i];
    int64_t at = i;
    for (; at > 0 && values[at - 1] > value; --at) values[at] = values[at - 1];
    values[at] = value;
  }
}

// The smaller weight; NaN if either is, as numpy's minimum.
template <typename T>
VIREID_HOST_DEVICE inline T smaller_weight(T a, T b) {
  return a < b || a != a ? a : b;
}

// Jaccard distance of two rows that sum to 1 each, from the sum m of their minima: the maxima then
// sum to 2 - m. Rows that sum to 1 only up to rounding could fall below 0 by as much; NaN stays.
template <typename T>
VIREID_HOST_DEVICE inline T jaccard_of_overlap(T overlap) {
  const T distance = T(1) - overlap / (T(2) - overlap);
  return distance < T(0) ? T(0) : distance;
}

}  // namespace vireid_fast
