// Float64 distances of float32 features for counting ranks. A float32 tile decides almost every
// comparison; where it cannot, by a proven bound, the float64 distance is computed.
//
// With u = 2^-24 and n = ceil(D / 16) + 5 roundings on the way of each term (distance_tile adds in
// 16 lanes and then halves them four times; the product and, for differences, the difference and
// the square round too), the float32 sum differs from the true one by at most gamma(n) sum |x y|
// <= gamma(n) |x| |y|, gamma(n) = n u / (1 - n u) (Higham, Accuracy and Stability of Numerical
// Algorithms, 2002, section 3.1), and a sum of squares by gamma(n + 3) of itself; dividing a product
// by two lengths adds four roundings. Float64 adds a 2^-28 of that, underflow at most D 2^-125.
// Twice the bound is used.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "../metric.h"
#include "kernels.h"

namespace vireid_fast {

class FilteredDistances {
 public:
  static constexpr int64_t kTileCols = 512;

  // Codes of the metrics are those of Metric and 3: cosine, 1 - x y / (|x| |y|).
  static constexpr int64_t kCosine = 3;

  // `lengths` of the gallery's rows, in float64.
  FilteredDistances(int64_t metric, int64_t width, const double* lengths, int64_t num_gallery,
                    int64_t max_rows)
      : cosine_(metric == kCosine),
        metric_(cosine_ ? Metric::kNegativeDot : static_cast<Metric>(metric)),
        width_(width),
        product_(metric_ == Metric::kNegativeDot ? Product::kDot : Product::kSquaredDifference),
        lengths_(lengths),
        coarse_(max_rows * kTileCols),
        wide_query_(max_rows * width),
        wide_items_(kWideCols * width),
        queries_(max_rows),
        places_(kTileCols),
        unclear_(kTileCols) {
    for (int64_t g = 0; g < num_gallery; ++g) {
      // Negated, so that NaN stays.
      if (!(lengths[g] <= longest_)) longest_ = lengths[g];
      scalable_ = scalable_ && scalable(divisor(lengths[g]));
    }
    longest_ *= 1 + 1e-9;
  }

  // Takes the queries of the next tiles: `rows` rows of x and their lengths.
  void take(const float* x, const double* lengths, int64_t rows) {
    x_ = x;
    rows_ = rows;
    widen(x, rows * width_, wide_query_.data());
    for (int64_t r = 0; r < rows; ++r) {
      Query& query = queries_[r];
      query.bands.clear();
      query.length = lengths[r] * (1 + 1e-9);
      if (cosine_) {
        const double length = divisor(lengths[r]);
        divide(wide_query_.data() + r * width_, length);
        query.inverse = static_cast<float>(1 / length);
        query.filtered = scalable_ && scalable(length);
        continue;
      }
      const double reach = query.length + longest_;
      // Beyond this a float32 sum might overflow. Negated, so that NaN is refused too.
      query.filtered = reach * reach < 1e37;
    }
  }

  // Float64 distances of query r to ascending items, which later tiles are compared with.
  void to_items(int64_t r, const float* gallery, const std::vector<int64_t>& items, double* out) {
    for (size_t i = 0; i < items.size(); ++i) {
      out[i] = raw(r, gallery + items[i] * width_, items[i]);
      queries_[r].bands.push_back(band(queries_[r], out[i]));
      out[i] = finished(out[i]);
    }
  }

  // Ends the items of query r: bands that overlap become one.
  void join_bands(int64_t r) {
    auto& bands = queries_[r].bands;
    std::sort(bands.begin(), bands.end());
    size_t kept = 0;
    for (const auto& next : bands) {
      if (kept > 0 && next.first <= bands[kept - 1].second) {
        bands[kept - 1].second = std::max(bands[kept - 1].second, next.second);
      } else {
        bands[kept++] = next;
      }
    }
    bands.resize(kept);
  }

  // Distances of the queries to `cols` <= kTileCols gallery items from `first` on, which are the
  // rows of y: on the same side of the distances of each query's items as the float64 ones, and
  // equal to them where those are.
  void tile(const float* y, int64_t first, int64_t cols, double* out, int64_t stride) {
    kernels().distance_tile<float>()(product_, x_, rows_, y, cols, width_, coarse_.data(),
                                     kTileCols);
    exact_rows_.clear();
    if (cosine_) scale(first, cols);
    for (int64_t r = 0; r < rows_; ++r) {
      const float* coarse = &coarse_[r * kTileCols];
      const int64_t unclear = queries_[r].filtered ? find_unclear(queries_[r], coarse, cols) : -1;
      if (unclear < 0) {
        exact_rows_.push_back(r);
        continue;
      }
      for (int64_t c = 0; c < cols; ++c) out[r * stride + c] = coarse[c];
      finish(out + r * stride, cols);
      for (int64_t i = 0; i < unclear; ++i) {
        out[r * stride + unclear_[i]] = finished(raw(r, y + unclear_[i] * width_, first + unclear_[i]));
      }
    }
    if (!exact_rows_.empty()) fill_exact(y, first, cols, out, stride);
  }

 private:
  using Band = std::pair<float, float>;

  struct Query {
    double length;
    float inverse;            // of the length, for the cosine
    bool filtered;            // whether float32 tiles may decide
    std::vector<Band> bands;  // where they cannot, ascending
  };

