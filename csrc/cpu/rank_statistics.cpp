// Rank statistics on the CPU by counting: the rank of an item is the number of kept items before it
// in (distance, index) order, so that nothing but the few ranks of the correct items is sorted.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <limits>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "../checks.h"

namespace vireid_fast {
namespace {

constexpr const char* kOp = "rank_statistics";

// Codes of `drop` in the raw op; ops/rank_statistics/op.py holds the same list.
enum class Drop : int64_t { kNone = 0, kSameGroup = 1, kSameGroupAndId = 2 };

struct Labels {
  const int64_t* ids;
  const int64_t* groups;
  int64_t size;
};

struct Outputs {
  int64_t* first_rank;
  int64_t* first_identity_rank;
  double* average_precision;
  double* inverse_negative_penalty;
  int64_t* num_positives;
};

// The gallery items of each distinct label, ascending; labels become buckets 0, 1, ...
class Buckets {
 public:
  Buckets(const int64_t* labels, int64_t size) : distinct_(labels, labels + size) {
    std::sort(distinct_.begin(), distinct_.end());
    distinct_.erase(std::unique(distinct_.begin(), distinct_.end()), distinct_.end());
    first_.assign(distinct_.size() + 1, 0);
    for (int64_t g = 0; g < size; ++g) {
      bucket_of_.push_back(find(labels[g]));
      ++first_[bucket_of_[g] + 1];
    }
    for (size_t b = 0; b < distinct_.size(); ++b) first_[b + 1] += first_[b];
    std::vector<int64_t> next(first_);
    items_.resize(size);
    for (int64_t g = 0; g < size; ++g) items_[next[bucket_of_[g]]++] = g;
  }

  size_t count() const { return distinct_.size(); }
  int64_t bucket_of(int64_t item) const { return bucket_of_[item]; }

  // Empty for a label that no item has.
  std::span<const int64_t> items(int64_t label) const {
    const int64_t bucket = find(label);
    if (bucket < 0) return {};
    return {items_.data() + first_[bucket], items_.data() + first_[bucket + 1]};
  }

 private:
  int64_t find(int64_t label) const {
    const auto place = std::lower_bound(distinct_.begin(), distinct_.end(), label);
    return place != distinct_.end() && *place == label ? place - distinct_.begin() : -1;
  }

  std::vector<int64_t> distinct_;
  std::vector<int64_t> bucket_of_;
  std::vector<int64_t> first_;
  std::vector<int64_t> items_;
};

// The distances of one query to the gallery, ordered by (distance, index).
template <typename T>
struct Row {
  bool before(int64_t a, int64_t b) const {
    return values[a] < values[b] || (values[a] == values[b] && a < b);
  }

  // Equal values count on the left of the item only.
  int64_t count_before(int64_t item) const {
    const T bound = values[item];
    return count(0, item, [bound](T value) { return value <= bound; }) +
           count(item + 1, size, [bound](T value) { return value < bound; });
  }

  const T* values;
  int64_t size;

 private:
  // 32-bit counts keep the loop as wide as the values; a chunk cannot overflow them.
  template <typename Test>
  int64_t count(int64_t begin, int64_t end, const Test& test) const {
    constexpr int64_t kChunk = int64_t{1} << 20;
    int64_t total = 0;
    for (; begin < end; begin += kChunk) {
      const int64_t stop = std::min(begin + kChunk, end);
      int32_t found = 0;
      for (int64_t i = begin; i < stop; ++i) found += test(values[i]);
      total += found;
    }
    return total;
  }
};

// One thread's work on its queries, with the memory that it reuses.
template <typename T>
class Counter {
 public:
  Counter(const Labels& gallery, const Buckets& identities, const Buckets& groups, Drop drop)
      : gallery_(gallery),
        identities_(identities),
        groups_(groups),
        drop_(drop),
        dropped_for_(gallery.size, -1),
        seen_for_(identities.count(), -1) {}

  // Splits the gallery for query number `query`: which items are correct, which are dropped.
  void select(int64_t query, int64_t id, int64_t group) {
    query_ = query;
    positives_.clear();
    dropped_.clear();
    if (drop_ == Drop::kSameGroup) {
      const auto items = groups_.items(group);
      dropped_.assign(items.begin(), items.end());
    }
    for (const int64_t g : identities_.items(id)) {
      if (drop_ == Drop::kNone || gallery_.groups[g] != group) {
        positives_.push_back(g);
      } else if (drop_ == Drop::kSameGroupAndId) {
        dropped_.push_back(g);
      }
    }
    for (const int64_t g : dropped_) dropped_for_[g] = query;
  }

  // Ascending 0-based ranks of the correct items among the kept ones.
  const std::vector<int64_t>& ranks(const Row<T>& row) {
    ranks_.clear();
    for (const int64_t positive : positives_) {
      const int64_t dropped = std::count_if(dropped_.begin(), dropped_.end(), [&](int64_t g) {
        return row.before(g, positive);
      });
      ranks_.push_back(row.count_before(positive) - dropped);
    }
    std::sort(ranks_.begin(), ranks_.end());
    return ranks_;
  }

