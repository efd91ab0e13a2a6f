// Functions that exist once per instruction set, chosen at run time.
//
// Every entry gives the same bits on every instruction set: 64-byte groups of lanes, one fixed
// order of reduction and no fused multiply-add (-ffp-contract=off).
#pragma once

#include <cstdint>

#include "../isa.h"

namespace vireid_fast {

enum class Product : int { kSquaredDifference = 0, kDot = 1 };

// out[r * out_stride + c] = sum_d (x[r, d] - y[c, d])^2, or sum_d x[r, d] * y[c, d].
// x is (rows, width) and y is (cols, width), both row-major without gaps. The value of a pair
// depends on its two rows alone, not on its place in the tile, nor on the tile's size.
template <typename T>
using DistanceTile = void (*)(Product product, const T* x, int64_t rows, const T* y, int64_t cols,
                              int64_t width, T* out, int64_t out_stride);

struct Kernels {
  DistanceTile<float> distance_tile_f32;
  DistanceTile<double> distance_tile_f64;

  template <typename T>
  DistanceTile<T> distance_tile() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return distance_tile_f32;
    } else {
      return distance_tile_f64;
    }
  }
};

// One table per translation unit kernels_<set>.cpp.
extern const Kernels kKernelsBaseline;
#if VIREID_X86_DISPATCH
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsAvx512;
#endif

// The table in use: the widest set that the machine has and the limit allows.
const Kernels& kernels();
InstructionSet instruction_set();

// Keeps kernels() at or below `set`, for tests of the narrower branches.
void limit_instruction_set(InstructionSet set);

}  // namespace vireid_fast
