#include "coarse_kernels.h"

#if VIREID_X86_DISPATCH
#include <immintrin.h>
#pragma GCC target("avx2,fma")

namespace vireid_fast {
namespace {

constexpr int kLanes = 8;
constexpr int kTileRows = 6;
constexpr int kTileVectors = 2;  // 6 x 2 sums, 2 columns and 1 broadcast of 16 registers
typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef int32_t Integers __attribute__((vector_size(kLanes * 4)));

inline Vector fused(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector square_root(Vector values) { return _mm256_sqrt_ps(values); }

// Bit i: whether lane i is set.
inline uint32_t lanes_of(Integers mask) {
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
}

}  // namespace
}  // namespace vireid_fast

#define VIREID_TABLE kCoarseAvx2
#include "coarse_kernels.inc.h"
#endif
