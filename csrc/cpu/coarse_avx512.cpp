#include "coarse_kernels.h"

#if VIREID_X86_DISPATCH
#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#include "coarse_avx512.inc.h"

#define VIREID_TABLE kCoarseAvx512
#include "coarse_kernels.inc.h"
#endif
