#include "coarse_kernels.h"

#if VIREID_X86_DISPATCH
#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,prefer-vector-width=512")

namespace vireid_fast {
namespace {

constexpr int kLanes = 16;
constexpr int kTileRows = 6;
constexpr int kTileVectors = 4;  // 6 x 4 sums, 4 columns and 1 broadcast of 32 registers
typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef int32_t Integers __attribute__((vector_size(kLanes * 4)));

inline Vector fused(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector square_root(Vector values) { return _mm512_sqrt_ps(values); }

// Bit i: whether lane i is set.
inline uint32_t lanes_of(Integers mask) {
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask));
}

// sums + the products of 4 unsigned and 4 signed bytes of each lane.
inline Integers dot_int8(Integers sums, Integers bytes, Integers signed_bytes) {
  return reinterpret_cast<Integers>(_mm512_dpbusd_epi32(
      reinterpret_cast<__m512i>(sums), reinterpret_cast<__m512i>(bytes),
      reinterpret_cast<__m512i>(signed_bytes)));
}

// sums + the products of 2 and 2 signed 16-bit integers of each lane.
inline Integers dot_int16(Integers sums, Integers a, Integers b) {
  return reinterpret_cast<Integers>(_mm512_dpwssd_epi32(reinterpret_cast<__m512i>(sums),
                                                        reinterpret_cast<__m512i>(a),
                                                        reinterpret_cast<__m512i>(b)));
}

}  // namespace
}  // namespace vireid_fast

#define VIREID_HAS_INTEGERS 1
#define VIREID_TABLE kCoarseAvx512Vnni
#include "coarse_kernels.inc.h"
#endif
