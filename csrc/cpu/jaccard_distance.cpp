// Jaccard distances on the CPU: an inverted index of the gallery rows, then for each query only the
// gallery entries that share a column with it. Queries in parallel, each summed by one thread.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <vector>

#include "sparse_rows.h"

namespace vireid_fast {
namespace {

constexpr const char* kOp = "jaccard_distance";

template <typename T>
struct InvertedIndex {
  struct Entry {
    int64_t gallery;
    T weight;
  };

  // Counting sort of the gallery entries by column.
  InvertedIndex(const SparseInput& rows, int64_t num_query) : first(rows.num_rows + 1, 0) {
    const int64_t* crow = rows.crow.const_data_ptr<int64_t>();
    const int64_t* col = rows.col.const_data_ptr<int64_t>();
    const T* weight = rows.weight.const_data_ptr<T>();
    for (int64_t e = crow[num_query]; e < crow[rows.num_rows]; ++e) ++first[col[e] + 1];
    for (int64_t c = 0; c < rows.num_rows; ++c) first[c + 1] += first[c];
    entries.resize(first[rows.num_rows]);
    std::vector<int64_t> next(first.begin(), first.end() - 1);
    for (int64_t row = num_query; row < rows.num_rows; ++row) {
      for (int64_t e = crow[row]; e < crow[row + 1]; ++e) {
        entries[next[col[e]]++] = {row - num_query, weight[e]};
      }
    }
  }

  std::vector<int64_t> first;  // offsets of the columns in `entries`
  std::vector<Entry> entries;
};

// NaN if either side is, as numpy's minimum.
template <typename T>
T smaller(T a, T b) {
  return a < b || a != a ? a : b;
}

template <typename T>
void fill(const SparseInput& rows, int64_t num_query, T* out) {
  const int64_t num_gallery = rows.num_rows - num_query;
  const InvertedIndex<T> index(rows, num_query);
  const int64_t* crow = rows.crow.const_data_ptr<int64_t>();
  const int64_t* col = rows.col.const_data_ptr<int64_t>();
  const T* weight = rows.weight.const_data_ptr<T>();
  torch::stable::parallel_for(0, num_query, 16, [&](int64_t begin, int64_t end) {
    for (int64_t query = begin; query < end; ++query) {
      T* row = out + query * num_gallery;
      std::fill(row, row + num_gallery, T(0));
      for (int64_t e = crow[query]; e < crow[query + 1]; ++e) {
        const T mine = weight[e];
        for (int64_t i = index.first[col[e]]; i < index.first[col[e] + 1]; ++i) {
          const auto& entry = index.entries[i];
          row[entry.gallery] += smaller(entry.weight, mine);
        }
      }
      for (int64_t g = 0; g < num_gallery; ++g) {
        const T distance = 1 - row[g] / (2 - row[g]);
        // Rows that sum to 1 only up to rounding could fall below 0 by as much; NaN stays.
        row[g] = distance < 0 ? T(0) : distance;
      }
    }
  });
}

Tensor jaccard_distance_cpu(const Tensor& crow, const Tensor& col, const Tensor& weight,
                            int64_t num_query) {
  const SparseInput rows(kOp, crow, col, weight);
  STD_TORCH_CHECK(num_query >= 0 && num_query <= rows.num_rows, kOp,
                  ": num_query must lie in [0, ", rows.num_rows, "], got ", num_query, ".");
  Tensor out = torch::stable::new_empty(rows.weight, {num_query, rows.num_rows - num_query});
  THO_DISPATCH_V2(weight.scalar_type(), "jaccard_distance_cpu", AT_WRAP([&] {
    fill<scalar_t>(rows, num_query, out.mutable_data_ptr<scalar_t>());
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return out;
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("jaccard_distance", TORCH_BOX(&vireid_fast::jaccard_distance_cpu));
}
