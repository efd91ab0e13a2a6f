// Squared distances of two sets of rows from products of centred rows: panels of columns in
// parallel, every panel past all rows. See ops/centred_distance for why centring bounds the error.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "../checks.h"
#include "rerank_kernels.h"

namespace vireid_fast {
namespace {

constexpr const char* kOp = "centred_distance";

// Without a centre the rows are centred already.
template <typename T>
void fill(const T* x, int64_t n, const T* y, int64_t m, int64_t width, const T* centre, T* out) {
  const RerankKernels<T>& table = rerank_kernels().of<T>();
  constexpr int64_t kColumns = kPanelColumns<T>;
  std::vector<T> centred(centre == nullptr ? 0 : n * width);
  const T* rows = centre == nullptr ? x : centred.data();
  std::vector<T> norms(n);
  torch::stable::parallel_for(0, n, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; centre != nullptr && r < end; ++r) {
      for (int64_t d = 0; d < width; ++d) centred[r * width + d] = x[r * width + d] - centre[d];
    }
    table.row_norms(rows + begin * width, end - begin, width, norms.data() + begin);
  });
  const std::vector<T> nothing(centre == nullptr ? width : 0);
  const T* origin = centre == nullptr ? nothing.data() : centre;
  const int64_t panels = (m + kColumns - 1) / kColumns;
  torch::stable::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> panel(kColumns * width);
    T panel_norms[kColumns];
    for (int64_t p = begin; p < end; ++p) {
      const int64_t column = p * kColumns;
      const int64_t count = std::min(kColumns, m - column);
      table.pack_panel(y + column * width, count, width, origin, panel.data(), panel_norms);
      table.squared_tile(rows, norms.data(), n, width, panel.data(), panel_norms, count,
                         out + column, m);
    }
  });
}

void centred_distance_cpu(const Tensor& x, const Tensor& y, const std::optional<Tensor>& centre,
                          const Tensor& out) {
  check_rank(kOp, "x", x, 2);
  check_rank(kOp, "y", y, 2);
  check_rank(kOp, "out", out, 2);
  check_size(kOp, "y", y, 1, x.size(1));
  check_size(kOp, "out", out, 0, x.size(0));
  check_size(kOp, "out", out, 1, y.size(0));
  check_same_dtype(kOp, "y", y, "x", x);
  check_same_dtype(kOp, "out", out, "x", x);
  STD_TORCH_CHECK(out.is_contiguous(), kOp, ": out must be contiguous.");
  if (centre.has_value()) {
    check_rank(kOp, "centre", *centre, 1);
    check_size(kOp, "centre", *centre, 0, x.size(1));
    check_same_dtype(kOp, "centre", *centre, "x", x);
  }
  const Tensor rows = torch::stable::contiguous(x);
  const Tensor columns = torch::stable::contiguous(y);
  const std::optional<Tensor> origin =
      centre.has_value() ? std::optional(torch::stable::contiguous(*centre)) : std::nullopt;
  THO_DISPATCH_V2(x.scalar_type(), "centred_distance_cpu", AT_WRAP([&] {
    fill(rows.const_data_ptr<scalar_t>(), x.size(0), columns.const_data_ptr<scalar_t>(), y.size(0),
         x.size(1), origin.has_value() ? origin->const_data_ptr<scalar_t>() : nullptr,
         out.mutable_data_ptr<scalar_t>());
  }), AT_EXPAND(AT_FLOATING_TYPES));
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("centred_distance", TORCH_BOX(&vireid_fast::centred_distance_cpu));
}
