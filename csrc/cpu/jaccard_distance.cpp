// Jaccard distances on the CPU: an inverted index of the gallery rows, then for each query only the
// gallery entries that share a column with it. Queries in parallel, each summed by one thread.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <atomic>
#include <tuple>
#include <vector>

#include "../reciprocal_sets.h"
#include "rerank_kernels.h"
#include "sparse_rows.h"

namespace vireid_fast {
namespace {

constexpr int64_t kGrain = 16;  // queries per thread at least

// The rows from `first_row` on, counted from 0, by column: those of column c stand at
// first[c] .. first[c + 1], in ascending order.
struct Inverted {
  Inverted(const SparseInput& rows, int64_t first_row) {
    const int64_t* crow = rows.crow.const_data_ptr<int64_t>();
    const int64_t num_entries = crow[rows.num_rows] - crow[first_row];
    first = torch::stable::new_empty(rows.crow, {rows.num_rows + 1}, ScalarType::Long);
    row = torch::stable::new_empty(rows.crow, {num_entries}, ScalarType::Int);
    weight = torch::stable::new_empty(rows.weight, {num_entries});
  }

  // Counting sort.
  template <typename T>
  void fill(const SparseInput& rows, int64_t first_row) {
    const int64_t* crow = rows.crow.const_data_ptr<int64_t>();
    const int64_t* col = rows.col.const_data_ptr<int64_t>();
    const T* weights = rows.weight.const_data_ptr<T>();
    int64_t* starts = first.mutable_data_ptr<int64_t>();
    std::fill(starts, starts + rows.num_rows + 1, 0);
    for (int64_t e = crow[first_row]; e < crow[rows.num_rows]; ++e) ++starts[col[e] + 1];
    for (int64_t c = 0; c < rows.num_rows; ++c) starts[c + 1] += starts[c];
    std::vector<int64_t> next(starts, starts + rows.num_rows);
    int32_t* row_out = row.mutable_data_ptr<int32_t>();
    T* weight_out = weight.mutable_data_ptr<T>();
    for (int64_t i = first_row; i < rows.num_rows; ++i) {
      for (int64_t e = crow[i]; e < crow[i + 1]; ++e) {
        const int64_t place = next[col[e]]++;
        row_out[place] = static_cast<int32_t>(i - first_row);
        weight_out[place] = weights[e];
      }
    }
  }

