// Ranks and distances in float64 of float32 features, through filtered_distances.h.
#include <torch/csrc/stable/library.h>

#include <optional>

#include "filtered_distances.h"
#include "rank_tensors.h"

namespace vireid_fast {
namespace {

constexpr int64_t kTileCols = FilteredDistances::kTileCols;
static_assert(kTileCols <= RankCounter<double>::kPiece);

void check_features(const char* op, const Tensor& query, const Tensor& gallery,
                    const Tensor& query_lengths, const Tensor& gallery_lengths, int64_t metric) {
  check_rank(op, "query", query, 2);
  check_rank(op, "gallery", gallery, 2);
  check_size(op, "gallery", gallery, 1, query.size(1));
  check_dtype(op, "query", query, ScalarType::Float);
  check_dtype(op, "gallery", gallery, ScalarType::Float);
  check_dtype(op, "query_lengths", query_lengths, ScalarType::Double);
  check_dtype(op, "gallery_lengths", gallery_lengths, ScalarType::Double);
  check_rank(op, "query_lengths", query_lengths, 1);
  check_rank(op, "gallery_lengths", gallery_lengths, 1);
  check_size(op, "query_lengths", query_lengths, 0, query.size(0));
  check_size(op, "gallery_lengths", gallery_lengths, 0, gallery.size(0));
  STD_TORCH_CHECK(is_metric(metric) || metric == FilteredDistances::kCosine, op,
                  ": metric must be 0, 1, 2 or 3, got ", metric, ".");
}

void rank_features_wide(const FilteredDistances& prototype, const float* query,
                        const double* query_lengths, int64_t num_query, const float* gallery,
                        int64_t num_gallery, int64_t width, const RankLabels& labels,
                        const RankOutputs& out) {
  const int64_t block_rows = rows_of_block(num_query);
  const int64_t blocks = (num_query + block_rows - 1) / block_rows;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    FilteredDistances distances(prototype);
    std::vector<double> tile(block_rows * kTileCols);
    std::vector<RankCounter<double>> counters(
        block_rows,
        RankCounter<double>(labels.identities, labels.groups, labels.drop, labels.broken));
    for (int64_t block = begin; block < end; ++block) {
      const int64_t row = block * block_rows;
      const int64_t rows = std::min(block_rows, num_query - row);
      distances.take(query + row * width, query_lengths + row, rows);
      for (int64_t r = 0; r < rows; ++r) {
        counters[r].select(labels.query_identity[row + r], labels.query_group[row + r]);
        counters[r].measure([&](const std::vector<int64_t>& items, double* values) {
          distances.to_items(r, gallery, items, values);
        });
        distances.join_bands(r);
      }
      for (int64_t col = 0; col < num_gallery; col += kTileCols) {
        const int64_t cols = std::min(kTileCols, num_gallery - col);
        distances.tile(gallery + col * width, col, cols, tile.data(), kTileCols);
        for (int64_t r = 0; r < rows; ++r) counters[r].feed(&tile[r * kTileCols], col, cols);
      }
      for (int64_t r = 0; r < rows; ++r) counters[r].write(out, row + r);
    }
  });
}

void fill_ranking_distances(const FilteredDistances& prototype, const float* query,
                            const double* query_lengths, int64_t num_query, const float* gallery, int64_t num_gallery,
                            int64_t width, const int64_t* query_identity,
                            const LabelIndex& identities, std::atomic<bool>& broken, double* out) {
  const int64_t block_rows = rows_of_block(num_query);
  const int64_t blocks = (num_query + block_rows - 1) / block_rows;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    FilteredDistances distances(prototype);
    std::vector<int64_t> items;
    std::vector<double> values;
    for (int64_t block = begin; block < end; ++block) {
      const int64_t row = block * block_rows;
      const int64_t rows = std::min(block_rows, num_query - row);
      distances.take(query + row * width, query_lengths + row, rows);
      for (int64_t r = 0; r < rows; ++r) {
        const auto found = identities.of_label(query_identity[row + r], broken);
        items.assign(found.begin(), found.end());
        values.resize(items.size());
        distances.to_items(r, gallery, items, values.data());
        distances.join_bands(r);
      }
      for (int64_t col = 0; col < num_gallery; col += kTileCols) {
        const int64_t cols = std::min(kTileCols, num_gallery - col);
        distances.tile(gallery + col * width, col, cols, out + row * num_gallery + col,
                       num_gallery);
      }
    }
  });
}

