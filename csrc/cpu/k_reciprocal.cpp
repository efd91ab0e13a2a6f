// k-reciprocal encoding on the CPU: every row is made by one thread alone, so that the result does
// not depend on the number of threads. The set logic is that of reciprocal_sets.h.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "../reciprocal_sets.h"
#include "sparse_rows.h"

namespace vireid_fast {
namespace {

constexpr int64_t kGrain = 256;  // rows per thread at least

// The first `length` columns of checked lists, narrow: they are gathered from all over.
std::vector<Item> narrow_lists(const char* op, const Tensor& indices, int64_t length) {
  check_rank(op, "indices", indices, 2);
  check_dtype(op, "indices", indices, ScalarType::Long);
  const Tensor lists = torch::stable::contiguous(indices);
  const int64_t num_items = lists.size(0);
  const int64_t width = lists.size(1);
  check_num_items(op, num_items);
  check_indices(op, "indices", lists, num_items);
  std::vector<Item> narrow(num_items * length);
  const int64_t* values = lists.const_data_ptr<int64_t>();
  torch::stable::parallel_for(0, num_items, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t a = 0; a < length; ++a) {
        narrow[i * length + a] = static_cast<Item>(values[i * width + a]);
      }
    }
  });
  return narrow;
}

// Members of the set of one row, marked in a table of all items: 2 row + 1 if in R, 2 row if joined
// later. Rows ascend, so that marks of earlier rows are smaller.
struct MarkedMembers {
  bool original(Item item) const { return marks[item] == 2 * row + 1; }

  bool add(Item item) {
    if (marks[item] >= 2 * row) return false;
    marks[item] = 2 * row;
    return true;
  }

  std::vector<Item>& marks;
  Item row;
};

// Appends distinct items in ascending order.
void append_ascending(std::vector<Item>& items, std::vector<Item>& entries) {
  // Counting the smaller ones beats a sort while that vectorises over few.
  constexpr size_t kFew = 128;
  if (items.size() > kFew) {
    std::sort(items.begin(), items.end());
    entries.insert(entries.end(), items.begin(), items.end());
    return;
  }
  const size_t before = entries.size();
  entries.resize(before + items.size());
  for (const Item item : items) {
    Item rank = 0;
    for (const Item other : items) rank += other < item;
    entries[before + rank] = item;
  }
}

struct SetScratch {
  std::vector<Item> marks;
  std::vector<Item> set;
};

GrowingRows<Item> expanded_sets(const std::vector<Item>& values, int64_t num_items, int64_t full,
                                int64_t half) {
  const NeighbourLists<Item> lists{values.data(), full};
  std::vector<Item> half_values(num_items * half);
  std::vector<Item> half_counts(num_items);
  torch::stable::parallel_for(0, num_items, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      half_counts[i] = static_cast<Item>(mutual_neighbours(lists, static_cast<Item>(i), half,
                                                           half_values.data() + i * half));
    }
  });
  const HalfSets<Item> half_sets{half_values.data(), half_counts.data(), half};
  return GrowingRows<Item>(
      num_items,
      [&] {
        return SetScratch{std::vector<Item>(num_items, -1), {}};
      },
      [&](SetScratch& scratch, int64_t row, std::vector<Item>& entries) {
        const Item item = static_cast<Item>(row);
        scratch.set.resize(expanded_set_bound(full, half, num_items));
        Item* set = scratch.set.data();
        const int64_t found = mutual_neighbours(lists, item, full, set);
        // Lists should hold no item twice; here it would do harm.
        int64_t count = 0;
        for (int64_t a = 0; a < found; ++a) {
          if (scratch.marks[set[a]] == 2 * item + 1) continue;
          scratch.marks[set[a]] = 2 * item + 1;
          set[count++] = set[a];
        }
        MarkedMembers members{scratch.marks, item};
        scratch.set.resize(expand_set(half_sets, set, count, members));
        append_ascending(scratch.set, entries);
      });
}

