#include "kernels.h"

#if VIREID_X86_DISPATCH
#pragma GCC target("avx2")
#define VIREID_VECTOR_BYTES 32
#define VIREID_TILE_ROWS 2
#define VIREID_TILE_COLS 2
#define VIREID_TABLE kKernelsAvx2
#include "kernels.inc.h"
#endif