  // Distinct identities among the kept items before the nearest correct one.
  int64_t identities_before_first(const Row<T>& row) {
    if (ranks_.front() == 0) return 0;
    const int64_t first =
        *std::min_element(positives_.begin(), positives_.end(),
                          [&](int64_t a, int64_t b) { return row.before(a, b); });
    int64_t count = 0;
    for (int64_t g = 0; g < row.size; ++g) {
      if (!row.before(g, first) || dropped_for_[g] == query_) continue;
      int64_t& seen_for = seen_for_[identities_.bucket_of(g)];
      count += seen_for != query_;
      seen_for = query_;
    }
    return count;
  }

 private:
  const Labels& gallery_;
  const Buckets& identities_;
  const Buckets& groups_;
  Drop drop_;
  int64_t query_ = -1;
  std::vector<int64_t> positives_;
  std::vector<int64_t> dropped_;
  std::vector<int64_t> ranks_;
  std::vector<int64_t> dropped_for_;  // last query that each item was dropped for
  std::vector<int64_t> seen_for_;     // last query that each identity was counted for
};

template <typename T>
void fill(const T* distances, const Labels& query, const Labels& gallery, Drop drop,
          const Outputs& out) {
  const Buckets identities(gallery.ids, gallery.size);
  const Buckets groups(gallery.groups, gallery.size);
  torch::stable::parallel_for(0, query.size, 16, [&](int64_t begin, int64_t end) {
    Counter<T> counter(gallery, identities, groups, drop);
    for (int64_t q = begin; q < end; ++q) {
      const Row<T> row{distances + q * gallery.size, gallery.size};
      counter.select(q, query.ids[q], query.groups[q]);
      const std::vector<int64_t>& ranks = counter.ranks(row);
      out.num_positives[q] = static_cast<int64_t>(ranks.size());
      if (ranks.empty()) {
        out.first_rank[q] = out.first_identity_rank[q] = -1;
        out.average_precision[q] = out.inverse_negative_penalty[q] =
            std::numeric_limits<double>::quiet_NaN();
        continue;
      }
      double precision = 0;
      for (size_t hit = 0; hit < ranks.size(); ++hit) {
        precision += static_cast<double>(hit + 1) / static_cast<double>(ranks[hit] + 1);
      }
      const double hits = static_cast<double>(ranks.size());
      out.first_rank[q] = ranks.front();
      out.first_identity_rank[q] = counter.identities_before_first(row);
      out.average_precision[q] = precision / hits;
      out.inverse_negative_penalty[q] = hits / static_cast<double>(ranks.back() + 1);
    }
  });
}

void check_labels(const char* ids_name, const Tensor& ids, const char* groups_name,
                  const Tensor& groups, int64_t size) {
  for (const auto& [name, tensor] : {std::pair{ids_name, &ids}, {groups_name, &groups}}) {
    check_dtype(kOp, name, *tensor, ScalarType::Long);
    check_rank(kOp, name, *tensor, 1);
    check_size(kOp, name, *tensor, 0, size);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> rank_statistics_cpu(
    const Tensor& distances, const Tensor& query_ids, const Tensor& gallery_ids,
    const Tensor& query_groups, const Tensor& gallery_groups, int64_t drop) {
  check_rank(kOp, "distances", distances, 2);
  const int64_t num_query = distances.size(0);
  const int64_t num_gallery = distances.size(1);
  check_labels("query_ids", query_ids, "query_groups", query_groups, num_query);
  check_labels("gallery_ids", gallery_ids, "gallery_groups", gallery_groups, num_gallery);
  STD_TORCH_CHECK(drop >= 0 && drop <= 2, kOp, ": drop must be 0, 1 or 2, got ", drop, ".");

  const Tensor matrix = torch::stable::contiguous(distances);
  const Tensor q_ids = torch::stable::contiguous(query_ids);
  const Tensor g_ids = torch::stable::contiguous(gallery_ids);
  const Tensor q_groups = torch::stable::contiguous(query_groups);
  const Tensor g_groups = torch::stable::contiguous(gallery_groups);
  const auto make = [&](ScalarType dtype) {
    return torch::stable::new_empty(matrix, {num_query}, dtype);
  };
  Tensor first_rank = make(ScalarType::Long);
  Tensor first_identity_rank = make(ScalarType::Long);
  Tensor average_precision = make(ScalarType::Double);
  Tensor inverse_negative_penalty = make(ScalarType::Double);
  Tensor num_positives = make(ScalarType::Long);
  const Outputs out{
      first_rank.mutable_data_ptr<int64_t>(), first_identity_rank.mutable_data_ptr<int64_t>(),
      average_precision.mutable_data_ptr<double>(),
      inverse_negative_penalty.mutable_data_ptr<double>(),
      num_positives.mutable_data_ptr<int64_t>()};
  const Labels query{q_ids.const_data_ptr<int64_t>(), q_groups.const_data_ptr<int64_t>(),
                     num_query};
  const Labels gallery{g_ids.const_data_ptr<int64_t>(), g_groups.const_data_ptr<int64_t>(),
                       num_gallery};
  THO_DISPATCH_V2(matrix.scalar_type(), "rank_statistics_cpu", AT_WRAP([&] {
    fill(matrix.const_data_ptr<scalar_t>(), query, gallery, static_cast<Drop>(drop), out);
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return {first_rank, first_identity_rank, average_precision, inverse_negative_penalty,
          num_positives};
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("rank_statistics", TORCH_BOX(&vireid_fast::rank_statistics_cpu));
}
