#include "coarse_items.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace vireid_fast {
namespace {

constexpr int64_t kGrain = 64;       // rows per thread at least
constexpr int64_t kCentreRows = 1024;
constexpr int kParts = 8;            // independent sums, which the compiler keeps in registers

struct Sums {
  float squares = 0;
  float largest = 0;
};

// Sum of squares and largest magnitude of `count` values.
Sums sums_of(const float* values, int64_t count) {
  float squares[kParts] = {};
  float largest[kParts] = {};
  int64_t d = 0;
  for (; d + kParts <= count; d += kParts) {
    for (int i = 0; i < kParts; ++i) {
      const float value = values[d + i];
      const float magnitude = std::fabs(value);
      squares[i] += value * value;
      largest[i] = magnitude > largest[i] ? magnitude : largest[i];
    }
  }
  for (; d < count; ++d) {
    squares[0] += values[d] * values[d];
    largest[0] = std::max(largest[0], std::fabs(values[d]));
  }
  Sums total;
  for (int i = 0; i < kParts; ++i) {
    total.squares += squares[i];
    total.largest = std::max(total.largest, largest[i]);
  }
  return total;
}

constexpr float kLargestInt8 = 127.0f;
constexpr float kLargestInt16 = 32000.0f;
constexpr float kLongestInt16 = 46000.0f;  // below the square root of 2^31, rounding included

// Integers of one group; a float stands for itself.
int64_t group_of(CoarseProducts products) {
  if (products == CoarseProducts::kFloat) return 1;
  return kCoarseBytes / (products == CoarseProducts::kInt16 ? sizeof(int16_t) : sizeof(int8_t));
}

// Rows of `row_bytes` in panels of groups, each group changed by exclusive or with `flip`. Columns
// beyond the last row repeat it; the scan does not see them.
void pack_groups(const void* source, int64_t rows, int64_t row_bytes, uint32_t flip,
                 void* target) {
  constexpr int64_t kStep = 32 * kCoarseBytes;  // of a row at a time, for the first-level cache
  const char* items = static_cast<const char*>(source);
  char* panels = static_cast<char*>(target);
  for (int64_t p = 0; p < padded_to_panels(rows);
       p += kCoarsePanel, panels += kCoarsePanel * row_bytes) {
    for (int64_t begin = 0; begin < row_bytes; begin += kStep) {
      const int64_t end = std::min(row_bytes, begin + kStep);
      for (int64_t c = 0; c < kCoarsePanel; ++c) {
        const char* item = items + std::min(p + c, rows - 1) * row_bytes;
        for (int64_t d = begin; d < end; d += kCoarseBytes) {
          uint32_t group;
          __builtin_memcpy(&group, item + d, sizeof(group));
          group ^= flip;
          __builtin_memcpy(panels + d * kCoarsePanel + c * kCoarseBytes, &group, sizeof(group));
        }
      }
    }
  }
}

}  // namespace

std::vector<float> centre_of(const float* items, int64_t count, int64_t width) {
  const int64_t step = std::max<int64_t>(1, count / kCentreRows);
  std::vector<double> total(width);
  int64_t used = 0;
  for (int64_t item = 0; item < count; item += step, ++used) {
    for (int64_t d = 0; d < width; ++d) total[d] += items[item * width + d];
  }
  std::vector<float> centre(width);
  for (int64_t d = 0; d < width; ++d) centre[d] = static_cast<float>(total[d] / used);
  return centre;
}

CoarseItems::CoarseItems(const float* items, int64_t item_count, int64_t item_width,
                         const std::vector<float>& centre, CoarseProducts kind)
    : products(kind),
      count(item_count),
      width(item_width),
      code_width((item_width + group_of(kind) - 1) / group_of(kind) * group_of(kind)),
      items_(items),
      centre_(centre),
      slack_(0x1p-18 + (kind == CoarseProducts::kFloat ? (item_width + 32) * 0x1p-23 : 0.0)) {
  const double measuring = (width + 64) * 0x1p-23;
  measured_up = static_cast<float>(1 + measuring);
  measured_down = static_cast<float>(1 - measuring);
  const float hidden = std::numeric_limits<float>::quiet_NaN();
  scale.assign(count + kCoarseBlock, 0.0f);
  radius.assign(count + kCoarseBlock, 0.0f);
  low.assign(count + kCoarseBlock, hidden);
  high.assign(count + kCoarseBlock, hidden);
  if (kind == CoarseProducts::kInt8) int8_codes_.resize(count * code_width);
  if (kind == CoarseProducts::kInt8) corrections.resize(count);
  if (kind == CoarseProducts::kInt16) int16_codes_.resize(count * code_width);
  torch::stable::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> centred(width);
    for (int64_t item = begin; item < end; ++item) {
      copy_rows(item, 1, centred.data());
      const Sums sums = sums_of(centred.data(), width);
      if (products == CoarseProducts::kFloat) {
        describe(item, 1.0f, sums.squares, 0);
      } else if (products == CoarseProducts::kInt8) {
        encode(item, sums.largest / kLargestInt8, centred.data(), &int8_codes_[item * code_width]);
      } else {
        // The dot product of two such vectors of codes fits int32 by Cauchy and Schwarz.
        const float step = std::max(std::sqrt(sums.squares) * (1 + width * 0x1p-23f) / kLongestInt16,
                                    sums.largest / kLargestInt16);
        encode(item, step, centred.data(), &int16_codes_[item * code_width]);
      }
    }
  });
}

