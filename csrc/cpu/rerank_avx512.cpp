#include "rerank_kernels.h"

#if VIREID_X86_DISPATCH
#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#define VIREID_VECTOR_BYTES 64
#include "rerank_registers.inc.h"

namespace vireid_fast {
namespace {

constexpr int kTileRows = 12;  // 12 x 2 sums, 2 columns and 1 broadcast of 32 registers

inline Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Doubles fused(Doubles a, Doubles b, Doubles c) { return _mm512_fmadd_pd(a, b, c); }

}  // namespace
}  // namespace vireid_fast

#define VIREID_TABLE kRerankAvx512
#include "rerank_kernels.inc.h"
#endif
