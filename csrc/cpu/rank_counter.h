// Where the correct gallery items of one query stand, by counting: the rank of an item is the
// number of kept items before it in (distance, index) order. Distances arrive in pieces, so that
// no row of them need exist.
#pragma once

#include <algorithm>
#include <atomic>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "kernels.h"

namespace vireid_fast {

// Codes of `drop` in the raw ops; ops/rank_statistics/op.py holds the same list.
enum class Drop : int64_t { kNone = 0, kSameGroup = 1, kSameGroupAndId = 2 };

// Gallery items by label: of[g] is the label of item g, and items[start[l] .. start[l + 1]) are the
// items of label l, ascending.
struct LabelIndex {
  const int64_t* of;
  const int64_t* start;
  const int64_t* items;
  int64_t num_labels;
  int64_t num_items;

  // Empty for -1, a label that no item has. What would leave memory sets `broken`: every call
  // would otherwise have to look at the whole index.
  std::span<const int64_t> of_label(int64_t label, std::atomic<bool>& broken) const {
    if (label == -1) return {};
    if (label < 0 || label >= num_labels || start[label] < 0 || start[label] > start[label + 1] ||
        start[label + 1] > num_items) {
      broken = true;
      return {};
    }
    const std::span<const int64_t> found(items + start[label], items + start[label + 1]);
    int64_t last = -1;
    for (const int64_t item : found) {
      if (item <= last || item >= num_items) {
        broken = true;
        return {};
      }
      last = item;
    }
    return found;
  }
};

struct RankOutputs {
  int64_t* first_rank;
  int64_t* first_identity_rank;
  double* average_precision;
  double* inverse_negative_penalty;
  int64_t* num_positives;  // -1 for a query with a distance that is NaN
};

// One query after the other: select, measure, feed the gallery in ascending pieces, write.
template <typename T>
class RankCounter {
 public:
  // Distances that `feed` takes at once.
  static constexpr int64_t kPiece = 2048;

  RankCounter(const LabelIndex& identities, const LabelIndex& groups, Drop drop,
              std::atomic<bool>& broken)
      : identities_(identities),
        groups_(groups),
        drop_(drop),
        broken_(broken),
        counting_(kernels().counting<T>()),
        places_(kPiece) {}

  // Splits the gallery: which items are correct, which are dropped.
  void select(int64_t identity, int64_t group) {
    identity_ = identity;
    nan_ = false;
    distinct_ = 0;
    positives_.clear();
    removed_.clear();
    hidden_ = {};
    next_hidden_ = 0;
    if (drop_ == Drop::kSameGroup) hidden_ = groups_.of_label(group, broken_);
    for (const int64_t item : identities_.of_label(identity, broken_)) {
      if (drop_ == Drop::kNone || groups_.of[item] != group) {
        positives_.push_back(item);
      } else if (drop_ == Drop::kSameGroupAndId) {
        removed_.push_back(item);
      }
    }
    if (!seen_.empty()) std::fill(seen_.begin(), seen_.end(), 0);
  }

  // Whether `feed` needs a copy that it may write to.
  bool hides() const { return !hidden_.empty(); }

  // measure(items, values) gives the distances of ascending items.
  template <typename Measure>
  void measure(const Measure& measure) {
    bounds_.resize(positives_.size());
    measure(positives_, bounds_.data());
    removed_values_.resize(removed_.size());
    measure(removed_, removed_values_.data());
    nan_ = counting_.has_nan(bounds_.data(), bounds_.size()) ||
           counting_.has_nan(removed_values_.data(), removed_values_.size());
    if (nan_) return;
    sort_pairs(positives_, bounds_, ordered_);
    sort_pairs(removed_, removed_values_, ordered_removed_);
    steps_.clear();
    for (const Pair& pair : ordered_) steps_.push_back(pair.first);
    counts_.assign(positives_.size(), 0);
    between_.assign(positives_.size() + 1, 0);
  }

  // Distances of the items first, first + 1, ..., at most kPiece. Those of hidden items become NaN,
  // which no comparison counts.
  void feed(T* values, int64_t first, int64_t count) {
    nan_ = nan_ || counting_.has_nan(values, count);
    while (next_hidden_ < hidden_.size() && hidden_[next_hidden_] < first + count) {
      values[hidden_[next_hidden_++] - first] = std::numeric_limits<T>::quiet_NaN();
    }
    count_piece(values, first, count);
  }

  // The same where nothing is hidden.
  void feed(const T* values, int64_t first, int64_t count) {
    nan_ = nan_ || counting_.has_nan(values, count);
    count_piece(values, first, count);
  }

  void write(const RankOutputs& out, int64_t query) {
    const int64_t total = static_cast<int64_t>(positives_.size());
    out.num_positives[query] = nan_ ? -1 : total;
    if (nan_ || total == 0) {
      out.first_rank[query] = out.first_identity_rank[query] = -1;
      out.average_precision[query] = out.inverse_negative_penalty[query] =
          std::numeric_limits<double>::quiet_NaN();
      return;
    }
    // More items stand before a positive than before those that precede it.
    std::sort(counts_.begin(), counts_.end());
    int64_t searched = 0;
    double precision = 0;
    int64_t removed = 0;
    int64_t rank = 0;
    const int64_t num_removed = static_cast<int64_t>(ordered_removed_.size());
    for (int64_t p = 0; p < total; ++p) {
      while (removed < num_removed && ordered_removed_[removed] < ordered_[p]) ++removed;
      searched += between_[p];
      rank = counts_[p] + searched - removed;
      if (p == 0) out.first_rank[query] = rank;
      precision += static_cast<double>(p + 1) / static_cast<double>(rank + 1);
    }
    const double hits = static_cast<double>(total);
    out.first_identity_rank[query] = distinct_;
    out.average_precision[query] = precision / hits;
    out.inverse_negative_penalty[query] = hits / static_cast<double>(rank + 1);
  }

