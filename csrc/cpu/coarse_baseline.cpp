#include "coarse_kernels.h"

namespace vireid_fast {
namespace {

constexpr int kLanes = 4;
constexpr int kTileRows = 4;
constexpr int kTileVectors = 2;  // 4 x 2 sums, 2 columns and 1 broadcast of 16 registers
typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef int32_t Integers __attribute__((vector_size(kLanes * 4)));

inline Vector fused(Vector a, Vector b, Vector c) { return a * b + c; }

inline Vector square_root(Vector values) {
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = __builtin_sqrtf(values[lane]);
  return values;
}

// Bit i: whether lane i is set.
inline uint32_t lanes_of(Integers mask) {
  uint32_t lanes = 0;
  for (int lane = 0; lane < kLanes; ++lane) lanes |= (mask[lane] & 1u) << lane;
  return lanes;
}

}  // namespace
}  // namespace vireid_fast

#define VIREID_TABLE kCoarseBaseline
#include "coarse_kernels.inc.h"
