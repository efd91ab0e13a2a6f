#include "jaccard_distance.cuh"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <tuple>

#include "binding.h"
#include "sparse_input.h"

namespace vireid_fast {
namespace {

// The rows from `first_row` on by column, as three tensors.
struct InvertedRows {
  InvertedRows(const OnDevice& device, const SparseInput& rows, int64_t first_row)
      : first_entry(device.fetch(rows.offsets() + first_row)),
        first(torch::stable::new_empty(rows.crow, {rows.num_rows + 1})),
        row(torch::stable::new_empty(rows.crow, {rows.weight.numel() - first_entry},
                                     ScalarType::Int)),
        weight(torch::stable::new_empty(rows.weight, {rows.weight.numel() - first_entry})) {}

  template <typename T>
  jaccard::Inverted<const T> fill(const OnDevice& device, const SparseInput& rows,
                                  int64_t first_row) {
    const jaccard::Inverted<T> index = {first.mutable_data_ptr<int64_t>(),
                                        row.mutable_data_ptr<int32_t>(),
                                        weight.mutable_data_ptr<T>()};
    Scratch<int64_t> next(rows.crow, rows.num_rows + 1);
    device.check(launch_invert_rows<T>(rows.offsets(), rows.columns(),
                                       rows.weight.const_data_ptr<T>(), rows.num_rows, first_row,
                                       first_entry, row.numel(), next.data(), index,
                                       device.stream()));
    return {index.first, index.row, index.weight};
  }

