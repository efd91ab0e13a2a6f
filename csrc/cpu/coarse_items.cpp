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
      code_width(kind == CoarseProducts::kInt8
                     ? (item_width + kCoarseGroup - 1) / kCoarseGroup * kCoarseGroup
                     : item_width),
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
  if (kind == CoarseProducts::kInt8) {
    codes_.resize(count * code_width);
    corrections.resize(count);
  }
  torch::stable::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> centred(width);
    for (int64_t item = begin; item < end; ++item) {
      copy_rows(item, 1, centred.data());
      if (products == CoarseProducts::kFloat) {
        describe(item, 1.0f, sums_of(centred.data(), width).squares, 0);
      } else {
        encode_int8(item, centred.data());
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

void CoarseItems::encode_int8(int64_t item, float* centred) {
  constexpr float kLargestCode = 127.0f;
  constexpr float kRound = 12582912.0f;  // adding 1.5 * 2^23 leaves the nearest integer
  const float largest = sums_of(centred, width).largest;
  const float item_scale = largest / kLargestCode;
  const float inverse = largest > 0 ? kLargestCode / largest : 0.0f;
  int8_t* codes = codes_.data() + item * code_width;
  int32_t squares = 0;
  int32_t sum = 0;
  for (int64_t d = 0; d < width; ++d) {
    const float code = (centred[d] * inverse + kRound) - kRound;
    const int32_t value = static_cast<int32_t>(code);
    codes[d] = static_cast<int8_t>(value);
    squares += value * value;
    sum += value;
    centred[d] -= item_scale * code;
  }
  std::fill(codes + width, codes + code_width, int8_t{0});
  corrections[item] = 128 * sum;
  const double norm = static_cast<double>(item_scale) * item_scale * squares;
  describe(item, item_scale, norm, std::sqrt(sums_of(centred, width).squares));
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

void CoarseItems::pack_panels(int64_t first, int64_t rows, uint8_t* panels) const {
  constexpr uint32_t kOffsets = 0x80808080u;  // + 128 in each byte
  constexpr int64_t kStep = 32 * kCoarseGroup;
  for (int64_t p = 0; p < padded_to_panels(rows);
       p += kCoarsePanel, panels += kCoarsePanel * code_width) {
    for (int64_t begin = 0; begin < code_width; begin += kStep) {
      const int64_t end = std::min(code_width, begin + kStep);
      for (int64_t c = 0; c < kCoarsePanel; ++c) {
        const int8_t* source = codes(first + std::min(p + c, rows - 1));
        for (int64_t d = begin; d < end; d += kCoarseGroup) {
          uint32_t bytes;
          __builtin_memcpy(&bytes, source + d, sizeof(bytes));
          bytes ^= kOffsets;
          __builtin_memcpy(panels + d * kCoarsePanel + c * kCoarseGroup, &bytes, sizeof(bytes));
        }
      }
    }
  }
}

}  // namespace vireid_fast
