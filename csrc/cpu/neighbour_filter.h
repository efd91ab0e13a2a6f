// Exact k nearest neighbours through coarse products: what may belong into a list is found by
// cheap, inexact distances with a proven error, and only that is measured.
//
// The proof. Let m be any point, v = x - m, and c a coarse copy of v with |v - c| <= radius. Then
// the true distance of two items differs from that of their coarse copies by at most the sum of
// their radii (triangle inequality). Three roundings remain, each covered with room to spare:
//   - radius is enlarged by the rounding of the subtractions and sums that it comes from
//     (CoarseItems::describe);
//   - squared coarse distances |a|^2 + |b|^2 - 2 a.b are float32: they err by less than
//     slack (|a|^2 + |b|^2) + 2^-100, slack = 2^-18, plus 2 (width + 16) 2^-23 where the dot product
//     itself is a float32 sum of `width` terms in any order. Dot products of integers are exact:
//     those of 8 bits fit int32, and 16-bit codes are as long as keeps theirs within it;
//   - the measured distance, a float32 sum of squared differences, errs by less than
//     (width + 64) 2^-23 of itself, plus 2^-100.
// So nothing that a list needs is ever left out, whatever the data; how much else is measured
// decides the time only, and lists, being ordered by (measured distance, index), have the same bits
// whichever products, tiles and threads found them.
#pragma once

#include <cstdint>

#include "coarse_items.h"

namespace vireid_fast {

struct NeighbourSearch {
  const float* query;
  int64_t num_query;
  const float* database;
  int64_t num_items;
  int64_t width;
  int64_t k;  // 1 <= k <= num_items

  // Then each pair is looked at once.
  bool mutual() const { return query == database && num_query == num_items; }
};

// Arrays of the caller: (num_query, k), (num_query, k) and (num_query,).
struct NeighbourOutput {
  float* distances;
  int64_t* indices;
  float* farthest;
};

// How a search goes about it; results do not depend on it.
enum class SearchPlan : int {
  kAutomatic = 0, kMeasureAll = 1, kFloat = 2, kInt16 = 3, kInt8 = 4
};

inline constexpr const char* kSearchPlanNames[] = {"automatic", "measure_all", "float32", "int16",
                                                    "int8"};
inline constexpr int kSearchPlanCount = 5;

// Fixes the plan of every search, for tests and benchmarks. The integers stand for kFloat where
// the machine has no products of them, and all for kMeasureAll where the proof does not hold.
void set_search_plan(SearchPlan plan);

// False where every pair is to be measured, and then nothing is written. Otherwise coarse products
// filter. The rule: at least 640 items (1025 if query and database are one), 32 queries and 32
// features, k at most an eighth of the items, and values whose squares stay far from the ends of the
// float32 range. The products are float32, or of 16-bit integers where the machine multiplies such,
// or of 8-bit ones where there are 16384 queries and a sample of 48 of them leaves fewer pairs to
// measure than these faster products are worth.
bool filtered_neighbours(const NeighbourSearch& search, const NeighbourOutput& out);

}  // namespace vireid_fast
