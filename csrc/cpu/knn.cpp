// k nearest neighbours on the CPU, in the order (distance, index). Large float32 searches go through
// neighbour_filter.h. Of a small set among itself all distances are held, each computed once. Else
// blocks of query rows run in parallel, the database streamed past each through distance_tile, so that
// no distance matrix is stored.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "../checks.h"
#include "kernels.h"
#include "neighbour_filter.h"

namespace vireid_fast {
namespace {

constexpr int64_t kTileRows = 32;
constexpr int64_t kTileCols = 256;
constexpr int64_t kSmallSet = 1024;  // items whose distances, 4 or 8 MB, may be held

template <typename T>
struct Neighbour {
  T distance;
  int64_t index;

  // NaN stands behind everything.
  bool operator<(const Neighbour& other) const {
    if (distance < other.distance) return true;
    if (distance > other.distance) return false;
    const bool nan = distance != distance;
    const bool other_nan = other.distance != other.distance;
    return nan == other_nan ? index < other.index : other_nan;
  }
};

// The k smallest of a row that arrives in pieces of ascending index, and its largest value.
template <typename T>
class NearestList {
 public:
  explicit NearestList(int64_t k) : k_(k) { heap_.reserve(k); }

  void clear() {
    heap_.clear();
    farthest_ = -std::numeric_limits<T>::infinity();
  }

  void scan(const T* values, int64_t count, int64_t first_index) {
    // Most groups hold neither a neighbour nor a new maximum; this look at them is vectorised.
    // The comparisons are negated to let NaN through to the exact test.
    constexpr int64_t kGroup = 16;
    int64_t i = 0;
    for (; i + kGroup <= count; i += kGroup) {
      const T nearer_than = threshold();
      int hit = 0;
      for (int64_t lane = 0; lane < kGroup; ++lane) {
        const T value = values[i + lane];
        hit |= !(value >= nearer_than) | !(value <= farthest_);
      }
      if (hit) scan_each(values + i, kGroup, first_index + i);
    }
    scan_each(values + i, count - i, first_index + i);
  }

  void write(T* distances, int64_t* indices, T* farthest) {
    std::sort_heap(heap_.begin(), heap_.end());
    for (const Neighbour<T>& neighbour : heap_) {
      *distances++ = neighbour.distance;
      *indices++ = neighbour.index;
    }
    *farthest = farthest_;
  }

 private:
  bool full() const { return static_cast<int64_t>(heap_.size()) == k_; }

  // A later item must lie below this, since at equal distance the lower index is kept. While the
  // list is not full, NaN lets everything through.
  T threshold() const {
    return full() ? heap_.front().distance : std::numeric_limits<T>::quiet_NaN();
  }

  void scan_each(const T* values, int64_t count, int64_t first_index) {
    for (int64_t i = 0; i < count; ++i) {
      const Neighbour<T> item{values[i], first_index + i};
      if (item.distance > farthest_ || item.distance != item.distance) farthest_ = item.distance;
      if (full()) {
        if (!(item < heap_.front())) continue;
        std::pop_heap(heap_.begin(), heap_.end());
        heap_.back() = item;
      } else {
        heap_.push_back(item);
      }
      std::push_heap(heap_.begin(), heap_.end());
    }
  }

  int64_t k_;
  std::vector<Neighbour<T>> heap_;  // the worst of the kept items at the front
  T farthest_ = -std::numeric_limits<T>::infinity();
};

struct Lists {
  Lists(const Tensor& like, int64_t rows, int64_t k)
      : distances(torch::stable::new_empty(like, {rows, k})),
        indices(torch::stable::new_empty(like, {rows, k}, ScalarType::Long)),
        farthest(torch::stable::new_empty(like, {rows})),
        width(k) {}

  template <typename T>
  void write(int64_t row, NearestList<T>& list) {
    list.write(distances.mutable_data_ptr<T>() + row * width,
               indices.mutable_data_ptr<int64_t>() + row * width,
               farthest.mutable_data_ptr<T>() + row);
  }

