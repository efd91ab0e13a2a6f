// Sparse rows in CSR form: the checks that reading them safely needs, and rows of unknown sizes
// made in parallel.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../checks.h"

namespace vireid_fast {

// Ids of items as the kernels hold them. Twice an id must fit, for marks of two kinds.
using Item = int32_t;
inline constexpr int64_t kMaxItems = int64_t{1} << 30;

inline void check_num_items(const char* op, int64_t num_items) {
  STD_TORCH_CHECK(num_items < kMaxItems, op, ": there must be fewer than 2^30 items, got ",
                  num_items, ".");
}

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
    check_num_items(op, num_rows);
  }

  Tensor crow;
  Tensor col;
  Tensor weight;
  int64_t num_rows;
};

// Rows whose sizes are known only once they are made. They are made in parts of consecutive rows,
// each by one thread, and then copied behind each other: the result does not depend on the number
// of threads.
template <typename Entry>
class GrowingRows {
 public:
  // `make_scratch()` gives what a thread needs; `append(scratch, row, entries)` appends one row.
  // A thread makes its rows in ascending order.
  template <typename MakeScratch, typename Append>
  GrowingRows(int64_t num_rows, MakeScratch make_scratch, Append append)
      : sizes_(num_rows), parts_((num_rows + kPartRows - 1) / kPartRows) {
    const int64_t num_parts = static_cast<int64_t>(parts_.size());
    torch::stable::parallel_for(0, num_parts, 1, [&](int64_t begin, int64_t end) {
      auto scratch = make_scratch();
      for (int64_t part = begin; part < end; ++part) {
        std::vector<Entry>& entries = parts_[part];
        const int64_t last = std::min(num_rows, (part + 1) * kPartRows);
        for (int64_t row = part * kPartRows; row < last; ++row) {
          const size_t before = entries.size();
          append(scratch, row, entries);
          sizes_[row] = static_cast<int64_t>(entries.size() - before);
        }
      }
    });
  }

  // Row offsets, an int64 tensor beside `like`.
  Tensor offsets(const Tensor& like) const {
    const int64_t num_rows = static_cast<int64_t>(sizes_.size());
    Tensor crow = torch::stable::new_empty(like, {num_rows + 1}, ScalarType::Long);
    int64_t* out = crow.mutable_data_ptr<int64_t>();
    out[0] = 0;
    for (int64_t i = 0; i < num_rows; ++i) out[i + 1] = out[i] + sizes_[i];
    return crow;
  }

  // Calls write(position, entry) for every entry; `crow` is what offsets() gave.
  template <typename Write>
  void for_each(const Tensor& crow, Write write) const {
    const int64_t* first = crow.const_data_ptr<int64_t>();
    const int64_t num_parts = static_cast<int64_t>(parts_.size());
    torch::stable::parallel_for(0, num_parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        int64_t position = first[part * kPartRows];
        for (const Entry& entry : parts_[part]) write(position++, entry);
      }
    });
  }

 private:
  static constexpr int64_t kPartRows = 512;

  std::vector<int64_t> sizes_;
  std::vector<std::vector<Entry>> parts_;
};

}  // namespace vireid_fast
