// Contiguous CSR input of a binding, checked on the GPU: what is read must lie in memory.
#pragma once

#include "binding.h"
#include "sparse_rows.cuh"

namespace vireid_fast {

struct SparseInput {
  // Square: columns are rows.
  SparseInput(const OnDevice& device, const char* op, const Tensor& crow_in, const Tensor& col_in,
              const Tensor& weight_in)
      : SparseInput(op, crow_in, col_in, weight_in) {
    check_structure(device, op, 0, num_rows, num_rows, false);
  }

  // Of which rows first_row .. first_row + rows are read, with any number of columns.
  SparseInput(const OnDevice& device, const char* op, const Tensor& crow_in, const Tensor& col_in,
              const Tensor& weight_in, int64_t first_row, int64_t rows, int64_t num_columns)
      : SparseInput(op, crow_in, col_in, weight_in) {
    STD_TORCH_CHECK(first_row >= 0 && first_row + rows <= num_rows, op, ": rows ", first_row,
                    " to ", first_row + rows, " must lie in [0, ", num_rows, "].");
    check_structure(device, op, first_row, rows, num_columns, true);
  }

  const int64_t* offsets() const { return crow.const_data_ptr<int64_t>(); }
  const int64_t* columns() const { return col.const_data_ptr<int64_t>(); }

  Tensor crow;
  Tensor col;
  Tensor weight;
  int64_t num_rows;

 private:
  SparseInput(const char* op, const Tensor& crow_in, const Tensor& col_in, const Tensor& weight_in)
      : crow(torch::stable::contiguous(crow_in)),
        col(torch::stable::contiguous(col_in)),
        weight(torch::stable::contiguous(weight_in)),
        num_rows(crow.numel() - 1) {
    check_rank(op, "crow", crow, 1);
    check_dtype(op, "crow", crow, ScalarType::Long);
    check_rank(op, "col", col, 1);
    check_dtype(op, "col", col, ScalarType::Long);
    check_rank(op, "weight", weight, 1);
    check_size(op, "col", col, 0, weight.size(0));
    STD_TORCH_CHECK(num_rows >= 0 && num_rows < INT32_MAX, op, ": crow must have an offset.");
  }

  void check_structure(const OnDevice& device, const char* op, int64_t first_row, int64_t rows,
                       int64_t num_columns, bool part) const {
    const int64_t entries = weight.numel();
    Raised<int> broken(device, crow);
    device.check(launch_check_offsets(offsets() + first_row, rows, entries, part, broken.data(),
                                      device.stream()));
    device.check(launch_check_indices(columns(), entries, num_columns, broken.data(),
                                      device.stream()));
    STD_TORCH_CHECK(broken.fetch() == 0, op, ": crow must rise within ", entries,
                    " entries and col must lie in [0, ", num_columns, ").");
  }
};

}  // namespace vireid_fast
