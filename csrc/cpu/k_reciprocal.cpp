// k-reciprocal encoding on the CPU: every row is made by one thread alone, so that the result does
// not depend on the number of threads. Rows first stand apart, their sizes being unknown.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "sparse_rows.h"

namespace vireid_fast {
namespace {

constexpr int64_t kGrain = 256;  // rows per thread at least

struct NeighbourLists {
  const int64_t* row(int64_t item) const { return values + item * width; }

  bool holds(int64_t item, int64_t wanted, int64_t length) const {
    const int64_t* list = row(item);
    return std::find(list, list + length, wanted) != list + length;
  }

  // Items that stand in each other's first `length` entries.
  std::vector<int64_t> reciprocal(int64_t item, int64_t length) const {
    std::vector<int64_t> found;
    for (int64_t a = 0; a < length; ++a) {
      const int64_t other = row(item)[a];
      if (holds(other, item, length)) found.push_back(other);
    }
    return found;
  }

  const int64_t* values;
  int64_t num_items;
  int64_t width;
};

using Sets = std::vector<std::vector<int64_t>>;

// Length of the half lists: numpy's around(k1 / 2), half to even, and the item itself.
int64_t half_length(int64_t k1) { return k1 / 2 + (k1 % 4 == 3 ? 1 : 0) + 1; }

Sets expanded_sets(const NeighbourLists& lists, int64_t k1) {
  const int64_t full = std::min(k1 + 1, lists.width);
  const int64_t half = std::min(half_length(k1), lists.width);
  Sets half_sets(lists.num_items);
  Sets sets(lists.num_items);
  torch::stable::parallel_for(0, lists.num_items, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) half_sets[i] = lists.reciprocal(i, half);
  });
  torch::stable::parallel_for(0, lists.num_items, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> member_of(lists.num_items, -1);  // last item whose R holds this one
    for (int64_t i = begin; i < end; ++i) {
      const std::vector<int64_t> reciprocal = lists.reciprocal(i, full);
      for (const int64_t item : reciprocal) member_of[item] = i;
      std::vector<int64_t>& set = sets[i];
      set = reciprocal;
      for (const int64_t candidate : reciprocal) {
        const std::vector<int64_t>& joining = half_sets[candidate];
        const int64_t common = std::count_if(joining.begin(), joining.end(),
                                             [&](int64_t item) { return member_of[item] == i; });
        if (3 * common > 2 * static_cast<int64_t>(joining.size())) {
          set.insert(set.end(), joining.begin(), joining.end());
        }
      }
      std::sort(set.begin(), set.end());
      set.erase(std::unique(set.begin(), set.end()), set.end());
    }
  });
  return sets;
}

std::tuple<Tensor, Tensor> k_reciprocal_sets_cpu(const Tensor& indices, int64_t k1) {
  check_rank("k_reciprocal_sets", "indices", indices, 2);
  check_dtype("k_reciprocal_sets", "indices", indices, ScalarType::Long);
  const Tensor lists = torch::stable::contiguous(indices);
  const int64_t num_items = lists.size(0);
  check_indices("k_reciprocal_sets", "indices", lists, num_items);
  const Sets sets =
      expanded_sets({lists.const_data_ptr<int64_t>(), num_items, lists.size(1)}, k1);
  const Tensor crow = offsets_of(lists, sets);
  const int64_t* offsets = crow.const_data_ptr<int64_t>();
  Tensor col = torch::stable::new_empty(lists, {offsets[num_items]});
  int64_t* columns = col.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < num_items; ++i) {
    std::copy(sets[i].begin(), sets[i].end(), columns + offsets[i]);
  }
  return {crow, col};
}

