#include "attention_kernels.h"
#include "kernels.h"

#define VIREID_VECTOR_BYTES 16

namespace vireid_fast {
namespace {

constexpr int kLanes = VIREID_VECTOR_BYTES / sizeof(float);
constexpr int kMaxRows = 4;  // 4 x 2 sums, 2 columns, 1 broadcast and the products of 16 registers
typedef float Vector __attribute__((vector_size(kLanes * 4)));

inline Vector fused(Vector a, Vector b, Vector c) { return a * b + c; }

// a0 b0 a1 b1 ... of the lower and of the upper halves.
inline void interleave(Vector a, Vector b, Vector& low, Vector& high) {
  low = Vector{a[0], b[0], a[1], b[1]};
  high = Vector{a[2], b[2], a[3], b[3]};
}

}  // namespace
}  // namespace vireid_fast

#define VIREID_TABLE kAttentionBaseline
#include "attention_kernels.inc.h"
