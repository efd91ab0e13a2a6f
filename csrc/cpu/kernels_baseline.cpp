#include "kernels.h"

#define VIREID_VECTOR_BYTES 16
#define VIREID_TILE_ROWS 1
#define VIREID_TILE_COLS 2
#define VIREID_TABLE kKernelsBaseline
#include "kernels.inc.h"
