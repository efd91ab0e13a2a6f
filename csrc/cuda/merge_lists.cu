#include "merge_lists.cuh"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <tuple>

#include "binding.h"
#include "neighbour_search.h"

namespace vireid_fast {
namespace {

constexpr const char* kOp = "merge_lists";

struct MergeInput {
  Tensor distances, indices, farthest;
  NeighbourTensors added;
  int64_t first_index;
};

// Into `merged`, as search_neighbours gives them.
template <typename T>
void merge(const OnDevice& device, const MergeInput& in, int64_t k, NeighbourTensors& merged) {
  merging::Arguments<T> task = {in.distances.const_data_ptr<T>(),
                                in.indices.const_data_ptr<int64_t>(),
                                in.farthest.const_data_ptr<T>(),
                                in.added.distances.const_data_ptr<T>(),
                                in.added.indices.const_data_ptr<int64_t>(),
                                in.added.farthest.const_data_ptr<T>(),
                                in.distances.size(0),
                                in.distances.size(1),
                                in.added.distances.size(1),
                                in.first_index,
                                k};
  const int64_t scratch = sort_scratch(task.rows, task.listed + task.added);
  Scratch<typename Ordered<T>::Key> keys(in.distances, scratch);
  Scratch<int64_t> indices(in.distances, scratch);
  task.scratch_keys = keys.data();
  task.scratch_indices = indices.data();
  task.distances_out = merged.distances.mutable_data_ptr<T>();
  task.indices_out = merged.indices.mutable_data_ptr<int64_t>();
  task.farthest_out = merged.farthest.mutable_data_ptr<T>();
  device.check(launch_merge_lists<T>(task, device.stream()));
}

// `coarse` and `slack`, with which the CPU decides what to measure, are not read: the search in the
// added items finds that by itself.
std::tuple<Tensor, Tensor, Tensor> merge_lists_cuda(const Tensor& x, const Tensor& y,
                                                    const Tensor& coarse, const Tensor& slack,
                                                    const Tensor& distances, const Tensor& indices,
                                                    const Tensor& farthest, int64_t first_index,
                                                    int64_t k) {
  check_rank(kOp, "x", x, 2);
  check_rank(kOp, "y", y, 2);
  check_size(kOp, "y", y, 1, x.size(1));
  check_same_dtype(kOp, "y", y, "x", x);
  const int64_t rows = x.size(0);
  check_rank(kOp, "distances", distances, 2);
  check_size(kOp, "distances", distances, 0, rows);
  check_same_dtype(kOp, "distances", distances, "x", x);
  check_rank(kOp, "indices", indices, 2);
  check_size(kOp, "indices", indices, 0, rows);
  check_size(kOp, "indices", indices, 1, distances.size(1));
  check_dtype(kOp, "indices", indices, ScalarType::Long);
  check_rank(kOp, "farthest", farthest, 1);
  check_size(kOp, "farthest", farthest, 0, rows);
  check_same_dtype(kOp, "farthest", farthest, "x", x);
  const int64_t most = distances.size(1) + y.size(0);
  STD_TORCH_CHECK(k >= 1 && k <= most, kOp, ": k must lie in [1, ", most, "], got ", k, ".");
  const OnDevice device(kOp, {&x, &y, &coarse, &slack, &distances, &indices, &farthest});
  const Tensor known = torch::stable::contiguous(farthest);
  const auto make = [&](int64_t length) -> NeighbourTensors {
    return {torch::stable::new_empty(x, {rows, length}),
            torch::stable::new_empty(x, {rows, length}, ScalarType::Long), known};
  };
  const MergeInput in = {torch::stable::contiguous(distances), torch::stable::contiguous(indices),
                         known,
                         y.size(0) == 0
                             ? make(0)
                             : search_neighbours(device, torch::stable::contiguous(x),
                                                 torch::stable::contiguous(y),
                                                 std::min(k, y.size(0))),
                         first_index};
  NeighbourTensors merged = make(k);
  merged.farthest = torch::stable::new_empty(x, {rows});
  THO_DISPATCH_V2(x.scalar_type(), "merge_lists_cuda",
                  AT_WRAP([&] { merge<scalar_t>(device, in, k, merged); }),
                  AT_EXPAND(AT_FLOATING_TYPES));
  return {merged.distances, merged.indices, merged.farthest};
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, VIREID_DEVICE, m) {
  m.impl("merge_lists", TORCH_BOX(&vireid_fast::merge_lists_cuda));
}
