#include "centred_distance.cuh"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <optional>

#include "binding.h"

namespace vireid_fast {
namespace {

constexpr const char* kOp = "centred_distance";

void centred_distance_cuda(const Tensor& x, const Tensor& y, const std::optional<Tensor>& centre,
                           Tensor out) {
  check_rank(kOp, "x", x, 2);
  check_rank(kOp, "y", y, 2);
  check_rank(kOp, "out", out, 2);
  check_size(kOp, "y", y, 1, x.size(1));
  check_size(kOp, "out", out, 0, x.size(0));
  check_size(kOp, "out", out, 1, y.size(0));
  check_same_dtype(kOp, "y", y, "x", x);
  check_same_dtype(kOp, "out", out, "x", x);
  STD_TORCH_CHECK(out.is_contiguous(), kOp, ": out must be contiguous.");
  if (centre) {
    check_rank(kOp, "centre", *centre, 1);
    check_size(kOp, "centre", *centre, 0, x.size(1));
    check_same_dtype(kOp, "centre", *centre, "x", x);
  }
  const OnDevice device(kOp, {&x, &y, &out, centre ? &*centre : &x});
  const Tensor rows = torch::stable::contiguous(x);
  const Tensor columns = torch::stable::contiguous(y);
  std::optional<Tensor> origin;
  if (centre) origin = torch::stable::contiguous(*centre);
  THO_DISPATCH_V2(x.scalar_type(), "centred_distance_cuda", AT_WRAP([&] {
    Scratch<scalar_t> norms(rows, x.size(0) + y.size(0));
    device.check(launch_centred_distance<scalar_t>(
        rows.const_data_ptr<scalar_t>(), x.size(0), columns.const_data_ptr<scalar_t>(), y.size(0),
        x.size(1), origin ? origin->const_data_ptr<scalar_t>() : nullptr, norms.data(),
        out.mutable_data_ptr<scalar_t>(), device.stream()));
  }), AT_EXPAND(AT_FLOATING_TYPES));
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, VIREID_DEVICE, m) {
  m.impl("centred_distance", TORCH_BOX(&vireid_fast::centred_distance_cuda));
}
