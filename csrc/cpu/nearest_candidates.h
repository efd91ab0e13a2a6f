// The lists of one block of rows while coarse tiles pass: candidates, and how far each list reaches.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "coarse_items.h"
#include "coarse_kernels.h"
#include "kernels.h"

namespace vireid_fast {

// Measures pairs: the squared distance of a row of the query to an item of the database.
struct Measure {
  const float* query;
  const float* database;
  int64_t width;

  void operator()(int64_t row, const int32_t* items, int64_t count, float* distances) const {
    kernels().distance_gather(query + row * width, database, items, count, width, distances);
  }
};

// Lists of `count` rows from `first` on.
class NearestCandidates {
 public:
  NearestCandidates(const Measure& measure, const CoarseItems& items, int64_t first, int64_t count,
                    int64_t k)
      : measure_(measure),
        measured_down_(items.measured_down),
        measured_up_(items.measured_up),
        first_(first),
        k_(k),
        capacity_(std::max<int64_t>(128, 4 * k)),
        near_(padded_to_panels(count), std::numeric_limits<float>::infinity()),
        far_(padded_to_panels(count), 0.0f),
        farthest_(count, 0.0f),
        num_near_(count, 0),
        num_far_(count, 0),
        near_list_(count * capacity_),
        far_list_(count * kFarCapacity) {}

  // Reaches of the rows, as CoarseRow and CoarseColumns hold them.
  const float* near() const { return near_.data(); }
  const float* far() const { return far_.data(); }

  // The measured squared distance of the item lies in [least, most].
  void add_near(int64_t row, int32_t item, float least, float most) {
    near_list_[row * capacity_ + num_near_[row]++] = {item, least, most};
    if (num_near_[row] == capacity_) shrink(row);
  }

  void add_far(int64_t row, int32_t item, float least, float most) {
    if (least > farthest_[row]) raise(row, least);
    far_list_[row * kFarCapacity + num_far_[row]++] = {item, least, most};
    if (num_far_[row] == kFarCapacity) settle_far(row, kFarCapacity / 2);
  }

  // The list of a row, nearest first, and its largest distance.
  void finish(int64_t row, float* distances, int64_t* indices, float* farthest) {
    settle_far(row, 0);
    *farthest = farthest_[row];
    Candidate* list = &near_list_[row * capacity_];
    int64_t count = num_near_[row];
    if (count > k_) count = drop(row, list, count);
    count = measure_nearest(row, list, count);
    for (int64_t i = 0; i < count; ++i) {
      distances[i] = list[i].least;
      indices[i] = list[i].item;
    }
  }

  int64_t measured() const { return measured_; }

 private:
  static constexpr int64_t kFarCapacity = 16;

  // The measured squared distance lies in [least, most]; least == most once it is known.
  struct Candidate {
    int32_t item;
    float least, most;
  };

  struct Nearer {
    bool operator()(const Candidate& a, const Candidate& b) const {
      return a.least < b.least || (a.least == b.least && a.item < b.item);
    }
  };
  static constexpr Nearer nearer{};

  // Nothing whose measured distance exceeds `value` belongs into the list.
  void reach(int64_t row, float value) {
    near_[row] = std::sqrt((value + kCoarseTiny) / measured_down_) * kCoarseUp;
  }

  // The farthest item lies at `value` or beyond.
  void raise(int64_t row, float value) {
    farthest_[row] = value;
    far_[row] = std::sqrt(std::max(value - kCoarseTiny, 0.0f) / measured_up_) * kCoarseDown;
  }

  // Drops what cannot be among the k nearest of at least k candidates.
  int64_t drop(int64_t row, Candidate* list, int64_t count) {
    bounds_.resize(count);
    for (int64_t i = 0; i < count; ++i) bounds_[i] = list[i].most;
    std::nth_element(bounds_.begin(), bounds_.begin() + (k_ - 1), bounds_.end());
    const float most = bounds_[k_ - 1];
    reach(row, most);
    return std::remove_if(list, list + count,
                          [most](const Candidate& item) { return item.least > most; }) -
           list;
  }