std::tuple<Tensor, Tensor> k_reciprocal_sets_cpu(const Tensor& indices, int64_t k1) {
  check_rank("k_reciprocal_sets", "indices", indices, 2);
  const int64_t full = std::min(k1 + 1, indices.size(1));
  const int64_t half = std::min(half_list_length(k1), full);
  const std::vector<Item> lists = narrow_lists("k_reciprocal_sets", indices, full);
  const GrowingRows<Item> sets = expanded_sets(lists, indices.size(0), full, half);
  const Tensor crow = sets.offsets(indices);
  Tensor col = torch::stable::new_empty(
      indices, {crow.const_data_ptr<int64_t>()[indices.size(0)]});
  int64_t* columns = col.mutable_data_ptr<int64_t>();
  sets.for_each(crow, [&](int64_t position, Item item) { columns[position] = item; });
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
  Item col;
  T weight;
};

template <typename T>
struct MeanScratch {
  std::vector<T> sum;
  std::vector<Item> touched_by;  // last row that has this column
  std::vector<Item> columns;
  std::vector<Item> ascending;
};

template <typename T>
GrowingRows<Entry<T>> mean_rows(const SparseInput& rows, const std::vector<Item>& lists,
                                int64_t length) {
  const int64_t* crow = rows.crow.const_data_ptr<int64_t>();
  const int64_t* col = rows.col.const_data_ptr<int64_t>();
  const T* weight = rows.weight.const_data_ptr<T>();
  const int64_t num_rows = rows.num_rows;
  return GrowingRows<Entry<T>>(
      num_rows,
      [&] { return MeanScratch<T>{std::vector<T>(num_rows), std::vector<Item>(num_rows, -1), {}, {}}; },
      [&](MeanScratch<T>& scratch, int64_t row, std::vector<Entry<T>>& entries) {
        scratch.columns.clear();
        for (int64_t a = 0; a < length; ++a) {
          const Item neighbour = lists[row * length + a];
          for (int64_t e = crow[neighbour]; e < crow[neighbour + 1]; ++e) {
            const Item column = static_cast<Item>(col[e]);
            if (scratch.touched_by[column] == row) {
              scratch.sum[column] += weight[e];
            } else {
              scratch.touched_by[column] = static_cast<Item>(row);
              scratch.sum[column] = weight[e];
              scratch.columns.push_back(column);
            }
          }
        }
        scratch.ascending.clear();
        append_ascending(scratch.columns, scratch.ascending);
        for (const Item column : scratch.ascending) {
          entries.push_back({column, scratch.sum[column] / static_cast<T>(length)});
        }
      });
}

std::tuple<Tensor, Tensor, Tensor> expand_query_cpu(const Tensor& crow, const Tensor& col,
                                                    const Tensor& weight, const Tensor& indices,
                                                    int64_t k2) {
  const SparseInput rows("expand_query", crow, col, weight);
  check_rank("expand_query", "indices", indices, 2);
  check_size("expand_query", "indices", indices, 0, rows.num_rows);
  const int64_t length = std::min(k2, indices.size(1));
  const std::vector<Item> lists = narrow_lists("expand_query", indices, length);
  Tensor mean_crow, mean_col, mean_weight;
  THO_DISPATCH_V2(weight.scalar_type(), "expand_query_cpu", AT_WRAP([&] {
    const GrowingRows<Entry<scalar_t>> means = mean_rows<scalar_t>(rows, lists, length);
    mean_crow = means.offsets(rows.crow);
    const int64_t num_entries = mean_crow.const_data_ptr<int64_t>()[rows.num_rows];
    mean_col = torch::stable::new_empty(rows.col, {num_entries});
    mean_weight = torch::stable::new_empty(rows.weight, {num_entries});
    int64_t* col_out = mean_col.mutable_data_ptr<int64_t>();
    scalar_t* weight_out = mean_weight.mutable_data_ptr<scalar_t>();
    means.for_each(mean_crow, [&](int64_t position, const Entry<scalar_t>& entry) {
      col_out[position] = entry.col;
      weight_out[position] = entry.weight;
    });
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
