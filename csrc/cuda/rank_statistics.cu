#include "rank_statistics.cuh"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "binding.h"
#include "exact_distance.cuh"
#include "sparse_rows.cuh"

namespace vireid_fast {

// pairwise_distance.cu has them, kernels included.
extern template cudaError_t launch_pairwise_distance<float>(Metric, const float*, int64_t,
                                                            const float*, int64_t, int64_t, float,
                                                            float*, cudaStream_t);
extern template cudaError_t launch_pairwise_distance<double>(Metric, const double*, int64_t,
                                                             const double*, int64_t, int64_t,
                                                             double, double*, cudaStream_t);

namespace {

using Statistics = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// Labels of queries and gallery, checked on the GPU and kept contiguous.
class LabelInput {
 public:
  LabelInput(const OnDevice& device, const char* op, const Tensor& query_identities,
             const Tensor& query_groups, const Tensor& identity_of, const Tensor& identity_start,
             const Tensor& identity_items, const Tensor& group_of, int64_t num_query,
             int64_t num_gallery, int64_t drop) {
    STD_TORCH_CHECK(drop >= 0 && drop <= 2, op, ": drop must be 0, 1 or 2, got ", drop, ".");
    STD_TORCH_CHECK(identity_start.dim() == 1 && identity_start.size(0) >= 1, op,
                    ": identity_start must hold at least one entry.");
    labels = {take(op, "query_identities", query_identities, num_query),
              take(op, "query_groups", query_groups, num_query),
              take(op, "identity_of", identity_of, num_gallery),
              take(op, "identity_start", identity_start, identity_start.size(0)),
              take(op, "identity_items", identity_items, num_gallery),
              take(op, "group_of", group_of, num_gallery),
              identity_start.size(0) - 1,
              num_gallery,
              static_cast<ranks::Drop>(drop)};
    Raised<int> broken(device, kept_.front());
    Raised<int> most(device, kept_.front());
    device.check(
        launch_check_labels(labels, num_query, broken.data(), most.data(), device.stream()));
    STD_TORCH_CHECK(broken.fetch() == 0, op, ": labels and lists of items must be in range.");
    longest = most.fetch();
  }

  ranks::Labels labels;
  int64_t longest;  // most items of one identity

 private:
  const int64_t* take(const char* op, const char* name, const Tensor& tensor, int64_t size) {
    check_dtype(op, name, tensor, ScalarType::Long);
    check_rank(op, name, tensor, 1);
    check_size(op, name, tensor, 0, size);
    kept_.push_back(torch::stable::contiguous(tensor));
    return kept_.back().const_data_ptr<int64_t>();
  }

  std::vector<Tensor> kept_;
};

struct StatisticTensors {
  StatisticTensors(const Tensor& like, int64_t num_query)
      : tensors(make(like, num_query, ScalarType::Long), make(like, num_query, ScalarType::Long),
                make(like, num_query, ScalarType::Double),
                make(like, num_query, ScalarType::Double),
                make(like, num_query, ScalarType::Long)) {}

  static Tensor make(const Tensor& like, int64_t size, ScalarType dtype) {
    return torch::stable::new_empty(like, {size}, dtype);
  }

  ranks::Outputs pointers() {
    return {std::get<0>(tensors).mutable_data_ptr<int64_t>(),
            std::get<1>(tensors).mutable_data_ptr<int64_t>(),
            std::get<2>(tensors).mutable_data_ptr<double>(),
            std::get<3>(tensors).mutable_data_ptr<double>(),
            std::get<4>(tensors).mutable_data_ptr<int64_t>()};
  }

  Statistics tensors;
};

// Memory that every block of queries uses again.
template <typename T>
struct RankMemory {
  RankMemory(const Tensor& like, int64_t num_query, const LabelInput& input)
      : keys(like, rank_scratch(num_query, input.longest)),
        items(like, rank_scratch(num_query, input.longest)),
        counts(like, rank_scratch(num_query, input.longest)),
        seen(like, rank_blocks(num_query, input.longest) *
                       ceil_div(input.labels.num_identities, 32)) {}

  // Queries first_query, first_query + 1, ..., whose rows `distances` holds.
  cudaError_t rank(const T* distances, int64_t first_query, int64_t num_query, int64_t width,
                   const int64_t* columns, const LabelInput& input, const ranks::Outputs& out,
                   cudaStream_t stream) {
    return launch_rank_statistics<T>(
        {distances, columns, first_query, num_query, width, input.longest, keys.data(),
         items.data(), counts.data(), seen.data(), out},
        input.labels, stream);
  }