Tensor reciprocal_weights_cpu(const Tensor& crow, const Tensor& distances) {
  check_dtype("reciprocal_weights", "crow", crow, ScalarType::Long);
  const Tensor rows = torch::stable::contiguous(crow);
  const Tensor entries = torch::stable::contiguous(distances);
  check_offsets("reciprocal_weights", rows, entries.numel());
  Tensor weight = torch::stable::new_empty(entries, {entries.numel()});
  THO_DISPATCH_V2(entries.scalar_type(), "reciprocal_weights_cpu", AT_WRAP([&] {
    const int64_t* offsets = rows.const_data_ptr<int64_t>();
    const scalar_t* distance = entries.const_data_ptr<scalar_t>();
    scalar_t* out = weight.mutable_data_ptr<scalar_t>();
    torch::stable::parallel_for(0, rows.numel() - 1, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        scalar_t total = 0;
        for (int64_t e = offsets[i]; e < offsets[i + 1]; ++e) {
          out[e] = std::exp(-distance[e]);
          total += out[e];
        }
        for (int64_t e = offsets[i]; e < offsets[i + 1]; ++e) out[e] /= total;
      }
    });
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return weight;
}

template <typename T>
struct Entry {
  int64_t col;
  T weight;
};

template <typename T>
std::vector<std::vector<Entry<T>>> mean_rows(const SparseInput& rows,
                                             const NeighbourLists& lists, int64_t k2) {
  const int64_t* crow = rows.crow.const_data_ptr<int64_t>();
  const int64_t* col = rows.col.const_data_ptr<int64_t>();
  const T* weight = rows.weight.const_data_ptr<T>();
  const int64_t length = std::min(k2, lists.width);
  std::vector<std::vector<Entry<T>>> means(lists.num_items);
  torch::stable::parallel_for(0, lists.num_items, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<T> sum(lists.num_items);
    std::vector<int64_t> touched_by(lists.num_items, -1);
    std::vector<int64_t> columns;
    for (int64_t i = begin; i < end; ++i) {
      columns.clear();
      for (int64_t a = 0; a < length; ++a) {
        const int64_t neighbour = lists.row(i)[a];
        for (int64_t e = crow[neighbour]; e < crow[neighbour + 1]; ++e) {
          if (touched_by[col[e]] != i) {
            touched_by[col[e]] = i;
            sum[col[e]] = 0;
            columns.push_back(col[e]);
          }
          sum[col[e]] += weight[e];
        }
      }
      std::sort(columns.begin(), columns.end());
      means[i].reserve(columns.size());
      for (const int64_t c : columns) means[i].push_back({c, sum[c] / static_cast<T>(length)});
    }
  });
  return means;
}

std::tuple<Tensor, Tensor, Tensor> expand_query_cpu(const Tensor& crow, const Tensor& col,
                                                    const Tensor& weight, const Tensor& indices,
                                                    int64_t k2) {
  const SparseInput rows("expand_query", crow, col, weight);
  check_rank("expand_query", "indices", indices, 2);
  check_size("expand_query", "indices", indices, 0, rows.num_rows);
  check_dtype("expand_query", "indices", indices, ScalarType::Long);
  const Tensor lists = torch::stable::contiguous(indices);
  check_indices("expand_query", "indices", lists, rows.num_rows);
  Tensor mean_crow, mean_col, mean_weight;
  THO_DISPATCH_V2(weight.scalar_type(), "expand_query_cpu", AT_WRAP([&] {
    const auto means = mean_rows<scalar_t>(
        rows, {lists.const_data_ptr<int64_t>(), rows.num_rows, lists.size(1)}, k2);
    mean_crow = offsets_of(rows.crow, means);
    const int64_t num_entries = mean_crow.const_data_ptr<int64_t>()[rows.num_rows];
    mean_col = torch::stable::new_empty(rows.col, {num_entries});
    mean_weight = torch::stable::new_empty(rows.weight, {num_entries});
    int64_t* col_out = mean_col.mutable_data_ptr<int64_t>();
    scalar_t* weight_out = mean_weight.mutable_data_ptr<scalar_t>();
    for (const auto& row : means) {
      for (const auto& entry : row) {
        *col_out++ = entry.col;
        *weight_out++ = entry.weight;
      }
    }
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return {mean_crow, mean_col, mean_weight};
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("k_reciprocal_sets", TORCH_BOX(&vireid_fast::k_reciprocal_sets_cpu));
  m.impl("reciprocal_weights", TORCH_BOX(&vireid_fast::reciprocal_weights_cpu));
  m.impl("expand_query", TORCH_BOX(&vireid_fast::expand_query_cpu));
}