 private:
  using Pair = std::pair<T, int64_t>;

  // A distance that may stand before a positive looks for its place among them, or all distances of
  // a piece are compared with all positives: the search costs as much as about so many comparisons.
  static constexpr int64_t kSearch = 256;

  static void sort_pairs(const std::vector<int64_t>& items, const std::vector<T>& values,
                         std::vector<Pair>& pairs) {
    pairs.clear();
    for (size_t i = 0; i < items.size(); ++i) pairs.emplace_back(values[i], items[i]);
    std::sort(pairs.begin(), pairs.end());
  }

  void count_piece(const T* values, int64_t first, int64_t count) {
    if (nan_ || positives_.empty()) return;
    int64_t before_last = 0;
    counting_.count_below(values, count, &ordered_.back().first, 1, true, &before_last);
    if (before_last * kSearch <= count * static_cast<int64_t>(positives_.size())) {
      const int64_t found = find(values, count, ordered_.back().first);
      count_identities(values, first, found);
      count_by_search(values, first, found);
    } else {
      count_identities(values, first, find(values, count, ordered_.front().first));
      count_by_comparison(values, first, count);
    }
  }

  int64_t find(const T* values, int64_t count, T bound) {
    return counting_.find_at_most(values, count, bound, places_.data());
  }

  // An item equal to a positive stands before it if its index is lower.
  void count_by_comparison(const T* values, int64_t first, int64_t count) {
    const auto place = [this](int64_t item) {
      return std::lower_bound(positives_.begin(), positives_.end(), item) - positives_.begin();
    };
    const int64_t total = static_cast<int64_t>(positives_.size());
    const int64_t here = place(first);
    const int64_t beyond = place(first + count);
    counting_.count_below(values, count, bounds_.data(), here, false, counts_.data());
    counting_.count_below(values, count, bounds_.data() + beyond, total - beyond, true,
                          counts_.data() + beyond);
    for (int64_t p = here; p < beyond; ++p) {
      const int64_t left = positives_[p] - first;
      counting_.count_below(values, left, &bounds_[p], 1, true, &counts_[p]);
      counting_.count_below(values + left + 1, count - left - 1, &bounds_[p], 1, false,
                            &counts_[p]);
    }
  }

  void count_by_search(const T* values, int64_t first, int64_t found) {
    for (int64_t i = 0; i < found; ++i) {
      const T value = values[places_[i]];
      int64_t next = first_not_below(value);
      if (next < static_cast<int64_t>(steps_.size()) && steps_[next] == value) {
        const Pair item(value, first + places_[i]);
        next = std::upper_bound(ordered_.begin() + next, ordered_.end(), item) - ordered_.begin();
      }
      ++between_[next];
    }
  }

  // Place of the first of steps_ that is not below `value`. The step is chosen without a branch,
  // which a distance would mispredict every other time.
  int64_t first_not_below(T value) const {
    const T* base = steps_.data();
    for (size_t left = steps_.size(); left > 1;) {
      const size_t half = left / 2;
      base += base[half - 1] < value ? half : 0;
      left -= half;
    }
    return base - steps_.data() + (*base < value);
  }

  // Distinct identities among the kept items before the nearest positive.
  void count_identities(const T* values, int64_t first, int64_t found) {
    const Pair nearest = ordered_.front();
    for (int64_t i = 0; i < found; ++i) {
      const int64_t item = first + places_[i];
      if (!(Pair(values[places_[i]], item) < nearest)) continue;
      const int64_t identity = identities_.of[item];
      if (identity == identity_) continue;  // dropped: no kept one stands before the nearest
      if (identity < 0 || identity >= identities_.num_labels) {
        broken_ = true;
        continue;
      }
      if (seen_.empty()) seen_.assign((identities_.num_labels + 63) / 64, 0);
      uint64_t& word = seen_[identity / 64];
      const uint64_t bit = uint64_t{1} << (identity % 64);
      distinct_ += (word & bit) == 0;
      word |= bit;
    }
  }

  const LabelIndex& identities_;
  const LabelIndex& groups_;
  Drop drop_;
  std::atomic<bool>& broken_;
  const Counting<T>& counting_;
  int64_t identity_ = -1;
  bool nan_ = false;
  int64_t distinct_ = 0;
  std::vector<int64_t> positives_;         // ascending
  std::vector<int64_t> removed_;           // of the query's identity and group, ascending
  std::span<const int64_t> hidden_;        // of the query's group, ascending
  size_t next_hidden_ = 0;
  std::vector<T> bounds_;                  // distances of positives_
  std::vector<T> removed_values_;
  std::vector<Pair> ordered_;              // positives_ in (distance, index) order
  std::vector<Pair> ordered_removed_;
  std::vector<T> steps_;                   // distances of ordered_
  std::vector<int64_t> counts_;            // compared items before each of positives_
  std::vector<int64_t> between_;           // searched items between neighbours of ordered_
  std::vector<int32_t> places_;
  std::vector<uint64_t> seen_;             // identities already counted, one bit each
};

}  // namespace vireid_fast