  int64_t first_entry;
  Tensor first;
  Tensor row;
  Tensor weight;
};

std::tuple<Tensor, Tensor, Tensor> invert_rows_cuda(const Tensor& crow, const Tensor& col,
                                                    const Tensor& weight, int64_t first_row) {
  const char* op = "invert_rows";
  const OnDevice device(op, {&crow, &col, &weight});
  const SparseInput rows(device, op, crow, col, weight);
  STD_TORCH_CHECK(first_row >= 0 && first_row <= rows.num_rows, op, ": first_row must lie in [0, ",
                  rows.num_rows, "], got ", first_row, ".");
  InvertedRows inverted(device, rows, first_row);
  THO_DISPATCH_V2(weight.scalar_type(), "invert_rows_cuda", AT_WRAP([&] {
    inverted.fill<scalar_t>(device, rows, first_row);
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return {inverted.first, inverted.row, inverted.weight};
}

Tensor jaccard_distance_cuda(const Tensor& crow, const Tensor& col, const Tensor& weight,
                             int64_t num_query) {
  const char* op = "jaccard_distance";
  const OnDevice device(op, {&crow, &col, &weight});
  const SparseInput rows(device, op, crow, col, weight);
  STD_TORCH_CHECK(num_query >= 0 && num_query <= rows.num_rows, op,
                  ": num_query must lie in [0, ", rows.num_rows, "], got ", num_query, ".");
  const int64_t num_gallery = rows.num_rows - num_query;
  Tensor out = torch::stable::new_empty(rows.weight, {num_query, num_gallery});
  InvertedRows inverted(device, rows, num_query);
  THO_DISPATCH_V2(weight.scalar_type(), "jaccard_distance_cuda", AT_WRAP([&] {
    const auto index = inverted.fill<scalar_t>(device, rows, num_query);
    device.check(launch_overlaps<scalar_t>(
        {rows.offsets(), rows.columns(), rows.weight.const_data_ptr<scalar_t>(), index, nullptr,
         num_query, num_gallery, 0, scalar_t(0), scalar_t(1), out.mutable_data_ptr<scalar_t>()},
        device.stream()));
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return out;
}

// What blend_jaccard reads beside the queries' rows: the gallery's index and the row maxima.
struct BlendInput {
  BlendInput(const OnDevice& device, const Tensor& first_in, const Tensor& row_in,
             const Tensor& row_weight_in, const Tensor& farthest_in, int64_t num_columns,
             const Tensor& distances)
      : first(torch::stable::contiguous(first_in)),
        row(torch::stable::contiguous(row_in)),
        row_weight(torch::stable::contiguous(row_weight_in)),
        farthest(torch::stable::contiguous(farthest_in)) {
    STD_TORCH_CHECK(distances.is_contiguous() && distances.size(1) < INT32_MAX, kOp,
                    ": distances must be contiguous.");
    check_rank(kOp, "first", first, 1);
    check_dtype(kOp, "first", first, ScalarType::Long);
    check_size(kOp, "first", first, 0, num_columns + 1);
    check_rank(kOp, "row", row, 1);
    check_dtype(kOp, "row", row, ScalarType::Int);
    check_rank(kOp, "row_weight", row_weight, 1);
    check_size(kOp, "row_weight", row_weight, 0, row.size(0));
    check_rank(kOp, "farthest", farthest, 1);
    check_size(kOp, "farthest", farthest, 0, distances.size(0));
    check_same_dtype(kOp, "row_weight", row_weight, "distances", distances);
    check_same_dtype(kOp, "farthest", farthest, "distances", distances);
    Raised<int> broken(device, row);
    device.check(launch_check_inverted(first.const_data_ptr<int64_t>(), num_columns,
                                       row.const_data_ptr<int32_t>(), row.numel(),
                                       distances.size(1), broken.data(), device.stream()));
    STD_TORCH_CHECK(broken.fetch() == 0, kOp, ": the index must point to its own entries and to "
                    "the ", distances.size(1), " gallery rows.");
  }

  template <typename T>
  jaccard::Inverted<const T> index() const {
    return {first.const_data_ptr<int64_t>(), row.const_data_ptr<int32_t>(),
            row_weight.const_data_ptr<T>()};
  }

  static constexpr const char* kOp = "blend_jaccard";
  Tensor first, row, row_weight, farthest;
};

void blend_jaccard_cuda(const Tensor& crow, const Tensor& col, const Tensor& weight,
                        const Tensor& first, const Tensor& row, const Tensor& row_weight,
                        const Tensor& farthest, int64_t first_query, double lambda,
                        Tensor distances) {
  const char* op = BlendInput::kOp;
  const OnDevice device(
      op, {&crow, &col, &weight, &first, &row, &row_weight, &farthest, &distances});
  check_rank(op, "distances", distances, 2);
  check_same_dtype(op, "weight", weight, "distances", distances);
  const int64_t num_query = distances.size(0);
  const int64_t num_columns = first.numel() - 1;
  STD_TORCH_CHECK(num_columns >= 0, op, ": first must have an offset.");
  const SparseInput rows(device, op, crow, col, weight, first_query, num_query, num_columns);
  const BlendInput in(device, first, row, row_weight, farthest, num_columns, distances);
  THO_DISPATCH_V2(distances.scalar_type(), "blend_jaccard_cuda", AT_WRAP([&] {
    device.check(launch_overlaps<scalar_t>(
        {rows.offsets() + first_query, rows.columns(), rows.weight.const_data_ptr<scalar_t>(),
         in.index<scalar_t>(), in.farthest.const_data_ptr<scalar_t>(), num_query,
         distances.size(1), 0,
         static_cast<scalar_t>(lambda), static_cast<scalar_t>(1 - lambda),
         distances.mutable_data_ptr<scalar_t>()},
        device.stream()));
  }), AT_EXPAND(AT_FLOATING_TYPES));
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, VIREID_DEVICE, m) {
  m.impl("jaccard_distance", TORCH_BOX(&vireid_fast::jaccard_distance_cuda));
  m.impl("invert_rows", TORCH_BOX(&vireid_fast::invert_rows_cuda));
  m.impl("blend_jaccard", TORCH_BOX(&vireid_fast::blend_jaccard_cuda));
}
