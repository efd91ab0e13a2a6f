#include "k_reciprocal.cuh"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <tuple>

#include "binding.h"
#include "sparse_input.h"

namespace vireid_fast {
namespace {

std::tuple<Tensor, Tensor> rank_normalised_cuda(const Tensor& distances, const Tensor& indices,
                                                const Tensor& farthest, int64_t k) {
  const char* op = "rank_normalised";
  check_rank(op, "distances", distances, 2);
  check_rank(op, "indices", indices, 2);
  check_dtype(op, "indices", indices, ScalarType::Long);
  const int64_t rows = distances.size(0);
  const int64_t width = distances.size(1);
  check_size(op, "indices", indices, 0, rows);
  check_size(op, "indices", indices, 1, width);
  check_rank(op, "farthest", farthest, 1);
  check_size(op, "farthest", farthest, 0, rows);
  check_same_dtype(op, "farthest", farthest, "distances", distances);
  STD_TORCH_CHECK(k >= 1 && k <= width, op, ": k must lie in [1, ", width, "], got ", k, ".");
  const OnDevice device(op, {&distances, &indices, &farthest});
  const Tensor values = torch::stable::contiguous(distances);
  const Tensor items = torch::stable::contiguous(indices);
  const Tensor scales = torch::stable::contiguous(farthest);
  Tensor ranked = torch::stable::new_empty(indices, {rows, k});
  Tensor open = torch::stable::new_empty(indices, {rows}, ScalarType::Bool);
  const int64_t scratch =
      sort_scratch(rows, width);
  THO_DISPATCH_V2(values.scalar_type(), "rank_normalised_cuda", AT_WRAP([&] {
    Scratch<typename Ordered<scalar_t>::Key> keys(values, scratch);
    Scratch<int64_t> places(values, scratch);
    device.check(launch_rank_normalised<scalar_t>(
        values.const_data_ptr<scalar_t>(), items.const_data_ptr<int64_t>(),
        scales.const_data_ptr<scalar_t>(), rows, width, k, keys.data(), places.data(),
        ranked.mutable_data_ptr<int64_t>(), open.mutable_data_ptr<bool>(), device.stream()));
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return {ranked, open};
}

// `distances` and `indices`, what the lists know, are not read: see entry_distance_kernel.
Tensor entry_distance_cuda(const Tensor& query, const Tensor& gallery, const Tensor& crow,
                           const Tensor& col, const Tensor& distances, const Tensor& indices) {
  const char* op = "entry_distance";
  check_rank(op, "query", query, 2);
  check_rank(op, "gallery", gallery, 2);
  check_size(op, "gallery", gallery, 1, query.size(1));
  check_same_dtype(op, "gallery", gallery, "query", query);
  const OnDevice device(op, {&query, &gallery, &crow, &col, &distances, &indices});
  const Tensor queries = torch::stable::contiguous(query);
  const Tensor items = torch::stable::contiguous(gallery);
  const SparseInput rows(device, op, crow, col, col);
  STD_TORCH_CHECK(rows.num_rows == query.size(0) + gallery.size(0), op, ": crow must have ",
                  query.size(0) + gallery.size(0) + 1, " offsets, got ", rows.num_rows + 1, ".");
  Tensor out = torch::stable::new_empty(query, {col.numel()});
  THO_DISPATCH_V2(query.scalar_type(), "entry_distance_cuda", AT_WRAP([&] {
    device.check(launch_entry_distance<scalar_t>(
        queries.const_data_ptr<scalar_t>(), query.size(0), items.const_data_ptr<scalar_t>(),
        query.size(1), rows.offsets(), rows.num_rows, rows.columns(), col.numel(),
        out.mutable_data_ptr<scalar_t>(), device.stream()));
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return out;
}

std::tuple<Tensor, Tensor> k_reciprocal_sets_cuda(const Tensor& indices, int64_t k1) {
  const char* op = "k_reciprocal_sets";
  check_rank(op, "indices", indices, 2);
  check_dtype(op, "indices", indices, ScalarType::Long);
  STD_TORCH_CHECK(k1 >= 1 && indices.size(1) >= 1 && indices.size(0) < INT32_MAX, op,
                  ": k1 must be at least 1 and indices must have a column.");
  const OnDevice device(op, {&indices});
  const Tensor lists = torch::stable::contiguous(indices);
  const int64_t rows = lists.size(0);
  const ReciprocalSets sets(rows, lists.size(1), k1);
  Scratch<int32_t> memory(lists, sets.memory());
  Raised<int> broken(device, lists);
  Tensor crow = torch::stable::new_empty(lists, {rows + 1});
  int64_t* offsets = crow.mutable_data_ptr<int64_t>();
  device.check(sets.count(lists.const_data_ptr<int64_t>(), memory.data(), offsets, broken.data(),
                          device.stream()));
  STD_TORCH_CHECK(broken.fetch() == 0, op, ": indices must lie in [0, ", rows, ").");
  Tensor col = torch::stable::new_empty(lists, {device.fetch(offsets + rows)});
  device.check(sets.fill(memory.data(), offsets, col.mutable_data_ptr<int64_t>(),
                         device.stream()));
  return {crow, col};
}

Tensor reciprocal_weights_cuda(const Tensor& crow, const Tensor& distances) {
  const char* op = "reciprocal_weights";
  check_rank(op, "distances", distances, 1);
  const OnDevice device(op, {&crow, &distances});
  const Tensor entries = torch::stable::contiguous(distances);
  const Tensor rows = torch::stable::contiguous(crow);
  check_rank(op, "crow", rows, 1);
  check_dtype(op, "crow", rows, ScalarType::Long);
  const int64_t num_rows = rows.numel() - 1;
  STD_TORCH_CHECK(num_rows >= 0, op, ": crow must have an offset.");
  const int64_t* offsets = rows.const_data_ptr<int64_t>();
  Raised<int> broken(device, rows);
  device.check(launch_check_offsets(offsets, num_rows, entries.numel(), false, broken.data(),
                                    device.stream()));
  STD_TORCH_CHECK(broken.fetch() == 0, op, ": crow must rise from 0 to ", entries.numel(), ".");
  Tensor weight = torch::stable::new_empty(entries, {entries.numel()});
  THO_DISPATCH_V2(entries.scalar_type(), "reciprocal_weights_cuda", AT_WRAP([&] {
    device.check(launch_reciprocal_weights<scalar_t>(
        offsets, num_rows, entries.const_data_ptr<scalar_t>(),
        weight.mutable_data_ptr<scalar_t>(), device.stream()));
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return weight;
}

// Both passes: offsets, then entries.
template <typename T>
void expand(const OnDevice& device, const SparseInput& rows, const Tensor& lists, int64_t k2,
            Tensor& crow, Tensor& col, Tensor& weight) {
  const Tensor& like = rows.weight;
  reciprocal::ExpansionArguments<T> task = {rows.offsets(),
                                            rows.columns(),
                                            rows.weight.const_data_ptr<T>(),
                                            lists.const_data_ptr<int64_t>(),
                                            rows.num_rows,
                                            lists.size(1),
                                            std::min(k2, lists.size(1))};
  Raised<unsigned long long> longest(device, like);
  device.check(launch_expansion_bound(task.crow, task.lists, task.rows, task.width, task.length,
                                      longest.data(), device.stream()));
  task.longest = static_cast<int64_t>(longest.fetch());
  const int64_t scratch = sort_scratch(task.rows, task.longest);
  Scratch<uint64_t> keys(like, scratch);
  Scratch<T> weights(like, scratch);
  task.scratch_keys = keys.data();
  task.scratch_weights = weights.data();
  task.crow_out = crow.mutable_data_ptr<int64_t>();
  device.check(cudaMemsetAsync(task.crow_out, 0, sizeof(int64_t), device.stream()));
  device.check(launch_expand_query<T>(task, device.stream()));
  const int64_t entries = device.fetch(task.crow_out + task.rows);
  col = torch::stable::new_empty(crow, {entries});
  weight = torch::stable::new_empty(like, {entries});
  task.col_out = col.mutable_data_ptr<int64_t>();
  task.weight_out = weight.mutable_data_ptr<T>();
  if (entries > 0) device.check(launch_expand_query<T>(task, device.stream()));
}

std::tuple<Tensor, Tensor, Tensor> expand_query_cuda(const Tensor& crow, const Tensor& col,
                                                     const Tensor& weight, const Tensor& indices,
                                                     int64_t k2) {
  const char* op = "expand_query";
  const OnDevice device(op, {&crow, &col, &weight, &indices});
  const SparseInput rows(device, op, crow, col, weight);
  check_rank(op, "indices", indices, 2);
  check_size(op, "indices", indices, 0, rows.num_rows);
  check_dtype(op, "indices", indices, ScalarType::Long);
  STD_TORCH_CHECK(k2 >= 1 && indices.size(1) >= 1, op,
                  ": k2 must be at least 1 and indices must have a column.");
  const Tensor lists = torch::stable::contiguous(indices);
  Raised<int> broken(device, lists);
  device.check(launch_check_indices(lists.const_data_ptr<int64_t>(), lists.numel(), rows.num_rows,
                                    broken.data(), device.stream()));
  STD_TORCH_CHECK(broken.fetch() == 0, op, ": indices must lie in [0, ", rows.num_rows, ").");
  Tensor mean_crow = torch::stable::new_empty(rows.crow, {rows.num_rows + 1});
  Tensor mean_col, mean_weight;
  THO_DISPATCH_V2(weight.scalar_type(), "expand_query_cuda", AT_WRAP([&] {
    expand<scalar_t>(device, rows, lists, k2, mean_crow, mean_col, mean_weight);
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return {mean_crow, mean_col, mean_weight};
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, VIREID_DEVICE, m) {
  m.impl("rank_normalised", TORCH_BOX(&vireid_fast::rank_normalised_cuda));
  m.impl("entry_distance", TORCH_BOX(&vireid_fast::entry_distance_cuda));
  m.impl("k_reciprocal_sets", TORCH_BOX(&vireid_fast::k_reciprocal_sets_cuda));
  m.impl("reciprocal_weights", TORCH_BOX(&vireid_fast::reciprocal_weights_cuda));
  m.impl("expand_query", TORCH_BOX(&vireid_fast::expand_query_cuda));
}