// `squared_norm` of the coarse item may err by its slack; `error` is its distance from the centred
// item as float32 arithmetic sees it.
void CoarseItems::describe(int64_t item, float item_scale, double squared_norm, double error) {
  // Sums of `width` float32 terms err by less than width 2^-24 of themselves, and subtracting the
  // centre, scaling and subtracting a code by less than 2^-22 of the vector.
  const double rounding = 1 + width * 0x1p-22;
  const double norm = std::sqrt(squared_norm) * rounding + error;
  scale[item] = item_scale;
  radius[item] = static_cast<float>(error * rounding * (1 + 1e-6) + norm * 0x1p-21 + 0x1p-80);
  const double slack = slack_ + (products == CoarseProducts::kFloat ? width * 0x1p-23 : 0.0);
  low[item] = static_cast<float>(squared_norm * (1 - slack) - 0x1p-100);
  high[item] = static_cast<float>(squared_norm * (1 + slack) + 0x1p-100);
}

// Codes are multiples of `step`. Leaves what they miss in `centred`.
template <typename Code>
void CoarseItems::encode(int64_t item, float step, float* centred, Code* codes) {
  constexpr float kRound = 12582912.0f;  // adding 1.5 * 2^23 leaves the nearest integer
  // A vector too short to be divided by its step is coded as zeros: its radius covers it.
  const float inverse = step > 0x1p-100f ? 1 / step : 0.0f;
  int64_t squares = 0;
  int32_t sum = 0;
  for (int64_t d = 0; d < width; ++d) {
    const float code = (centred[d] * inverse + kRound) - kRound;
    const int32_t value = static_cast<int32_t>(code);
    codes[d] = static_cast<Code>(value);
    squares += value * value;
    sum += value;
    centred[d] -= step * code;
  }
  std::fill(codes + width, codes + code_width, Code{0});
  if (sizeof(Code) == 1) corrections[item] = 128 * sum;
  const double norm = static_cast<double>(step) * step * static_cast<double>(squares);
  describe(item, step, norm, std::sqrt(sums_of(centred, width).squares));
}

void CoarseItems::copy_rows(int64_t first, int64_t rows, float* target) const {
  const float* centre = centre_.data();
  for (int64_t item = first; item < first + rows; ++item, target += width) {
    const float* source = items_ + item * width;
    for (int64_t d = 0; d < width; ++d) target[d] = source[d] - centre[d];
  }
}

// Panels are filled a few rows of them at a time, which stay in the first-level cache meanwhile.
void CoarseItems::pack_panels(int64_t first, int64_t rows, float* panels) const {
  constexpr int64_t kStep = 32;
  for (int64_t p = 0; p < padded_to_panels(rows); p += kCoarsePanel, panels += kCoarsePanel * width) {
    for (int64_t begin = 0; begin < width; begin += kStep) {
      const int64_t end = std::min(width, begin + kStep);
      for (int64_t c = 0; c < kCoarsePanel; ++c) {
        // Columns beyond the last item repeat it; the scan does not see them.
        const float* source = items_ + (first + std::min(p + c, rows - 1)) * width;
        for (int64_t d = begin; d < end; ++d) {
          panels[d * kCoarsePanel + c] = source[d] - centre_[d];
        }
      }
    }
  }
}

void CoarseItems::pack_panels(int64_t first, int64_t rows, int16_t* panels) const {
  pack_groups(int16_codes(first), rows, code_width * sizeof(int16_t), 0, panels);
}

void CoarseItems::pack_panels(int64_t first, int64_t rows, uint8_t* panels) const {
  pack_groups(int8_codes(first), rows, code_width, 0x80808080u, panels);  // + 128 in each byte
}

}  // namespace vireid_fast