  std::tuple<Tensor, Tensor, Tensor> outputs() const { return {distances, indices, farthest}; }

  Tensor distances;
  Tensor indices;
  Tensor farthest;
  int64_t width;
};

template <typename T>
void select_rows(const T* values, int64_t num_rows, int64_t num_items, Lists& lists) {
  torch::stable::parallel_for(0, num_rows, 1, [&](int64_t begin, int64_t end) {
    NearestList<T> list(lists.width);
    for (int64_t row = begin; row < end; ++row) {
      list.clear();
      list.scan(values + row * num_items, num_items, 0);
      lists.write(row, list);
    }
  });
}

template <typename T>
void search(const T* query, int64_t num_query, const T* database, int64_t num_items,
            int64_t width, Lists& lists) {
  const auto distance_tile = kernels().distance_tile<T>();
  const int64_t blocks = (num_query + kTileRows - 1) / kTileRows;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> tile(kTileRows * kTileCols);
    std::vector<NearestList<T>> nearest(kTileRows, NearestList<T>(lists.width));
    for (int64_t block = begin; block < end; ++block) {
      const int64_t row = block * kTileRows;
      const int64_t rows = std::min(kTileRows, num_query - row);
      for (NearestList<T>& list : nearest) list.clear();
      for (int64_t col = 0; col < num_items; col += kTileCols) {
        const int64_t cols = std::min(kTileCols, num_items - col);
        distance_tile(Product::kSquaredDifference, query + row * width, rows,
                      database + col * width, cols, width, tile.data(), kTileCols);
        for (int64_t r = 0; r < rows; ++r) nearest[r].scan(&tile[r * kTileCols], cols, col);
      }
      for (int64_t r = 0; r < rows; ++r) lists.write(row + r, nearest[r]);
    }
  });
}

// A set among itself: the distances of two rows have the same bits in both directions.
template <typename T>
void search_small_set(const T* rows, int64_t num_items, int64_t width, Lists& lists) {
  const auto distance_tile = kernels().distance_tile<T>();
  constexpr int64_t kBlock = kTileRows;
  const int64_t blocks = (num_items + kBlock - 1) / kBlock;
  std::vector<std::pair<int64_t, int64_t>> tiles;
  for (int64_t a = 0; a < blocks; ++a) {
    for (int64_t b = a; b < blocks; ++b) tiles.emplace_back(a * kBlock, b * kBlock);
  }
  std::vector<T> matrix(num_items * num_items);
  torch::stable::parallel_for(0, static_cast<int64_t>(tiles.size()), 1, [&](int64_t begin,
                                                                            int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const auto [row, col] = tiles[tile];
      const int64_t height = std::min(kBlock, num_items - row);
      const int64_t across = std::min(kBlock, num_items - col);
      T* corner = matrix.data() + row * num_items + col;
      distance_tile(Product::kSquaredDifference, rows + row * width, height, rows + col * width,
                    across, width, corner, num_items);
      if (row == col) continue;
      for (int64_t c = 0; c < across; ++c) {
        T* mirrored = matrix.data() + (col + c) * num_items + row;
        for (int64_t r = 0; r < height; ++r) mirrored[r] = corner[r * num_items + c];
      }
    }
  });
  select_rows(matrix.data(), num_items, num_items, lists);
}

