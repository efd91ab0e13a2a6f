// Coarse copies of items, and what the proof in neighbour_filter.h needs to know of them.
#pragma once

#include <cstdint>
#include <vector>

#include "coarse_kernels.h"

namespace vireid_fast {

enum class CoarseProducts : int { kFloat = 0, kInt16 = 1, kInt8 = 2 };

// Items per coarse tile, a multiple of the panels and of the rows of a register tile.
inline constexpr int64_t kCoarseBlock = 192;

// Items per panel block, rounded up to whole panels.
inline int64_t padded_to_panels(int64_t count) {
  return (count + kCoarsePanel - 1) / kCoarsePanel * kCoarsePanel;
}

// The point that is subtracted from every item: a mean of some of them. Any point is right; items
// near it have short vectors, and short vectors have small errors.
std::vector<float> centre_of(const float* items, int64_t count, int64_t width);

class CoarseItems {
 public:
  // `items` (count, width) and `centre` must stay alive.
  CoarseItems(const float* items, int64_t count, int64_t width, const std::vector<float>& centre,
              CoarseProducts products);

  // kFloat: the centred rows [first, first + rows) after each other.
  void copy_rows(int64_t first, int64_t rows, float* target) const;

  // The items [first, first + rows) in panels, as the tile functions take them.
  void pack_panels(int64_t first, int64_t rows, float* panels) const;
  void pack_panels(int64_t first, int64_t rows, int16_t* panels) const;
  void pack_panels(int64_t first, int64_t rows, uint8_t* panels) const;

  const std::vector<float>& centre() const { return centre_; }
  const int8_t* int8_codes(int64_t item) const { return int8_codes_.data() + item * code_width; }
  const int16_t* int16_codes(int64_t item) const { return int16_codes_.data() + item * code_width; }

  CoarseProducts products;
  int64_t count, width;
  int64_t code_width;  // width, in whole groups
  float measured_up, measured_down;  // a measured distance lies between these times the true one
  std::vector<float> scale, low, high, radius;  // as in CoarseColumns, padded by one block
  std::vector<int32_t> corrections;  // kInt8: as int8_tile takes them

 private:
  void describe(int64_t item, float item_scale, double squared_norm, double error);
  template <typename Code>
  void encode(int64_t item, float step, float* centred, Code* codes);

  const float* items_;
  const std::vector<float>& centre_;
  double slack_;
  std::vector<int8_t> int8_codes_;
  std::vector<int16_t> int16_codes_;
};

}  // namespace vireid_fast
