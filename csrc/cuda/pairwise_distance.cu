#include "pairwise_distance.cuh"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include "../checks.h"

namespace vireid_fast {
namespace {

constexpr const char* kOp = "pairwise_distance";

Tensor pairwise_distance_cuda(const Tensor& x, const Tensor& y, int64_t metric) {
  check_rank(kOp, "x", x, 2);
  check_rank(kOp, "y", y, 2);
  check_size(kOp, "y", y, 1, x.size(1));
  check_same_dtype(kOp, "y", y, "x", x);
  STD_TORCH_CHECK(x.get_device_index() == y.get_device_index(), kOp,
                  ": x and y must be on one device, got ", x.get_device_index(), " and ",
                  y.get_device_index(), ".");
  STD_TORCH_CHECK(is_metric(metric), kOp, ": metric must be 0, 1 or 2, got ", metric, ".");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  const Tensor rows = torch::stable::contiguous(x);
  const Tensor columns = torch::stable::contiguous(y);
  Tensor out = torch::stable::new_empty(x, {x.size(0), y.size(0)});
  THO_DISPATCH_V2(x.scalar_type(), "pairwise_distance_cuda", AT_WRAP([&] {
    const cudaError_t status = launch_pairwise_distance<scalar_t>(
        static_cast<Metric>(metric), rows.const_data_ptr<scalar_t>(), x.size(0),
        columns.const_data_ptr<scalar_t>(), y.size(0), x.size(1),
        out.mutable_data_ptr<scalar_t>(), static_cast<cudaStream_t>(stream));
    STD_TORCH_CHECK(status == cudaSuccess, kOp, ": launch failed: ", cudaGetErrorString(status));
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return out;
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CUDA, m) {
  m.impl("pairwise_distance", TORCH_BOX(&vireid_fast::pairwise_distance_cuda));
}