  // Makes room, by measuring where dropping alone leaves too much.
  void shrink(int64_t row) {
    Candidate* list = &near_list_[row * capacity_];
    int64_t count = drop(row, list, num_near_[row]);
    if (count > capacity_ / 2) {
      count = measure_nearest(row, list, count);
      reach(row, list[k_ - 1].least);
    }
    num_near_[row] = count;
  }

  // Measures what may be among the k nearest; these come first then, in order. Returns their number.
  int64_t measure_nearest(int64_t row, Candidate* list, int64_t count) {
    if (count > 2 * k_) return measure_likeliest(row, list, count);
    places_.clear();
    chosen_.clear();
    for (int64_t i = 0; i < count; ++i) {
      if (list[i].least == list[i].most) continue;
      places_.push_back(i);
      chosen_.push_back(list[i].item);
    }
    const int64_t size = static_cast<int64_t>(chosen_.size());
    bounds_.resize(size);
    measure_(first_ + row, chosen_.data(), size, bounds_.data());
    measured_ += size;
    for (int64_t i = 0; i < size; ++i) list[places_[i]].least = list[places_[i]].most = bounds_[i];
    std::sort(list, list + count, nearer);
    return std::min(count, k_);
  }

  // The same of many: the likeliest first, as long as one may be among the k nearest.
  int64_t measure_likeliest(int64_t row, Candidate* list, int64_t count) {
    std::sort(list, list + count, nearer);
    best_.clear();
    int32_t items[kBatch];
    float distances[kBatch];
    for (int64_t begin = 0; begin < count;) {
      int64_t size = 0;
      for (; begin < count && size < kBatch; ++begin) {
        const Candidate& candidate = list[begin];
        const bool full = static_cast<int64_t>(best_.size()) == k_;
        if (full && candidate.least > best_.front().least) {
          begin = count;  // and so are all that follow
        } else if (candidate.least == candidate.most) {
          keep(candidate);
        } else {
          items[size++] = candidate.item;
        }
      }
      measure_(first_ + row, items, size, distances);
      measured_ += size;
      for (int64_t i = 0; i < size; ++i) keep({items[i], distances[i], distances[i]});
    }
    std::sort_heap(best_.begin(), best_.end(), nearer);
    std::copy(best_.begin(), best_.end(), list);
    return static_cast<int64_t>(best_.size());
  }

  // best_: a heap of the k nearest so far, the worst at the front.
  void keep(const Candidate& item) {
    if (static_cast<int64_t>(best_.size()) == k_) {
      if (!nearer(item, best_.front())) return;
      std::pop_heap(best_.begin(), best_.end(), nearer);
      best_.back() = item;
    } else {
      best_.push_back(item);
    }
    std::push_heap(best_.begin(), best_.end(), nearer);
  }

  // Drops the candidates that cannot be the farthest, and measures if more than `spare` are left.
  void settle_far(int64_t row, int64_t spare) {
    Candidate* list = &far_list_[row * kFarCapacity];
    const auto drop = [&](int64_t count) -> int64_t {
      const float known = farthest_[row];
      return std::remove_if(list, list + count,
                            [known](const Candidate& item) { return item.most < known; }) -
             list;
    };
    int64_t count = drop(num_far_[row]);
    if (count > spare) {
      int32_t items[kFarCapacity];
      float distances[kFarCapacity];
      for (int64_t i = 0; i < count; ++i) items[i] = list[i].item;
      measure_(first_ + row, items, count, distances);
      measured_ += count;
      raise(row, std::max(farthest_[row], *std::max_element(distances, distances + count)));
      count = 0;
    }
    num_far_[row] = count;
  }

  static constexpr int64_t kBatch = 4;

  Measure measure_;
  float measured_down_, measured_up_;
  int64_t first_, k_, capacity_;
  std::vector<float> near_, far_, farthest_;
  std::vector<int32_t> num_near_, num_far_;
  std::vector<Candidate> near_list_, far_list_;
  std::vector<float> bounds_;
  std::vector<Candidate> best_;
  std::vector<int64_t> places_;
  std::vector<int32_t> chosen_;
  int64_t measured_ = 0;
};

}  // namespace vireid_fast
