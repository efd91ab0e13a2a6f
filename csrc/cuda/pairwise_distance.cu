#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include "binding.h"
#include "exact_distance.cuh"

namespace vireid_fast {

// For rank_statistics.cu as well.
template cudaError_t launch_pairwise_distance<float>(Metric, const float*, int64_t, const float*,
                                                     int64_t, int64_t, float, float*,
                                                     cudaStream_t);
template cudaError_t launch_pairwise_distance<double>(Metric, const double*, int64_t,
                                                      const double*, int64_t, int64_t, double,
                                                      double*, cudaStream_t);

namespace {

constexpr const char* kOp = "pairwise_distance";

Tensor pairwise_distance_cuda(const Tensor& x, const Tensor& y, int64_t metric) {
  check_rank(kOp, "x", x, 2);
  check_rank(kOp, "y", y, 2);
  check_size(kOp, "y", y, 1, x.size(1));
  check_same_dtype(kOp, "y", y, "x", x);
  STD_TORCH_CHECK(is_metric(metric), kOp, ": metric must be 0, 1 or 2, got ", metric, ".");
  const OnDevice device(kOp, {&x, &y});
  const Tensor rows = torch::stable::contiguous(x);
  const Tensor columns = torch::stable::contiguous(y);
  Tensor out = torch::stable::new_empty(x, {x.size(0), y.size(0)});
  THO_DISPATCH_V2(x.scalar_type(), "pairwise_distance_cuda", AT_WRAP([&] {
    device.check(launch_pairwise_distance<scalar_t>(
        static_cast<Metric>(metric), rows.const_data_ptr<scalar_t>(), x.size(0),
        columns.const_data_ptr<scalar_t>(), y.size(0), x.size(1), scalar_t(0),
        out.mutable_data_ptr<scalar_t>(), device.stream()));
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return out;
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, VIREID_DEVICE, m) {
  m.impl("pairwise_distance", TORCH_BOX(&vireid_fast::pairwise_distance_cuda));
}
