#include "attention_kernels.h"
#include "kernels.h"

#if VIREID_X86_DISPATCH
#include <immintrin.h>
#pragma GCC target("avx2,fma")

#define VIREID_VECTOR_BYTES 32

namespace vireid_fast {
namespace {

constexpr int kLanes = VIREID_VECTOR_BYTES / sizeof(float);
constexpr int kMaxRows = 6;  // 6 x 2 sums, 2 columns and 1 broadcast of 16 registers
typedef float Vector __attribute__((vector_size(kLanes * 4)));

inline Vector fused(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }

// a0 b0 a1 b1 ... of the lower and of the upper halves.
inline void interleave(Vector a, Vector b, Vector& low, Vector& high) {
  const __m256 even = _mm256_unpacklo_ps(a, b);
  const __m256 odd = _mm256_unpackhi_ps(a, b);
  low = _mm256_permute2f128_ps(even, odd, 0x20);
  high = _mm256_permute2f128_ps(even, odd, 0x31);
}

}  // namespace
}  // namespace vireid_fast

#define VIREID_TABLE kAttentionAvx2
#include "attention_kernels.inc.h"
#endif