  static constexpr int64_t kWideCols = 64;
  static constexpr size_t kMostBands = 256;

  static void widen(const float* values, int64_t count, double* out) {
    for (int64_t i = 0; i < count; ++i) out[i] = values[i];
  }

  // What a row is divided by: a row of zeros stays.
  static double divisor(double length) { return length > 0 ? length : 1; }

  // Lengths between which float32 products of two rows neither overflow nor lose to underflow.
  static bool scalable(double length) { return length > 1e-10 && length < 1e15; }

  void divide(double* row, double length) const {
    for (int64_t d = 0; d < width_; ++d) row[d] /= length;
  }

  // Products of rows to those of unit rows.
  void scale(int64_t first, int64_t cols) {
    inverse_.resize(kTileCols);
    for (int64_t c = 0; c < cols; ++c) {
      inverse_[c] = static_cast<float>(1 / divisor(lengths_[first + c]));
    }
    for (int64_t r = 0; r < rows_; ++r) {
      float* coarse = &coarse_[r * kTileCols];
      for (int64_t c = 0; c < cols; ++c) coarse[c] *= queries_[r].inverse * inverse_[c];
    }
  }

  // The sum without the root, the sign or the offset, in float64.
  double raw(int64_t r, const float* y, int64_t item) {
    widen(y, width_, wide_items_.data());
    if (cosine_) divide(wide_items_.data(), divisor(lengths_[item]));
    double value;
    const double* query = wide_query_.data() + r * width_;
    kernels().distance_tile<double>()(product_, query, 1, wide_items_.data(), 1, width_, &value, 1);
    return value;
  }

  // The float32 sums that may belong to a float64 sum on the other side of `value`, or equal to it.
  Band band(const Query& query, double value) const {
    const double roundings = static_cast<double>((width_ + 15) / 16 + 9);
    const double gamma = 2 * roundings * 0x1p-24 / (1 - roundings * 0x1p-24);
    const double underflow = static_cast<double>(width_) * 0x1p-124;
    double slack = gamma + underflow * 1e20;  // lengths are at least 1e-10
    if (!cosine_) {
      const double dot = query.length * longest_;
      slack = gamma * (product_ == Product::kDot ? dot : 2 * std::abs(value)) + underflow;
    }
    // Rounded outwards.
    const float infinity = std::numeric_limits<float>::infinity();
    return {std::nextafter(static_cast<float>(value - slack), -infinity),
            std::nextafter(static_cast<float>(value + slack), infinity)};
  }

  // Columns in a band, into unclear_; -1 where float64 tiles are cheaper.
  int64_t find_unclear(const Query& query, const float* coarse, int64_t cols) {
    if (query.bands.size() > kMostBands) return -1;
    int64_t total = 0;
    for (const Band& band : query.bands) {
      const int64_t found = kernels().counting<float>().find_between(
          coarse, cols, band.first, band.second, places_.data());
      if (total + found > cols / 8 + 1) return -1;
      std::copy_n(places_.begin(), found, unclear_.begin() + total);
      total += found;
    }
    return total;
  }

  double offset() const { return cosine_ ? 1 : 0; }

  double finished(double value) const {
    if (metric_ == Metric::kSquaredEuclidean) return value;
    return metric_ == Metric::kEuclidean ? std::sqrt(value) : offset() - value;
  }

  void finish(double* values, int64_t count) const {
    if (metric_ == Metric::kSquaredEuclidean) return;
    if (metric_ == Metric::kEuclidean) {
      for (int64_t i = 0; i < count; ++i) values[i] = std::sqrt(values[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) values[i] = offset() - values[i];
    }
  }

  void fill_exact(const float* y, int64_t first, int64_t cols, double* out, int64_t stride) {
    const auto tile = kernels().distance_tile<double>();
    for (int64_t col = 0; col < cols; col += kWideCols) {
      const int64_t count = std::min(kWideCols, cols - col);
      widen(y + col * width_, count * width_, wide_items_.data());
      for (int64_t c = 0; cosine_ && c < count; ++c) {
        divide(wide_items_.data() + c * width_, divisor(lengths_[first + col + c]));
      }
      if (static_cast<int64_t>(exact_rows_.size()) == rows_) {
        tile(product_, wide_query_.data(), rows_, wide_items_.data(), count, width_, out + col,
             stride);
      } else {
        for (const int64_t r : exact_rows_) {
          tile(product_, wide_query_.data() + r * width_, 1, wide_items_.data(), count, width_,
               out + r * stride + col, stride);
        }
      }
    }
    for (const int64_t r : exact_rows_) finish(out + r * stride, cols);
  }

  bool cosine_;
  Metric metric_;
  int64_t width_;
  Product product_;
  const double* lengths_;
  double longest_ = 0;
  bool scalable_ = true;
  const float* x_ = nullptr;
  int64_t rows_ = 0;
  std::vector<float> coarse_;
  std::vector<float> inverse_;
  std::vector<double> wide_query_;
  std::vector<double> wide_items_;
  std::vector<Query> queries_;
  std::vector<int32_t> places_;
  std::vector<int32_t> unclear_;
  std::vector<int64_t> exact_rows_;
};

}  // namespace vireid_fast
