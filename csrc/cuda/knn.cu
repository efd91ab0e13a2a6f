#include "knn.cuh"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <tuple>

#include "binding.h"
#include "neighbour_search.h"

namespace vireid_fast {
namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor>;

// Blocks of distances, and candidates of a round of rows: each as large as this at most, beside
// the bfloat16 copies of the features.
constexpr int64_t kBlockBytes = int64_t{1} << 28;

NeighbourTensors empty_lists(const Tensor& like, int64_t rows, int64_t k) {
  return {torch::stable::new_empty(like, {rows, k}),
          torch::stable::new_empty(like, {rows, k}, ScalarType::Long),
          torch::stable::new_empty(like, {rows})};
}

template <typename T>
selection::Lists<T> pointers_of(NeighbourTensors& lists) {
  return {lists.distances.mutable_data_ptr<T>(), lists.indices.mutable_data_ptr<int64_t>(),
          lists.farthest.mutable_data_ptr<T>()};
}

}  // namespace

NeighbourTensors search_neighbours(const OnDevice& device, const Tensor& query,
                                 const Tensor& database, int64_t k) {
  neighbours::Shape shape = {query.size(0), database.size(0), query.size(1), k, false};
  shape.same = query.data_ptr() == database.data_ptr() && shape.num_query == shape.num_items;
  NeighbourTensors lists = empty_lists(query, shape.num_query, k);
  THO_DISPATCH_V2(query.scalar_type(), "search_neighbours", AT_WRAP([&] {
    const auto plan = neighbours::plan_of<scalar_t>(
        shape, neighbours::coarse_pays(shape, sizeof(scalar_t)), kBlockBytes);
    Scratch<unsigned char> memory(query, static_cast<int64_t>(plan.bytes));
    int64_t lost = 0;
    device.check(launch_knn<scalar_t>(
        {query.const_data_ptr<scalar_t>(), database.const_data_ptr<scalar_t>(), shape, plan,
         memory.data(), pointers_of<scalar_t>(lists), device.stream()},
        &lost));
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return lists;
}

namespace {

Outputs knn_cuda(const Tensor& query, const Tensor& database, int64_t k) {
  check_rank("knn", "query", query, 2);
  check_rank("knn", "database", database, 2);
  check_size("knn", "database", database, 1, query.size(1));
  check_same_dtype("knn", "database", database, "query", query);
  STD_TORCH_CHECK(k >= 1 && database.size(0) >= 1,
                  "knn: k must be at least 1 and database must have a row.");
  const OnDevice device("knn", {&query, &database});
  const NeighbourTensors found =
      search_neighbours(device, torch::stable::contiguous(query),
                        torch::stable::contiguous(database), std::min(k, database.size(0)));
  return {found.distances, found.indices, found.farthest};
}

Outputs smallest_k_cuda(const Tensor& distances, int64_t k) {
  check_rank("smallest_k", "distances", distances, 2);
  STD_TORCH_CHECK(k >= 1 && distances.size(1) >= 1,
                  "smallest_k: k must be at least 1 and distances must have a column.");
  const OnDevice device("smallest_k", {&distances});
  const Tensor matrix = torch::stable::contiguous(distances);
  const int64_t num_rows = matrix.size(0);
  const int64_t count = matrix.size(1);
  const int64_t length = std::min(k, count);
  NeighbourTensors lists = empty_lists(matrix, num_rows, length);
  THO_DISPATCH_V2(matrix.scalar_type(), "smallest_k_cuda", AT_WRAP([&] {
    using Key = typename Ordered<scalar_t>::Key;
    const int64_t scratch = smallest_k_scratch(num_rows, length);
    Scratch<Key> keys(matrix, scratch);
    Scratch<int64_t> indices(matrix, scratch);
    device.check(launch_smallest_k<scalar_t>(
        matrix.const_data_ptr<scalar_t>(), num_rows, count, length, nullptr,
        keys.data(), indices.data(), pointers_of<scalar_t>(lists), device.stream()));
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return {lists.distances, lists.indices, lists.farthest};
}

Tensor pair_distance_cuda(const Tensor& x, const Tensor& row, const Tensor& column) {
  check_rank("pair_distance", "x", x, 2);
  check_rank("pair_distance", "row", row, 1);
  check_rank("pair_distance", "column", column, 1);
  check_size("pair_distance", "column", column, 0, row.size(0));
  check_dtype("pair_distance", "row", row, ScalarType::Long);
  check_dtype("pair_distance", "column", column, ScalarType::Long);
  STD_TORCH_CHECK(x.size(0) > 0 || row.size(0) == 0, "pair_distance: x must have a row.");
  const OnDevice device("pair_distance", {&x, &row, &column});
  const Tensor features = torch::stable::contiguous(x);
  const Tensor first = torch::stable::contiguous(row);
  const Tensor second = torch::stable::contiguous(column);
  Tensor out = torch::stable::new_empty(x, {row.size(0)});
  Raised<int> outside(device, x);
  THO_DISPATCH_V2(x.scalar_type(), "pair_distance_cuda", AT_WRAP([&] {
    device.check(launch_pair_distance<scalar_t>(
        features.const_data_ptr<scalar_t>(), x.size(0), x.size(1),
        first.const_data_ptr<int64_t>(), second.const_data_ptr<int64_t>(), row.size(0),
        out.mutable_data_ptr<scalar_t>(), outside.data(), device.stream()));
  }), AT_EXPAND(AT_FLOATING_TYPES));
  STD_TORCH_CHECK(outside.fetch() == 0, "pair_distance: row and column must lie in [0, ",
                  x.size(0), ").");
  return out;
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, VIREID_DEVICE, m) {
  m.impl("knn", TORCH_BOX(&vireid_fast::knn_cuda));
  m.impl("smallest_k", TORCH_BOX(&vireid_fast::smallest_k_cuda));
  m.impl("pair_distance", TORCH_BOX(&vireid_fast::pair_distance_cuda));
}
