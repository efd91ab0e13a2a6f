// The neighbour search of knn.cu, for other bindings.
#pragma once

#include "binding.h"

namespace vireid_fast {

// distances and indices (Q, k), farthest (Q).
struct NeighbourTensors {
  Tensor distances;
  Tensor indices;
  Tensor farthest;
};

// Contiguous, checked input; 1 <= k <= rows of the database.
NeighbourTensors search_neighbours(const OnDevice& device, const Tensor& query,
                                 const Tensor& database, int64_t k);

}  // namespace vireid_fast
