// Pairwise distances on the CPU: tiles of the output in parallel, each through distance_tile.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <cmath>

#include "../checks.h"
#include "../metric.h"
#include "kernels.h"

namespace vireid_fast {
namespace {

constexpr const char* kOp = "pairwise_distance";
constexpr int64_t kTileRows = 32;
constexpr int64_t kTileCols = 256;

template <typename T>
void finish(Metric metric, T* values, int64_t count) {
  if (metric == Metric::kEuclidean) {
    for (int64_t i = 0; i < count; ++i) values[i] = std::sqrt(values[i]);
  } else if (metric == Metric::kNegativeDot) {
    for (int64_t i = 0; i < count; ++i) values[i] = -values[i];
  }
}

template <typename T>
void fill(Metric metric, const T* x, int64_t n, const T* y, int64_t m, int64_t width, T* out) {
  const auto distance_tile = kernels().distance_tile<T>();
  const auto product = metric == Metric::kNegativeDot ? Product::kDot : Product::kSquaredDifference;
  const int64_t tiles_across = (m + kTileCols - 1) / kTileCols;
  const int64_t tiles = (n + kTileRows - 1) / kTileRows * tiles_across;
  torch::stable::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t row = tile / tiles_across * kTileRows;
      const int64_t col = tile % tiles_across * kTileCols;
      const int64_t rows = std::min(kTileRows, n - row);
      const int64_t cols = std::min(kTileCols, m - col);
      T* corner = out + row * m + col;
      distance_tile(product, x + row * width, rows, y + col * width, cols, width, corner, m);
      for (int64_t r = 0; r < rows; ++r) finish(metric, corner + r * m, cols);
    }
  });
}

Tensor pairwise_distance_cpu(const Tensor& x, const Tensor& y, int64_t metric) {
  check_rank(kOp, "x", x, 2);
  check_rank(kOp, "y", y, 2);
  check_size(kOp, "y", y, 1, x.size(1));
  check_same_dtype(kOp, "y", y, "x", x);
  STD_TORCH_CHECK(is_metric(metric), kOp, ": metric must be 0, 1 or 2, got ", metric, ".");
  const Tensor rows = torch::stable::contiguous(x);
  const Tensor columns = torch::stable::contiguous(y);
  Tensor out = torch::stable::new_empty(x, {x.size(0), y.size(0)});
  THO_DISPATCH_V2(x.scalar_type(), "pairwise_distance_cpu", AT_WRAP([&] {
    fill<scalar_t>(static_cast<Metric>(metric), rows.const_data_ptr<scalar_t>(), x.size(0),
                   columns.const_data_ptr<scalar_t>(), y.size(0), x.size(1),
                   out.mutable_data_ptr<scalar_t>());
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return out;
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("pairwise_distance", TORCH_BOX(&vireid_fast::pairwise_distance_cpu));
}
