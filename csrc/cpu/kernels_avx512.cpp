#include "kernels.h"

#if VIREID_X86_DISPATCH
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#define VIREID_VECTOR_BYTES 64
#define VIREID_TILE_ROWS 4
#define VIREID_TILE_COLS 4
#define VIREID_TABLE kKernelsAvx512
#include "kernels.inc.h"
#endif
