#include "rerank_kernels.h"

#if VIREID_X86_DISPATCH
#include <immintrin.h>
#pragma GCC target("avx2,fma")
#define VIREID_VECTOR_BYTES 32
#include "rerank_registers.inc.h"

namespace vireid_fast {
namespace {

constexpr int kTileRows = 6;  // 6 x 2 sums, 2 columns and 1 broadcast of 16 registers

inline Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Doubles fused(Doubles a, Doubles b, Doubles c) { return _mm256_fmadd_pd(a, b, c); }

}  // namespace
}  // namespace vireid_fast

#define VIREID_TABLE kRerankAvx2
#include "rerank_kernels.inc.h"
#endif