  Scratch<typename Ordered<T>::Key> keys;
  Scratch<int64_t> items;
  Scratch<int> counts;
  Scratch<unsigned> seen;
};

Statistics rank_statistics_cuda(const Tensor& distances, const Tensor& query_identities,
                                const Tensor& query_groups, const Tensor& identity_of,
                                const Tensor& identity_start, const Tensor& identity_items,
                                const Tensor& group_of, const Tensor& group_start,
                                const Tensor& group_items, const std::optional<Tensor>& columns,
                                int64_t drop) {
  const char* op = "rank_statistics";
  check_rank(op, "distances", distances, 2);
  const int64_t num_query = distances.size(0);
  const int64_t width = distances.size(1);
  const int64_t num_gallery = columns ? columns->numel() : width;
  const OnDevice device(op, {&distances, &query_identities, &query_groups, &identity_of,
                             &identity_start, &identity_items, &group_of, &group_start,
                             &group_items, columns ? &*columns : &distances});
  const LabelInput input(device, op, query_identities, query_groups, identity_of, identity_start,
                         identity_items, group_of, num_query, num_gallery, drop);
  std::optional<Tensor> chosen;
  if (columns) {
    check_dtype(op, "columns", *columns, ScalarType::Long);
    check_rank(op, "columns", *columns, 1);
    chosen = torch::stable::contiguous(*columns);
    Raised<int> broken(device, *chosen);
    device.check(launch_check_indices(chosen->const_data_ptr<int64_t>(), num_gallery, width,
                                      broken.data(), device.stream()));
    STD_TORCH_CHECK(broken.fetch() == 0, op, ": columns must lie in [0, ", width, ").");
  }
  const Tensor matrix = torch::stable::contiguous(distances);
  StatisticTensors out(matrix, num_query);
  THO_DISPATCH_V2(matrix.scalar_type(), "rank_statistics_cuda", AT_WRAP([&] {
    RankMemory<scalar_t> memory(matrix, num_query, input);
    device.check(memory.rank(matrix.const_data_ptr<scalar_t>(), 0, num_query, width,
                             chosen ? chosen->const_data_ptr<int64_t>() : nullptr, input,
                             out.pointers(), device.stream()));
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return out.tensors;
}

Statistics feature_rank_statistics_cuda(
    const Tensor& query, const Tensor& gallery, const Tensor& query_identities,
    const Tensor& query_groups, const Tensor& identity_of, const Tensor& identity_start,
    const Tensor& identity_items, const Tensor& group_of, const Tensor& group_start,
    const Tensor& group_items, int64_t metric, double offset, int64_t drop) {
  const char* op = "feature_rank_statistics";
  check_rank(op, "query", query, 2);
  check_rank(op, "gallery", gallery, 2);
  check_size(op, "gallery", gallery, 1, query.size(1));
  check_same_dtype(op, "gallery", gallery, "query", query);
  STD_TORCH_CHECK(is_metric(metric), op, ": metric must be 0, 1 or 2, got ", metric, ".");
  const OnDevice device(op, {&query, &gallery, &query_identities, &query_groups, &identity_of,
                             &identity_start, &identity_items, &group_of, &group_start,
                             &group_items});
  const int64_t num_query = query.size(0);
  const int64_t num_gallery = gallery.size(0);
  const int64_t width = query.size(1);
  const LabelInput input(device, op, query_identities, query_groups, identity_of, identity_start,
                         identity_items, group_of, num_query, num_gallery, drop);
  const Tensor rows = torch::stable::contiguous(query);
  const Tensor items = torch::stable::contiguous(gallery);
  StatisticTensors out(rows, num_query);
  THO_DISPATCH_V2(rows.scalar_type(), "feature_rank_statistics_cuda", AT_WRAP([&] {
    // Blocks of distances of at most this size, or of one row.
    constexpr int64_t kBlockBytes = int64_t{1} << 27;
    const int64_t row_bytes = std::max<int64_t>(1, num_gallery) * sizeof(scalar_t);
    const int64_t block = std::clamp<int64_t>(kBlockBytes / row_bytes, 1,
                                              std::max<int64_t>(1, num_query));
    Scratch<scalar_t> distances(rows, block * num_gallery);
    RankMemory<scalar_t> memory(rows, block, input);
    for (int64_t first = 0; first < num_query; first += block) {
      const int64_t count = std::min(block, num_query - first);
      device.check(launch_pairwise_distance<scalar_t>(
          static_cast<Metric>(metric), rows.const_data_ptr<scalar_t>() + first * width, count,
          items.const_data_ptr<scalar_t>(), num_gallery, width, static_cast<scalar_t>(offset),
          distances.data(), device.stream()));
      device.check(memory.rank(distances.data(), first, count, num_gallery, nullptr, input,
                               out.pointers(), device.stream()));
    }
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return out.tensors;
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, VIREID_DEVICE, m) {
  m.impl("rank_statistics", TORCH_BOX(&vireid_fast::rank_statistics_cuda));
  m.impl("feature_rank_statistics", TORCH_BOX(&vireid_fast::feature_rank_statistics_cuda));
}