Statistics wide_rank_statistics_cpu(
    const Tensor& query, const Tensor& gallery, const Tensor& query_identities,
    const Tensor& query_groups, const Tensor& identity_of, const Tensor& identity_start,
    const Tensor& identity_items, const Tensor& group_of, const Tensor& group_start,
    const Tensor& group_items, const Tensor& query_lengths, const Tensor& gallery_lengths,
    int64_t metric, int64_t drop) {
  constexpr const char* kOp = "wide_rank_statistics";
  check_features(kOp, query, gallery, query_lengths, gallery_lengths, metric);
  const RankLabels labels(kOp, query_identities, query_groups, identity_of, identity_start,
                          identity_items, group_of, group_start, group_items, query.size(0),
                          gallery.size(0), drop);
  const Tensor rows = torch::stable::contiguous(query);
  const Tensor items = torch::stable::contiguous(gallery);
  const RankTensors out(rows, rows.size(0));
  const Tensor asking = torch::stable::contiguous(query_lengths);
  const Tensor lengths = torch::stable::contiguous(gallery_lengths);
  const FilteredDistances distances(metric, rows.size(1), lengths.const_data_ptr<double>(),
                                    items.size(0), rows_of_block(rows.size(0)));
  rank_features_wide(distances, rows.const_data_ptr<float>(),
                     asking.const_data_ptr<double>(), rows.size(0),
                     items.const_data_ptr<float>(), items.size(0), rows.size(1), labels,
                     out.pointers);
  labels.check_unbroken(kOp);
  return out.tensors();
}

Tensor ranking_distances_cpu(const Tensor& query, const Tensor& gallery,
                             const Tensor& query_identities, const Tensor& identity_start,
                             const Tensor& identity_items, const Tensor& query_lengths,
                             const Tensor& gallery_lengths, int64_t metric) {
  constexpr const char* kOp = "ranking_distances";
  check_features(kOp, query, gallery, query_lengths, gallery_lengths, metric);
  const int64_t num_query = query.size(0);
  const int64_t num_gallery = gallery.size(0);
  check_rank(kOp, "query_identities", query_identities, 1);
  check_size(kOp, "query_identities", query_identities, 0, num_query);
  check_size(kOp, "identity_items", identity_items, 0, num_gallery);
  check_dtype(kOp, "query_identities", query_identities, ScalarType::Long);
  check_dtype(kOp, "identity_start", identity_start, ScalarType::Long);
  check_dtype(kOp, "identity_items", identity_items, ScalarType::Long);
  const Tensor asked = torch::stable::contiguous(query_identities);
  const Tensor start = torch::stable::contiguous(identity_start);
  const Tensor listed = torch::stable::contiguous(identity_items);
  const Tensor rows = torch::stable::contiguous(query);
  const Tensor items = torch::stable::contiguous(gallery);
  Tensor out = torch::stable::new_empty(rows, {num_query, num_gallery}, ScalarType::Double);
  const LabelIndex identities{nullptr, start.const_data_ptr<int64_t>(),
                              listed.const_data_ptr<int64_t>(), start.numel() - 1, num_gallery};
  const Tensor asking = torch::stable::contiguous(query_lengths);
  const Tensor lengths = torch::stable::contiguous(gallery_lengths);
  const FilteredDistances distances(metric, rows.size(1), lengths.const_data_ptr<double>(),
                                    num_gallery, rows_of_block(num_query));
  std::atomic<bool> broken = false;
  fill_ranking_distances(distances, rows.const_data_ptr<float>(),
                         asking.const_data_ptr<double>(), num_query,
                         items.const_data_ptr<float>(), num_gallery, rows.size(1),
                         asked.const_data_ptr<int64_t>(), identities, broken,
                         out.mutable_data_ptr<double>());
  STD_TORCH_CHECK(!broken, kOp, ": the gallery index must list items in range and ascending.");
  return out;
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("wide_rank_statistics", TORCH_BOX(&vireid_fast::wide_rank_statistics_cpu));
  m.impl("ranking_distances", TORCH_BOX(&vireid_fast::ranking_distances_cpu));
}
