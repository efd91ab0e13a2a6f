// Labels and outputs of the ops that rank, as tensors.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <tuple>
#include <vector>

#include "../checks.h"
#include "rank_counter.h"

namespace vireid_fast {

using Statistics = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// Labels of queries and gallery, checked for sizes and kept contiguous.
class RankLabels {
 public:
  RankLabels(const char* op, const Tensor& query_identities, const Tensor& query_groups,
         const Tensor& identity_of, const Tensor& identity_start, const Tensor& identity_items,
         const Tensor& group_of, const Tensor& group_start, const Tensor& group_items,
         int64_t num_query, int64_t num_gallery, int64_t drop)
      : drop(static_cast<Drop>(drop)) {
    STD_TORCH_CHECK(drop >= 0 && drop <= 2, op, ": drop must be 0, 1 or 2, got ", drop, ".");
    query_identity = take(op, "query_identities", query_identities, num_query);
    query_group = take(op, "query_groups", query_groups, num_query);
    identities = index(op, "identity_of", identity_of, "identity_start", identity_start,
                       "identity_items", identity_items, num_gallery);
    groups = index(op, "group_of", group_of, "group_start", group_start, "group_items",
                   group_items, num_gallery);
  }

  void check_unbroken(const char* op) const {
    STD_TORCH_CHECK(!broken, op, ": the gallery index must list items in range and ascending.");
  }

  Drop drop;
  const int64_t* query_identity;
  const int64_t* query_group;
  LabelIndex identities;
  LabelIndex groups;
  mutable std::atomic<bool> broken = false;

 private:
  const int64_t* take(const char* op, const char* name, const Tensor& tensor, int64_t size) {
    check_dtype(op, name, tensor, ScalarType::Long);
    check_rank(op, name, tensor, 1);
    if (size >= 0) check_size(op, name, tensor, 0, size);
    kept_.push_back(torch::stable::contiguous(tensor));
    return kept_.back().const_data_ptr<int64_t>();
  }

  LabelIndex index(const char* op, const char* of_name, const Tensor& of, const char* start_name,
                   const Tensor& start, const char* items_name, const Tensor& items,
                   int64_t num_gallery) {
    LabelIndex made{};
    made.of = take(op, of_name, of, num_gallery);
    made.start = take(op, start_name, start, -1);
    made.items = take(op, items_name, items, num_gallery);
    made.num_labels = start.size(0) - 1;
    made.num_items = num_gallery;
    STD_TORCH_CHECK(made.num_labels >= 0, op, ": ", start_name, " must hold at least one entry.");
    return made;
  }

  std::vector<Tensor> kept_;
};

struct RankTensors {
  RankTensors(const Tensor& like, int64_t num_query)
      : first_rank(make(like, num_query, ScalarType::Long)),
        first_identity_rank(make(like, num_query, ScalarType::Long)),
        average_precision(make(like, num_query, ScalarType::Double)),
        inverse_negative_penalty(make(like, num_query, ScalarType::Double)),
        num_positives(make(like, num_query, ScalarType::Long)),
        pointers{first_rank.mutable_data_ptr<int64_t>(),
                 first_identity_rank.mutable_data_ptr<int64_t>(),
                 average_precision.mutable_data_ptr<double>(),
                 inverse_negative_penalty.mutable_data_ptr<double>(),
                 num_positives.mutable_data_ptr<int64_t>()} {}

  static Tensor make(const Tensor& like, int64_t size, ScalarType dtype) {
    return torch::stable::new_empty(like, {size}, dtype);
  }

  Statistics tensors() const {
    return {first_rank, first_identity_rank, average_precision, inverse_negative_penalty,
            num_positives};
  }

  Tensor first_rank;
  Tensor first_identity_rank;
  Tensor average_precision;
  Tensor inverse_negative_penalty;
  Tensor num_positives;
  RankOutputs pointers;
};

// Few queries are spread over the threads.
inline int64_t rows_of_block(int64_t num_query) {
  constexpr int64_t kTileRows = 32;
  const int64_t threads = torch::stable::get_num_threads();
  return std::clamp<int64_t>((num_query + threads - 1) / threads, 1, kTileRows);
}

}  // namespace vireid_fast