std::tuple<Tensor, Tensor, Tensor> knn_cpu(const Tensor& query, const Tensor& database,
                                           int64_t k) {
  check_rank("knn", "query", query, 2);
  check_rank("knn", "database", database, 2);
  check_size("knn", "database", database, 1, query.size(1));
  check_same_dtype("knn", "database", database, "query", query);
  STD_TORCH_CHECK(k >= 1 && database.size(0) >= 1,
                  "knn: k must be at least 1 and database must have a row.");
  const Tensor rows = torch::stable::contiguous(query);
  const Tensor items = torch::stable::contiguous(database);
  Lists lists(rows, rows.size(0), std::min(k, items.size(0)));
  const bool alone = rows.const_data_ptr() == items.const_data_ptr() &&
                     rows.size(0) == items.size(0) && rows.size(0) <= kSmallSet;
  if (rows.scalar_type() == ScalarType::Float &&
      filtered_neighbours({rows.const_data_ptr<float>(), rows.size(0),
                           items.const_data_ptr<float>(), items.size(0), rows.size(1),
                           lists.width},
                          {lists.distances.mutable_data_ptr<float>(),
                           lists.indices.mutable_data_ptr<int64_t>(),
                           lists.farthest.mutable_data_ptr<float>()})) {
    return lists.outputs();
  }
  THO_DISPATCH_V2(rows.scalar_type(), "knn_cpu", AT_WRAP([&] {
    const scalar_t* data = rows.const_data_ptr<scalar_t>();
    if (alone) {
      search_small_set(data, rows.size(0), rows.size(1), lists);
    } else {
      search(data, rows.size(0), items.const_data_ptr<scalar_t>(), items.size(0), rows.size(1),
             lists);
    }
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return lists.outputs();
}

std::tuple<Tensor, Tensor, Tensor> smallest_k_cpu(const Tensor& distances, int64_t k) {
  check_rank("smallest_k", "distances", distances, 2);
  STD_TORCH_CHECK(k >= 1 && distances.size(1) >= 1,
                  "smallest_k: k must be at least 1 and distances must have a column.");
  const Tensor matrix = torch::stable::contiguous(distances);
  const int64_t num_items = matrix.size(1);
  Lists lists(matrix, matrix.size(0), std::min(k, num_items));
  THO_DISPATCH_V2(matrix.scalar_type(), "smallest_k_cpu", AT_WRAP([&] {
    select_rows(matrix.const_data_ptr<scalar_t>(), matrix.size(0), num_items, lists);
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return lists.outputs();
}

Tensor pair_distance_cpu(const Tensor& x, const Tensor& row, const Tensor& column) {
  check_rank("pair_distance", "x", x, 2);
  check_rank("pair_distance", "row", row, 1);
  check_rank("pair_distance", "column", column, 1);
  check_size("pair_distance", "column", column, 0, row.size(0));
  check_dtype("pair_distance", "row", row, ScalarType::Long);
  check_dtype("pair_distance", "column", column, ScalarType::Long);
  const Tensor features = torch::stable::contiguous(x);
  const Tensor first = torch::stable::contiguous(row);
  const Tensor second = torch::stable::contiguous(column);
  check_indices("pair_distance", "row", first, x.size(0));
  check_indices("pair_distance", "column", second, x.size(0));
  const int64_t width = x.size(1);
  Tensor out = torch::stable::new_empty(x, {row.size(0)});
  THO_DISPATCH_V2(x.scalar_type(), "pair_distance_cpu", AT_WRAP([&] {
    const auto distance_tile = kernels().distance_tile<scalar_t>();
    const scalar_t* values = features.const_data_ptr<scalar_t>();
    const int64_t* a = first.const_data_ptr<int64_t>();
    const int64_t* b = second.const_data_ptr<int64_t>();
    scalar_t* distances = out.mutable_data_ptr<scalar_t>();
    torch::stable::parallel_for(0, row.size(0), 256, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        distance_tile(Product::kSquaredDifference, values + a[p] * width, 1, values + b[p] * width,
                      1, width, distances + p, 1);
      }
    });
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return out;
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("knn", TORCH_BOX(&vireid_fast::knn_cpu));
  m.impl("smallest_k", TORCH_BOX(&vireid_fast::smallest_k_cpu));
  m.impl("pair_distance", TORCH_BOX(&vireid_fast::pair_distance_cpu));
}
