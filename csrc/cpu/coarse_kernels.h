// Coarse dot products and the test of their tiles, chosen at run time by instruction set.
//
// Unlike kernels.h, the sets may differ by rounding here: whatever a coarse tile holds only decides
// which pairs are measured exactly, within the error that neighbour_filter.h proves.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace vireid_fast {

inline constexpr int64_t kCoarsePanel = 64;  // columns of a packed panel
inline constexpr int64_t kCoarseBytes = 4;   // of a group of integers that one lane multiplies

// Rounding of a few float32 operations, and squares too small for relative bounds.
inline constexpr float kCoarseUp = 1.0f + 0x1p-21f;
inline constexpr float kCoarseDown = 1.0f - 0x1p-21f;
inline constexpr float kCoarseTiny = 0x1p-100f;

// What the test of a tile knows of each of its columns; arrays of the tile's columns.
struct CoarseColumns {
  const float* scale;       // coarse value = 2 * row scale * column scale * product
  const float* low;         // squared norm, less its slack; NaN hides a column
  const float* high;        // squared norm and its slack; NaN hides a column
  const float* radius;      // distance of the coarse item from the true one, at most
  const float* near;        // distance beyond which nothing enters the column's own list
  const float* far;         // distance below which nothing is the column's own farthest
};

struct CoarseRow {
  float scale, low, high, radius, near, far;  // as above, `scale` doubled
  float measured_down, measured_up;           // as in CoarseItems
};

// A pair that may belong into a list: its measured squared distance lies in [least, most].
struct CoarseHit {
  int32_t column;
  int32_t lists;  // bits below
  float least, most;
};

enum CoarseList : int32_t { kRowNear = 1, kRowFar = 2, kColumnNear = 4, kColumnFar = 8 };

struct CoarseKernels {
  // products[r * stride + c] = sum_d rows[r, d] * columns[c, d]. `rows` is (rows, width), and
  // `panels` holds the columns in panels of kCoarsePanel: float [d][column], or integers in groups
  // of kCoarseBytes, [group][column][d in the group]. Integer widths are whole groups.
  void (*float_tile)(const float* rows, int64_t count, int64_t width, const float* panels,
                     int64_t num_panels, float* products, int64_t stride);
  // The panels hold int8 + 128 as uint8; `corrections`[r], 128 times the sum of the row, takes the
  // offset off again. Null where the set has no dot products of integers, as int16_tile.
  void (*int8_tile)(const int8_t* rows, const int32_t* corrections, int64_t count, int64_t width,
                    const uint8_t* panels, int64_t num_panels, int32_t* products, int64_t stride);
  // Modulo 2^32: right where the result fits, whatever the sum passes on its way.
  void (*int16_tile)(const int16_t* rows, int64_t count, int64_t width, const int16_t* panels,
                     int64_t num_panels, int32_t* products, int64_t stride);
  // Writes the hits of one row of products, `count` a multiple of kCoarsePanel, and returns their
  // number. `mutual`: the columns have lists as well.
  int64_t (*float_scan)(const float* products, int64_t count, const CoarseRow& row,
                        const CoarseColumns& columns, bool mutual, CoarseHit* hits);
  int64_t (*integer_scan)(const int32_t* products, int64_t count, const CoarseRow& row,
                       const CoarseColumns& columns, bool mutual, CoarseHit* hits);
};

// One table per translation unit coarse_<set>.cpp.
extern const CoarseKernels kCoarseBaseline;
#if VIREID_X86_DISPATCH
extern const CoarseKernels kCoarseAvx2;
extern const CoarseKernels kCoarseAvx512;
extern const CoarseKernels kCoarseAvx512Vnni;
#endif

// The table in use: that of kernels(), with 8-bit products where the machine has them.
const CoarseKernels& coarse_kernels();

}  // namespace vireid_fast
