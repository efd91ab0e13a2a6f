// Where the tokens of a stream and of the sources injected into it end up, and which items share
// the tokens of a source.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "../checks.h"

namespace vireid_fast {

enum class InjectionMode : int64_t { kReplace = 0, kInsert = 1, kAdd = 2 };

inline constexpr size_t kMaxSources = 4;

// For every token of the stream (targets[0]) and of each source (targets[1], ...) the output token
// that it becomes a part of; -1 if a later source replaces it.
struct TokenLayout {
  TokenLayout(const char* op, int64_t stream_length, const std::vector<int64_t>& lengths,
              const std::vector<int64_t>& starts, const std::vector<int64_t>& modes)
      : length(stream_length) {
    STD_TORCH_CHECK(
        lengths.size() <= kMaxSources && starts.size() == lengths.size() &&
            modes.size() == lengths.size(),
        op, ": each of at most ", kMaxSources, " sources must have a start and a mode.");
    std::vector<int64_t>& stream = targets.emplace_back(stream_length);
    for (int64_t t = 0; t < stream_length; ++t) stream[t] = t;
    for (size_t k = 0; k < lengths.size(); ++k) {
      inject(op, static_cast<InjectionMode>(modes[k]), starts[k], lengths[k]);
    }
  }

  std::vector<std::vector<int64_t>> targets;
  int64_t length;  // of the output

 private:
  void inject(const char* op, InjectionMode mode, int64_t start, int64_t count) {
    const int64_t end = mode == InjectionMode::kInsert ? start : start + count;
    STD_TORCH_CHECK(start >= 0 && count >= 0 && end <= length, op,
                    ": a source must lie within the ", length, " tokens, got [", start, ", ",
                    start + count, ").");
    for (std::vector<int64_t>& target : targets) {
      for (int64_t& t : target) {
        if (mode == InjectionMode::kInsert && t >= start) t += count;
        if (mode == InjectionMode::kReplace && t >= start && t < end) t = -1;
      }
    }
    std::vector<int64_t>& own = targets.emplace_back(count);
    for (int64_t m = 0; m < count; ++m) own[m] = start + m;
    if (mode == InjectionMode::kInsert) length += count;
  }
};

// Which class's tokens an item takes: the class of its label; without labels its own, or the only.
class ItemClasses {
 public:
  ItemClasses(const char* op, const std::optional<Tensor>& labels, int64_t classes, int64_t batch)
      : classes_(classes), batch_(batch) {
    if (!labels) {
      STD_TORCH_CHECK(classes == 1 || classes == batch, op,
                      ": a source without labels must have 1 or ", batch, " rows of tokens, got ",
                      classes, ".");
      return;
    }
    check_rank(op, "labels", *labels, 1);
    check_size(op, "labels", *labels, 0, batch);
    check_dtype(op, "labels", *labels, ScalarType::Long);
    labels_ = labels->is_contiguous() ? *labels : torch::stable::contiguous(*labels);
    values_ = labels_->const_data_ptr<int64_t>();
    for (int64_t b = 0; b < batch; ++b) {
      STD_TORCH_CHECK(values_[b] >= 0 && values_[b] < classes, op, ": labels must be in [0, ",
                      classes, "), got ", values_[b], " at position ", b, ".");
    }
  }

  int64_t operator[](int64_t item) const {
    if (values_ != nullptr) return values_[item];
    return classes_ == 1 ? 0 : item;
  }

  int64_t classes() const { return classes_; }
  int64_t batch() const { return batch_; }
  bool shared() const { return values_ == nullptr && classes_ == 1; }

 private:
  std::optional<Tensor> labels_;
  const int64_t* values_ = nullptr;
  int64_t classes_;
  int64_t batch_;
};

// Stable counting sort: the items of class c are order[offsets[c]] to order[offsets[c + 1] - 1].
struct ItemGroups {
  explicit ItemGroups(const ItemClasses& classes)
      : order(classes.batch()), offsets(classes.classes() + 1, 0) {
    for (int64_t b = 0; b < classes.batch(); ++b) ++offsets[classes[b] + 1];
    for (size_t c = 1; c < offsets.size(); ++c) offsets[c] += offsets[c - 1];
    std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
    for (int64_t b = 0; b < classes.batch(); ++b) order[next[classes[b]]++] = b;
  }

  std::vector<int64_t> order;
  std::vector<int64_t> offsets;
};

}  // namespace vireid_fast