  Tensor first;
  Tensor row;
  Tensor weight;
};

std::tuple<Tensor, Tensor, Tensor> invert_rows_cpu(const Tensor& crow, const Tensor& col,
                                                   const Tensor& weight, int64_t first_row) {
  const SparseInput rows("invert_rows", crow, col, weight);
  STD_TORCH_CHECK(first_row >= 0 && first_row <= rows.num_rows,
                  "invert_rows: first_row must lie in [0, ", rows.num_rows, "], got ", first_row,
                  ".");
  Inverted inverted(rows, first_row);
  THO_DISPATCH_V2(weight.scalar_type(), "invert_rows_cpu", AT_WRAP([&] {
    inverted.fill<scalar_t>(rows, first_row);
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return {inverted.first, inverted.row, inverted.weight};
}

// Sums of minima of one sparse row with all inverted rows. What would leave memory is left out and
// reported: the index is large, and checking it before every block of queries would cost more.
template <typename T>
struct OverlapSum {
  OverlapSum(const Tensor& first_in, const Tensor& row_in, const Tensor& weight_in,
             int64_t num_gallery)
      : first(first_in.const_data_ptr<int64_t>()),
        row(row_in.const_data_ptr<int32_t>()),
        weight(weight_in.const_data_ptr<T>()),
        num_columns(first_in.numel() - 1),
        num_entries(row_in.numel()),
        num_rows(static_cast<uint32_t>(num_gallery)) {}

  bool add(const int64_t* col, const T* mine, int64_t count, T* overlap) const {
    bool inside = true;
    for (int64_t e = 0; e < count; ++e) {
      if (col[e] < 0 || col[e] >= num_columns) return false;
      const int64_t begin = first[col[e]];
      const int64_t end = first[col[e] + 1];
      if (begin < 0 || end > num_entries) return false;
      const T own = mine[e];
      for (int64_t i = begin; i < end; ++i) {
        const uint32_t other = static_cast<uint32_t>(row[i]);
        if (other >= num_rows) {
          inside = false;
          continue;
        }
        overlap[other] += smaller_weight(weight[i], own);
      }
    }
    return inside;
  }

  const int64_t* first;
  const int32_t* row;
  const T* weight;
  int64_t num_columns;
  int64_t num_entries;
  uint32_t num_rows;
};

template <typename T>
void fill(const SparseInput& rows, int64_t num_query, T* out) {
  const int64_t num_gallery = rows.num_rows - num_query;
  Inverted inverted(rows, num_query);
  inverted.fill<T>(rows, num_query);
  const OverlapSum<T> sum(inverted.first, inverted.row, inverted.weight, num_gallery);
  const int64_t* crow = rows.crow.const_data_ptr<int64_t>();
  const int64_t* col = rows.col.const_data_ptr<int64_t>();
  const T* weight = rows.weight.const_data_ptr<T>();
  torch::stable::parallel_for(0, num_query, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t query = begin; query < end; ++query) {
      T* row = out + query * num_gallery;
      std::fill(row, row + num_gallery, T(0));
      const int64_t entry = crow[query];
      sum.add(col + entry, weight + entry, crow[query + 1] - entry, row);
      for (int64_t g = 0; g < num_gallery; ++g) row[g] = jaccard_of_overlap(row[g]);
    }
  });
}

Tensor jaccard_distance_cpu(const Tensor& crow, const Tensor& col, const Tensor& weight,
                            int64_t num_query) {
  const char* op = "jaccard_distance";
  const SparseInput rows(op, crow, col, weight);
  STD_TORCH_CHECK(num_query >= 0 && num_query <= rows.num_rows, op,
                  ": num_query must lie in [0, ", rows.num_rows, "], got ", num_query, ".");
  Tensor out = torch::stable::new_empty(rows.weight, {num_query, rows.num_rows - num_query});
  THO_DISPATCH_V2(weight.scalar_type(), "jaccard_distance_cpu", AT_WRAP([&] {
    fill<scalar_t>(rows, num_query, out.mutable_data_ptr<scalar_t>());
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return out;
}

// The gallery's index, and the rows of the queries first_query .. first_query + B.
struct BlendInput {
  BlendInput(const Tensor& crow_in, const Tensor& col_in, const Tensor& weight_in,
             const Tensor& first_in, const Tensor& row_in, const Tensor& row_weight_in,
             const Tensor& farthest_in, int64_t first_query, const Tensor& distances)
      : crow(torch::stable::contiguous(crow_in)),
        col(torch::stable::contiguous(col_in)),
        weight(torch::stable::contiguous(weight_in)),
        first(torch::stable::contiguous(first_in)),
        row(torch::stable::contiguous(row_in)),
        row_weight(torch::stable::contiguous(row_weight_in)),
        farthest(torch::stable::contiguous(farthest_in)) {
    check_rank(kOp, "distances", distances, 2);
    STD_TORCH_CHECK(distances.is_contiguous(), kOp, ": distances must be contiguous.");
    check_num_items(kOp, distances.size(1));
    for (const auto& [name, tensor] : {std::pair{"crow", &crow}, {"col", &col},
                                       {"first", &first}}) {
      check_rank(kOp, name, *tensor, 1);
      check_dtype(kOp, name, *tensor, ScalarType::Long);
    }
    check_rank(kOp, "row", row, 1);
    check_dtype(kOp, "row", row, ScalarType::Int);
    check_size(kOp, "row_weight", row_weight, 0, row.size(0));
    check_size(kOp, "weight", weight, 0, col.size(0));
    check_size(kOp, "farthest", farthest, 0, distances.size(0));
    check_same_dtype(kOp, "weight", weight, "distances", distances);
    check_same_dtype(kOp, "row_weight", row_weight, "distances", distances);
    check_same_dtype(kOp, "farthest", farthest, "distances", distances);
    STD_TORCH_CHECK(first.numel() >= 1, kOp, ": first must have an offset.");
    const int64_t last = first_query + distances.size(0);
    STD_TORCH_CHECK(first_query >= 0 && last < crow.numel(), kOp, ": first_query must lie in [0, ",
                    crow.numel() - distances.size(0), "), got ", first_query, ".");
    const int64_t* offsets = crow.const_data_ptr<int64_t>();
    STD_TORCH_CHECK(offsets[first_query] >= 0 && offsets[last] <= col.numel() &&
                        std::is_sorted(offsets + first_query, offsets + last + 1),
                    kOp, ": crow must rise within the entries.");
  }

  static constexpr const char* kOp = "blend_jaccard";
  Tensor crow, col, weight, first, row, row_weight, farthest;
};

// Whether everything pointed to where it may.
template <typename T>
bool blend(const BlendInput& in, int64_t first_query, double lambda, int64_t num_query,
           int64_t num_gallery, T* out) {
  const OverlapSum<T> sum(in.first, in.row, in.row_weight, num_gallery);
  const auto blend_row = rerank_kernels().of<T>().blend_row;
  const int64_t* crow = in.crow.const_data_ptr<int64_t>() + first_query;
  const int64_t* col = in.col.const_data_ptr<int64_t>();
  const T* weight = in.weight.const_data_ptr<T>();
  const T* farthest = in.farthest.const_data_ptr<T>();
  const T rest = static_cast<T>(1 - lambda);
  std::atomic<bool> inside{true};
  torch::stable::parallel_for(0, num_query, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<T> overlap(num_gallery);
    for (int64_t query = begin; query < end; ++query) {
      const int64_t entry = crow[query];
      const int64_t count = crow[query + 1] - entry;
      if (!sum.add(col + entry, weight + entry, count, overlap.data())) inside = false;
      blend_row(overlap.data(), num_gallery, farthest[query], static_cast<T>(lambda), rest,
                out + query * num_gallery);
    }
  });
  return inside;
}

void blend_jaccard_cpu(const Tensor& crow, const Tensor& col, const Tensor& weight,
                       const Tensor& first, const Tensor& row, const Tensor& row_weight,
                       const Tensor& farthest, int64_t first_query, double lambda,
                       const Tensor& distances) {
  const BlendInput in(crow, col, weight, first, row, row_weight, farthest, first_query, distances);
  bool inside = false;
  THO_DISPATCH_V2(distances.scalar_type(), "blend_jaccard_cpu", AT_WRAP([&] {
    inside = blend<scalar_t>(in, first_query, lambda, distances.size(0), distances.size(1),
                             distances.mutable_data_ptr<scalar_t>());
  }), AT_EXPAND(AT_FLOATING_TYPES));
  STD_TORCH_CHECK(inside, "blend_jaccard: the index must point to its own entries and to the ",
                  distances.size(1), " gallery rows.");
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("jaccard_distance", TORCH_BOX(&vireid_fast::jaccard_distance_cpu));
  m.impl("invert_rows", TORCH_BOX(&vireid_fast::invert_rows_cpu));
  m.impl("blend_jaccard", TORCH_BOX(&vireid_fast::blend_jaccard_cpu));
}
