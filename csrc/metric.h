// Metric codes of the raw op pairwise_distance; ops/pairwise_distance/op.py holds the same list.
#pragma once

#include <cstdint>

namespace vireid_fast {

enum class Metric : int64_t { kEuclidean = 0, kSquaredEuclidean = 1, kNegativeDot = 2 };

inline bool is_metric(int64_t code) { return code >= 0 && code <= 2; }

}  // namespace vireid_fast
