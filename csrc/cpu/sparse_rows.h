// Sparse rows in CSR form: the checks that reading them safely needs, and offsets of new rows.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../checks.h"

namespace vireid_fast {

inline void check_offsets(const char* op, const Tensor& crow, int64_t num_entries) {
  const int64_t* offsets = crow.const_data_ptr<int64_t>();
  const int64_t last = crow.numel() - 1;
  STD_TORCH_CHECK(last >= 0 && offsets[0] == 0 && offsets[last] == num_entries &&
                      std::is_sorted(offsets, offsets + last + 1),
                  op, ": crow must rise from 0 to ", num_entries, ".");
}

// Contiguous, checked CSR input.
struct SparseInput {
  SparseInput(const char* op, const Tensor& crow_in, const Tensor& col_in, const Tensor& weight_in)
      : crow(torch::stable::contiguous(crow_in)),
        col(torch::stable::contiguous(col_in)),
        weight(torch::stable::contiguous(weight_in)),
        num_rows(crow.numel() - 1) {
    check_dtype(op, "crow", crow, ScalarType::Long);
    check_dtype(op, "col", col, ScalarType::Long);
    check_rank(op, "weight", weight, 1);
    check_rank(op, "col", col, 1);
    check_size(op, "col", col, 0, weight.size(0));
    check_offsets(op, crow, weight.size(0));
    check_indices(op, "col", col, num_rows);
  }

  Tensor crow;
  Tensor col;
  Tensor weight;
  int64_t num_rows;
};

// Row offsets (int64 tensor beside `like`) of rows of the given sizes.
template <typename Row>
Tensor offsets_of(const Tensor& like, const std::vector<std::vector<Row>>& rows) {
  const int64_t num_rows = static_cast<int64_t>(rows.size());
  Tensor crow = torch::stable::new_empty(like, {num_rows + 1}, ScalarType::Long);
  int64_t* offsets = crow.mutable_data_ptr<int64_t>();
  offsets[0] = 0;
  for (int64_t i = 0; i < num_rows; ++i) {
    offsets[i + 1] = offsets[i] + static_cast<int64_t>(rows[i].size());
  }
  return crow;
}

}  // namespace vireid_fast
