// Neighbour lists on their way to the k-reciprocal sets on the CPU: their order by normalised
// distance, and the distances of set entries, which mostly stand in the lists already.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "kernels.h"
#include "sparse_rows.h"

namespace vireid_fast {
namespace {

constexpr int64_t kGrain = 256;  // rows per thread at least

struct CandidateInput {
  CandidateInput(const char* op, const Tensor& distances_in, const Tensor& indices_in)
      : distances(torch::stable::contiguous(distances_in)),
        indices(torch::stable::contiguous(indices_in)) {
    check_rank(op, "distances", distances, 2);
    check_rank(op, "indices", indices, 2);
    check_dtype(op, "indices", indices, ScalarType::Long);
    check_size(op, "indices", indices, 0, distances.size(0));
    check_size(op, "indices", indices, 1, distances.size(1));
  }

  Tensor distances;
  Tensor indices;
};

template <typename T>
struct Candidate {
  T distance;
  int64_t index;

  bool operator<(const Candidate& other) const {
    return distance < other.distance || (distance == other.distance && index < other.index);
  }
};

// The row in the order (distance / farthest, index). It comes in nearly that order: the division
// only merges distances.
template <typename T>
void order_row(const T* distances, const int64_t* indices, int64_t width, T farthest,
               std::vector<Candidate<T>>& row) {
  // 0 / 0 has no order; all items of such a row tie, as they do for a stable sort of NaN.
  const T scale = farthest > 0 ? farthest : T(1);
  for (int64_t i = 0; i < width; ++i) {
    const Candidate<T> candidate{distances[i] / scale, indices[i]};
    int64_t at = i;
    for (; at > 0 && candidate < row[at - 1]; --at) row[at] = row[at - 1];
    row[at] = candidate;
  }
}

std::tuple<Tensor, Tensor> rank_normalised_cpu(const Tensor& distances, const Tensor& indices,
                                               const Tensor& farthest, int64_t k) {
  const char* op = "rank_normalised";
  const CandidateInput lists(op, distances, indices);
  const int64_t num_rows = lists.distances.size(0);
  const int64_t width = lists.distances.size(1);
  check_rank(op, "farthest", farthest, 1);
  check_size(op, "farthest", farthest, 0, num_rows);
  check_same_dtype(op, "farthest", farthest, "distances", distances);
  STD_TORCH_CHECK(k >= 1 && k <= width, op, ": k must lie in [1, ", width, "], got ", k, ".");
  const Tensor scales = torch::stable::contiguous(farthest);
  Tensor ranked = torch::stable::new_empty(indices, {num_rows, k});
  Tensor open = torch::stable::new_empty(indices, {num_rows}, ScalarType::Bool);
  THO_DISPATCH_V2(distances.scalar_type(), "rank_normalised_cpu", AT_WRAP([&] {
    const scalar_t* values = lists.distances.const_data_ptr<scalar_t>();
    const int64_t* items = lists.indices.const_data_ptr<int64_t>();
    const scalar_t* scale = scales.const_data_ptr<scalar_t>();
    int64_t* out = ranked.mutable_data_ptr<int64_t>();
    bool* undecided = open.mutable_data_ptr<bool>();
    torch::stable::parallel_for(0, num_rows, kGrain, [&](int64_t begin, int64_t end) {
      std::vector<Candidate<scalar_t>> row(width);
      for (int64_t i = begin; i < end; ++i) {
        order_row(values + i * width, items + i * width, width, scale[i], row);
        for (int64_t a = 0; a < k; ++a) out[i * k + a] = row[a].index;
        undecided[i] = row[k - 1].distance == row[width - 1].distance;
      }
    });
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return {ranked, open};
}

// Rows of queries, then of gallery items, as one.
template <typename T>
struct ItemRows {
  ItemRows(const Tensor& queries, const Tensor& items)
      : query(queries.const_data_ptr<T>()),
        gallery(items.const_data_ptr<T>()),
        num_query(queries.size(0)),
        width(queries.size(1)) {}

  const T* row(int64_t item) const {
    return item < num_query ? query + item * width : gallery + (item - num_query) * width;
  }

  const T* query;
  const T* gallery;
  int64_t num_query;
  int64_t width;
};

template <typename T>
void measure_entries(const ItemRows<T>& features, const SparseInput& rows,
                     const CandidateInput& lists, T* out) {
  const auto distance_tile = kernels().distance_tile<T>();
  const T* known = lists.distances.const_data_ptr<T>();
  const int64_t* items = lists.indices.const_data_ptr<int64_t>();
  const int64_t* crow = rows.crow.const_data_ptr<int64_t>();
  const int64_t* col = rows.col.const_data_ptr<int64_t>();
  const int64_t listed = lists.indices.size(1);
  torch::stable::parallel_for(0, rows.num_rows, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<Item> listed_by(rows.num_rows, -1);  // last row whose list has this item
    std::vector<T> distance(rows.num_rows);
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t a = i * listed; a < (i + 1) * listed; ++a) {
        listed_by[items[a]] = static_cast<Item>(i);
        distance[items[a]] = known[a];
      }
      for (int64_t e = crow[i]; e < crow[i + 1]; ++e) {
        const int64_t* list = items + col[e] * listed;
        if (listed_by[col[e]] == i) {
          out[e] = distance[col[e]];
        } else if (const int64_t* found = std::find(list, list + listed, i);
                   found != list + listed) {
          // The pair stands in the other's list: its distance has the same bits.
          out[e] = known[found - items];
        } else {
          distance_tile(Product::kSquaredDifference, features.row(i), 1, features.row(col[e]), 1,
                        features.width, out + e, 1);
        }
      }
    }
  });
}

Tensor entry_distance_cpu(const Tensor& query, const Tensor& gallery, const Tensor& crow,
                          const Tensor& col, const Tensor& distances, const Tensor& indices) {
  const char* op = "entry_distance";
  check_rank(op, "query", query, 2);
  check_rank(op, "gallery", gallery, 2);
  check_size(op, "gallery", gallery, 1, query.size(1));
  check_same_dtype(op, "gallery", gallery, "query", query);
  check_same_dtype(op, "distances", distances, "query", query);
  const Tensor queries = torch::stable::contiguous(query);
  const Tensor items = torch::stable::contiguous(gallery);
  const CandidateInput lists(op, distances, indices);
  const int64_t num_items = query.size(0) + gallery.size(0);
  check_size(op, "indices", lists.indices, 0, num_items);
  check_indices(op, "indices", lists.indices, num_items);
  const SparseInput rows(op, crow, col, col);
  STD_TORCH_CHECK(rows.num_rows == num_items, op, ": crow must have ", num_items + 1,
                  " offsets, got ", rows.num_rows + 1, ".");
  Tensor out = torch::stable::new_empty(query, {col.numel()});
  THO_DISPATCH_V2(query.scalar_type(), "entry_distance_cpu", AT_WRAP([&] {
    measure_entries<scalar_t>(ItemRows<scalar_t>(queries, items), rows, lists,
                              out.mutable_data_ptr<scalar_t>());
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return out;
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("rank_normalised", TORCH_BOX(&vireid_fast::rank_normalised_cpu));
  m.impl("entry_distance", TORCH_BOX(&vireid_fast::entry_distance_cpu));
}
