// Rank statistics on the CPU, of a distance matrix and of features whose distances are computed
// tile by tile and counted there.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <cmath>
#include <optional>

#include "../checks.h"
#include "../metric.h"
#include "rank_tensors.h"

namespace vireid_fast {
namespace {

constexpr int64_t kTileCols = 512;
static_assert(kTileCols <= RankCounter<float>::kPiece);

// One row of a matrix; column g is that of gallery item columns[g], or g without columns.
template <typename T>
void rank_row(RankCounter<T>& counter, const T* row, const int64_t* columns, int64_t num_gallery,
              std::vector<T>& copy) {
  constexpr int64_t kPiece = RankCounter<T>::kPiece;
  counter.measure([&](const std::vector<int64_t>& items, T* values) {
    for (const int64_t item : items) *values++ = row[columns ? columns[item] : item];
  });
  for (int64_t first = 0; first < num_gallery; first += kPiece) {
    const int64_t count = std::min(kPiece, num_gallery - first);
    if (columns) {
      for (int64_t i = 0; i < count; ++i) copy[i] = row[columns[first + i]];
      counter.feed(copy.data(), first, count);
    } else if (counter.hides()) {
      std::copy_n(row + first, count, copy.data());
      counter.feed(copy.data(), first, count);
    } else {
      counter.feed(row + first, first, count);
    }
  }
}

template <typename T>
void rank_matrix(const T* distances, int64_t num_query, int64_t width, const int64_t* columns,
                 int64_t num_gallery, const RankLabels& labels, const RankOutputs& out) {
  constexpr int64_t kElementsPerTask = 1 << 15;
  const int64_t rows = std::max<int64_t>(1, kElementsPerTask / (num_gallery + 1));
  torch::stable::parallel_for(0, num_query, rows, [&](int64_t begin, int64_t end) {
    RankCounter<T> counter(labels.identities, labels.groups, labels.drop, labels.broken);
    std::vector<T> copy(RankCounter<T>::kPiece);
    for (int64_t q = begin; q < end; ++q) {
      counter.select(labels.query_identity[q], labels.query_group[q]);
      rank_row(counter, distances + q * width, columns, num_gallery, copy);
      counter.write(out, q);
    }
  });
}

Statistics rank_statistics_cpu(const Tensor& distances, const Tensor& query_identities,
                               const Tensor& query_groups, const Tensor& identity_of,
                               const Tensor& identity_start, const Tensor& identity_items,
                               const Tensor& group_of, const Tensor& group_start,
                               const Tensor& group_items, const std::optional<Tensor>& columns,
                               int64_t drop) {
  constexpr const char* kOp = "rank_statistics";
  check_rank(kOp, "distances", distances, 2);
  const int64_t num_query = distances.size(0);
  const int64_t width = distances.size(1);
  const int64_t num_gallery = columns ? columns->numel() : width;
  const RankLabels labels(kOp, query_identities, query_groups, identity_of, identity_start,
                      identity_items, group_of, group_start, group_items, num_query, num_gallery,
                      drop);
  std::optional<Tensor> chosen;
  if (columns) {
    check_dtype(kOp, "columns", *columns, ScalarType::Long);
    check_rank(kOp, "columns", *columns, 1);
    chosen = torch::stable::contiguous(*columns);
    check_indices(kOp, "columns", *chosen, width);
  }
  const Tensor matrix = torch::stable::contiguous(distances);
  const RankTensors out(matrix, num_query);
  THO_DISPATCH_V2(matrix.scalar_type(), "rank_statistics_cpu", AT_WRAP([&] {
    rank_matrix(matrix.const_data_ptr<scalar_t>(), num_query, width,
                chosen ? chosen->const_data_ptr<int64_t>() : nullptr, num_gallery, labels,
                out.pointers);
  }), AT_EXPAND(AT_FLOATING_TYPES));
  labels.check_unbroken(kOp);
  return out.tensors();
}

// Distances exactly as pairwise_distance makes them, plus `offset`.
template <typename T>
class Distances {
 public:
  Distances(Metric metric, T offset, int64_t width)
      : metric_(metric),
        offset_(offset),
        width_(width),
        product_(metric == Metric::kNegativeDot ? Product::kDot : Product::kSquaredDifference),
        tile_(kernels().distance_tile<T>()) {}

