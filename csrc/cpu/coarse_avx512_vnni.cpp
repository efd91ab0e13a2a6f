#include "coarse_kernels.h"

#if VIREID_X86_DISPATCH
#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,prefer-vector-width=512")

#include "coarse_avx512.inc.h"

namespace vireid_fast {
namespace {

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
