#include "count_nearer.cuh"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include "binding.h"

namespace vireid_fast {
namespace {

constexpr const char* kOp = "count_nearer";

Tensor count_nearer_cuda(const Tensor& distances, const Tensor& crow, const Tensor& bound,
                         const Tensor& index, int64_t first) {
  check_rank(kOp, "distances", distances, 2);
  check_rank(kOp, "crow", crow, 1);
  check_dtype(kOp, "crow", crow, ScalarType::Long);
  check_size(kOp, "crow", crow, 0, distances.size(0) + 1);
  check_rank(kOp, "index", index, 1);
  check_dtype(kOp, "index", index, ScalarType::Long);
  check_rank(kOp, "bound", bound, 1);
  check_size(kOp, "bound", bound, 0, index.size(0));
  check_same_dtype(kOp, "bound", bound, "distances", distances);
  const OnDevice device(kOp, {&distances, &crow, &bound, &index});
  const Tensor matrix = torch::stable::contiguous(distances);
  const Tensor offsets = torch::stable::contiguous(crow);
  const Tensor limits = torch::stable::contiguous(bound);
  const Tensor places = torch::stable::contiguous(index);
  const int64_t rows = matrix.size(0);
  const int64_t pairs = places.numel();
  Raised<int> broken(device, offsets);
  device.check(launch_check_offsets(offsets.const_data_ptr<int64_t>(), rows, pairs, false,
                                    broken.data(), device.stream()));
  STD_TORCH_CHECK(broken.fetch() == 0, kOp, ": crow must rise from 0 to ", pairs, ".");
  Tensor counts = torch::stable::new_empty(places, {pairs});
  THO_DISPATCH_V2(matrix.scalar_type(), "count_nearer_cuda", AT_WRAP([&] {
    device.check(launch_count_nearer<scalar_t>(
        matrix.const_data_ptr<scalar_t>(), rows, matrix.size(1),
        offsets.const_data_ptr<int64_t>(), limits.const_data_ptr<scalar_t>(),
        places.const_data_ptr<int64_t>(), pairs, first, counts.mutable_data_ptr<int64_t>(),
        device.stream()));
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return counts;
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, VIREID_DEVICE, m) {
  m.impl("count_nearer", TORCH_BOX(&vireid_fast::count_nearer_cuda));
}
