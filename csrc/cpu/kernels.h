// Functions that exist once per instruction set, chosen at run time.
//
// Every entry gives the same bits on every instruction set: 64-byte groups of lanes, one fixed
// order of reduction and no fused multiply-add (-ffp-contract=off).
#pragma once

#include <cstdint>

#include "../isa.h"
#include "rows.h"

namespace vireid_fast {

enum class Product : int { kSquaredDifference = 0, kDot = 1 };

// out[r * out_stride + c] = sum_d (x[r, d] - y[c, d])^2, or sum_d x[r, d] * y[c, d].
// x is (rows, width) and y is (cols, width), both row-major without gaps. The value of a pair
// depends on its two rows alone, not on its place in the tile, nor on the tile's size.
template <typename T>
using DistanceTile = void (*)(Product product, const T* x, int64_t rows, const T* y, int64_t cols,
                              int64_t width, T* out, int64_t out_stride);

// out[i] = distance_tile's squared difference of x and of row rows[i] of y, in every bit.
using DistanceGather = void (*)(const float* x, const float* y, const int32_t* rows, int64_t count,
                                int64_t width, float* out);

// out = the rows added in their order: in float64 if out is float64 (all rows are then), else in
// float32. No rows give zeros. Every row has `width` elements without gaps.
using SumRows = void (*)(const Row* rows, int64_t count, int64_t width, OutRow out);

// out = (row - mean) * rstd * weight + bias. `row` and `out` have room for the width rounded up to
// 64 bytes, and the padding of `row` is overwritten.
template <typename S>
using NormalizeRow = void (*)(const NormRow<S>& norm, S* row, S* out, S* mean, S* rstd);

// Adds to grad_row, grad_weight and grad_bias what `grad`, the gradient of normalize_row's output,
// gives. Rows are padded as there, `row` by any finite value and `grad` by zeros.
template <typename S>
using NormalizeRowBwd = void (*)(const NormRow<S>& norm, const S* row, const S* grad, S mean,
                                 S rstd, S* grad_row, S* grad_weight, S* grad_bias);

// counts[b] += #{i : values[i] < bounds[b]}, or <= with `or_equal`. NaN is never counted.
template <typename T>
using CountBelow = void (*)(const T* values, int64_t count, const T* bounds, int64_t num_bounds,
                            bool or_equal, int64_t* counts);

// Writes the ascending i with values[i] <= bound and returns how many there are. count < 2^31.
template <typename T>
using FindAtMost = int64_t (*)(const T* values, int64_t count, T bound, int32_t* places);

// The same for lowest <= values[i] <= highest.
template <typename T>
using FindBetween = int64_t (*)(const T* values, int64_t count, T lowest, T highest,
                                int32_t* places);

template <typename T>
using HasNan = bool (*)(const T* values, int64_t count);

// Counting for one type of values.
template <typename T>
struct Counting {
  CountBelow<T> count_below;
  FindAtMost<T> find_at_most;
  FindBetween<T> find_between;
  HasNan<T> has_nan;
};

struct Kernels {
  DistanceTile<float> distance_tile_f32;
  DistanceTile<double> distance_tile_f64;
  DistanceGather distance_gather;
  SumRows sum_rows;
  NormalizeRow<float> normalize_row_f32;
  NormalizeRow<double> normalize_row_f64;
  NormalizeRowBwd<float> normalize_row_bwd_f32;
  NormalizeRowBwd<double> normalize_row_bwd_f64;
  Counting<float> counting_f32;
  Counting<double> counting_f64;

  template <typename T>
  DistanceTile<T> distance_tile() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return distance_tile_f32;
    } else {
      return distance_tile_f64;
    }
  }

  template <typename T>
  const Counting<T>& counting() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return counting_f32;
    } else {
      return counting_f64;
    }
  }

  template <typename S>
  NormalizeRow<S> normalize_row() const {
    if constexpr (sizeof(S) == sizeof(float)) {
      return normalize_row_f32;
    } else {
      return normalize_row_f64;
    }
  }

  template <typename S>
  NormalizeRowBwd<S> normalize_row_bwd() const {
    if constexpr (sizeof(S) == sizeof(float)) {
      return normalize_row_bwd_f32;
    } else {
      return normalize_row_bwd_f64;
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
