#include "attention_kernels.h"
#include "kernels.h"

#if VIREID_X86_DISPATCH
#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")

#define VIREID_VECTOR_BYTES 64

namespace vireid_fast {
namespace {

constexpr int kLanes = VIREID_VECTOR_BYTES / sizeof(float);
constexpr int kMaxRows = 14;  // 14 x 2 sums, 2 columns and 1 broadcast of 32 registers
typedef float Vector __attribute__((vector_size(kLanes * 4)));

inline Vector fused(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }

// a0 b0 a1 b1 ... of the lower and of the upper halves.
inline void interleave(Vector a, Vector b, Vector& low, Vector& high) {
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  low = _mm512_permutex2var_ps(a, first, b);
  high = _mm512_permutex2var_ps(a, second, b);
}

}  // namespace
}  // namespace vireid_fast

#define VIREID_TABLE kAttentionAvx512
#include "attention_kernels.inc.h"
#endif