  void operator()(const T* x, int64_t rows, const T* y, int64_t cols, T* out,
                  int64_t stride) const {
    tile_(product_, x, rows, y, cols, width_, out, stride);
    if (metric_ == Metric::kSquaredEuclidean) return;
    for (int64_t r = 0; r < rows; ++r) {
      T* values = out + r * stride;
      if (metric_ == Metric::kEuclidean) {
        for (int64_t c = 0; c < cols; ++c) values[c] = std::sqrt(values[c]);
      } else {
        for (int64_t c = 0; c < cols; ++c) values[c] = offset_ - values[c];
      }
    }
  }

  // Distances of one row to ascending items, neighbouring ones together.
  void to_items(const T* x, const T* gallery, const std::vector<int64_t>& items, T* out) const {
    for (size_t i = 0; i < items.size();) {
      size_t end = i + 1;
      while (end < items.size() && items[end] == items[end - 1] + 1) ++end;
      const int64_t count = static_cast<int64_t>(end - i);
      (*this)(x, 1, gallery + items[i] * width_, count, out + i, count);
      i = end;
    }
  }

 private:
  Metric metric_;
  T offset_;
  int64_t width_;
  Product product_;
  DistanceTile<T> tile_;
};

template <typename T>
void rank_features(const Distances<T>& distances, const T* query, int64_t num_query,
                   const T* gallery, int64_t num_gallery, int64_t width, const RankLabels& labels,
                   const RankOutputs& out) {
  const int64_t block_rows = rows_of_block(num_query);
  const int64_t blocks = (num_query + block_rows - 1) / block_rows;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> tile(block_rows * kTileCols);
    std::vector<RankCounter<T>> counters(
        block_rows, RankCounter<T>(labels.identities, labels.groups, labels.drop, labels.broken));
    for (int64_t block = begin; block < end; ++block) {
      const int64_t row = block * block_rows;
      const int64_t rows = std::min(block_rows, num_query - row);
      for (int64_t r = 0; r < rows; ++r) {
        counters[r].select(labels.query_identity[row + r], labels.query_group[row + r]);
        counters[r].measure([&](const std::vector<int64_t>& items, T* values) {
          distances.to_items(query + (row + r) * width, gallery, items, values);
        });
      }
      for (int64_t col = 0; col < num_gallery; col += kTileCols) {
        const int64_t cols = std::min(kTileCols, num_gallery - col);
        distances(query + row * width, rows, gallery + col * width, cols, tile.data(), kTileCols);
        for (int64_t r = 0; r < rows; ++r) counters[r].feed(&tile[r * kTileCols], col, cols);
      }
      for (int64_t r = 0; r < rows; ++r) counters[r].write(out, row + r);
    }
  });
}

Statistics feature_rank_statistics_cpu(
    const Tensor& query, const Tensor& gallery, const Tensor& query_identities,
    const Tensor& query_groups, const Tensor& identity_of, const Tensor& identity_start,
    const Tensor& identity_items, const Tensor& group_of, const Tensor& group_start,
    const Tensor& group_items, int64_t metric, double offset, int64_t drop) {
  constexpr const char* kOp = "feature_rank_statistics";
  check_rank(kOp, "query", query, 2);
  check_rank(kOp, "gallery", gallery, 2);
  check_size(kOp, "gallery", gallery, 1, query.size(1));
  check_same_dtype(kOp, "gallery", gallery, "query", query);
  STD_TORCH_CHECK(is_metric(metric), kOp, ": metric must be 0, 1 or 2, got ", metric, ".");
  const RankLabels labels(kOp, query_identities, query_groups, identity_of, identity_start,
                      identity_items, group_of, group_start, group_items, query.size(0),
                      gallery.size(0), drop);
  const Tensor rows = torch::stable::contiguous(query);
  const Tensor items = torch::stable::contiguous(gallery);
  const RankTensors out(rows, rows.size(0));
  THO_DISPATCH_V2(rows.scalar_type(), "feature_rank_statistics_cpu", AT_WRAP([&] {
    const Distances<scalar_t> distances(static_cast<Metric>(metric),
                                        static_cast<scalar_t>(offset), rows.size(1));
    rank_features(distances, rows.const_data_ptr<scalar_t>(), rows.size(0),
                  items.const_data_ptr<scalar_t>(), items.size(0), rows.size(1), labels,
                  out.pointers);
  }), AT_EXPAND(AT_FLOATING_TYPES));
  labels.check_unbroken(kOp);
  return out.tensors();
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("rank_statistics", TORCH_BOX(&vireid_fast::rank_statistics_cpu));
  m.impl("feature_rank_statistics", TORCH_BOX(&vireid_fast::feature_rank_statistics_cpu));
}
