// The bound that lets a coarse product in bfloat16 decide which distances need not be computed.
//
// For centred rows u, v and their bfloat16 copies u^, v^, with real numbers throughout,
//   |u . v - u^ . v^| = |(u - u^) . v + u^ . (v - v^)| <= |u - u^| |v| + |u^| |v - v^|,
// and the tensor core adds at most kSumSlack per element of the width, relative to |u^| |v^|, by
// its own rounding. Half the squared distance is h = |u|^2 / 2 + |v|^2 / 2 - u . v, so it lies
// within `margin` of what the coarse product gives for it. All norms are taken in float64 and
// rounded up. No CUDA here: the CPU's tests use the same functions.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define VIREID_COARSE_DEVICE __host__ __device__
#else
#define VIREID_COARSE_DEVICE
#endif

namespace vireid_fast {
namespace coarse {

// Tensor cores align the products of a step to the largest addend and cut them off below 2^-23 of
// it, sixteen or, on sm_80, eight at a time, with the sum so far as one more addend (Fasi et al.,
// 2021, "Numerical behavior of NVIDIA tensor cores"). That is at most 10 / 8 units per element of
// the width, as no partial sum exceeds |u^| |v^|; two are allowed for.
constexpr double kSumSlack = 1.0 / (1 << 22);
constexpr int kSumSteps = 32;  // elements' worth of slack on top, for the last step and the tail
// Products below the normal range of float32 may be lost.
constexpr double kTiny = 1.1754943508222875e-38;  // 2^-126
// The epilogue compares in float32: a handful of roundings of at most 2^-24 each, relative to the
// sum of the addends' magnitudes.
constexpr double kCompareSlack = 1.0 / (1 << 20);
constexpr double kUp = 1.0 + 1.0 / (1ull << 40);  // makes up for rounding in float64

// What the bound needs of one row.
struct RowNorms {
  double half_square;  // |u|^2 / 2
  float norm;          // |u|, rounded up
  float residual;      // |u - u^|, rounded up
  float coarse_norm;   // |u^|, rounded up
  float weighted;      // residual + the sum's slack times coarse_norm, rounded up
};

// The float at or above a value, or at or below it. The value may be infinite or NaN.
VIREID_COARSE_DEVICE inline float rounded_up(double value) {
  const float nearest = static_cast<float>(value);
  return static_cast<double>(nearest) < value ? nextafterf(nearest, INFINITY) : nearest;
}

VIREID_COARSE_DEVICE inline float rounded_down(double value) { return -rounded_up(-value); }

VIREID_COARSE_DEVICE inline RowNorms norms_of(double square, double coarse_square,
                                              double residual_square, int64_t width) {
  RowNorms norms;
  // Where products could overflow, NaN keeps every pair of the row.
  constexpr double kLargestSquare = 1e36;
  if (!(square < kLargestSquare)) square = coarse_square = residual_square = NAN;
  norms.half_square = square / 2;
  norms.norm = rounded_up(std::sqrt(square) * kUp);
  norms.residual = rounded_up(std::sqrt(residual_square) * kUp);
  norms.coarse_norm = rounded_up(std::sqrt(coarse_square) * kUp);
  const double slack = kSumSlack * static_cast<double>(width + kSumSteps);
  norms.weighted = rounded_up(norms.residual + slack * norms.coarse_norm + kTiny);
  return norms;
}

// Half the squared distance of two rows lies within this of its coarse value.
VIREID_COARSE_DEVICE inline double margin(const RowNorms& x, const RowNorms& y, int64_t width) {
  const double products = static_cast<double>(x.residual) * y.norm +
                          static_cast<double>(x.coarse_norm) * y.weighted;
  const double rounding = (x.half_square + y.half_square) * (kUp - 1);
  return products * kUp + rounding + kTiny * static_cast<double>(width);
}

VIREID_COARSE_DEVICE inline double coarse_half(const RowNorms& x, const RowNorms& y, float dot) {
  return x.half_square + y.half_square - static_cast<double>(dot);
}

// Float32 distances differ from real ones by (D / 16 + 8) roundings of 2^-24 each, and by what is
// lost below the normal range. If half of some distance is at most `half` in real numbers, the real
// halves of all distances that are not larger in float32 are at most this.
VIREID_COARSE_DEVICE inline double reach_of_nearest(double half, int64_t width) {
  constexpr double kLargest = 3.4028234663852886e38;
  const double rounding = (static_cast<double>(width) / 16 + 12) / (1 << 24);
  const double reach = half * (1 + 3 * rounding) + kTiny * static_cast<double>(width) / (1 << 14);
  // Distances that overflow are all equal.
  return 2 * reach * (1 + rounding) < kLargest ? reach : 1e300;
}

// Likewise at the other end: real halves of all distances that are not smaller in float32.
VIREID_COARSE_DEVICE inline double reach_of_farthest(double half, int64_t width) {
  const double rounding = (static_cast<double>(width) / 16 + 12) / (1 << 24);
  return half * (1 - 3 * rounding) - kTiny * static_cast<double>(width) / (1 << 14);
}

}  // namespace coarse
}  // namespace vireid_fast
