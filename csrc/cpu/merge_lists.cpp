// Neighbour lists that grow by further items, whose distances are known up to an error: what may
// enter a list is measured exactly. One thread makes one row.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "../checks.h"
#include "kernels.h"

namespace vireid_fast {
namespace {

constexpr const char* kOp = "merge_lists";
constexpr int64_t kGrain = 16;      // rows per thread at least
constexpr int64_t kBlockRows = 16;  // rows of a transposed matrix that are copied at a time

template <typename T>
struct Listed {
  T distance;
  int64_t index;

  bool operator<(const Listed& other) const {
    return distance < other.distance || (distance == other.distance && index < other.index);
  }
};

struct MergeInput {
  MergeInput(const Tensor& x_in, const Tensor& y_in, const Tensor& coarse_in,
             const Tensor& slack_in, const Tensor& distances_in, const Tensor& indices_in,
             const Tensor& farthest_in)
      : x(torch::stable::contiguous(x_in)),
        y(torch::stable::contiguous(y_in)),
        coarse(coarse_in.stride(0) == 1 ? coarse_in : torch::stable::contiguous(coarse_in)),
        slack(torch::stable::contiguous(slack_in)),
        distances(torch::stable::contiguous(distances_in)),
        indices(torch::stable::contiguous(indices_in)),
        farthest(torch::stable::contiguous(farthest_in)) {
    for (const auto& [name, tensor] :
         {std::pair{"x", &x}, {"y", &y}, {"coarse", &coarse}, {"distances", &distances},
          {"indices", &indices}}) {
      check_rank(kOp, name, *tensor, 2);
    }
    const int64_t rows = x.size(0);
    check_size(kOp, "y", y, 1, x.size(1));
    check_size(kOp, "coarse", coarse, 0, rows);
    check_size(kOp, "coarse", coarse, 1, y.size(0));
    check_size(kOp, "distances", distances, 0, rows);
    check_size(kOp, "indices", indices, 0, rows);
    check_size(kOp, "indices", indices, 1, distances.size(1));
    check_dtype(kOp, "indices", indices, ScalarType::Long);
    for (const auto& [name, tensor] : {std::pair{"slack", &slack}, {"farthest", &farthest}}) {
      check_rank(kOp, name, *tensor, 1);
      check_size(kOp, name, *tensor, 0, rows);
    }
    for (const auto& [name, tensor] :
         {std::pair{"y", &y}, {"coarse", &coarse}, {"slack", &slack}, {"distances", &distances},
          {"farthest", &farthest}}) {
      check_same_dtype(kOp, name, *tensor, "x", x);
    }
  }

  Tensor x, y, coarse, slack, distances, indices, farthest;
};

// One row: the list so far and its merging.
template <typename T>
class RowMerge {
 public:
  RowMerge(int64_t k, int64_t width, int64_t first_index)
      : k_(k), width_(width), first_index_(first_index) {}

  void start(const T* distances, const int64_t* indices, int64_t count, T farthest) {
    list_.clear();
    for (int64_t a = 0; a < count; ++a) list_.push_back({distances[a], indices[a]});
    farthest_ = farthest;
  }

  // `coarse` misses the distance of x to each of the rows of y by at most `slack`.
  void merge(const T* coarse, int64_t count, T slack, const T* x, const T* y) {
    const T reach = reach_of(coarse, count, slack);
    T largest = -std::numeric_limits<T>::infinity();
    for (int64_t j = 0; j < count; ++j) largest = coarse[j] > largest ? coarse[j] : largest;
    // What lies this far out, or farther, may be the farthest.
    const T edge = std::max(farthest_, largest - slack) - slack;
    for (int64_t j = 0; j < count; j += kGroup) {
      const int64_t end = std::min(count, j + kGroup);
      int hit = 0;
      // Negated, so that NaN is measured.
      for (int64_t i = j; i < end; ++i) hit |= !(coarse[i] > reach) | !(coarse[i] < edge);
      for (int64_t i = j; hit && i < end; ++i) {
        if (!(coarse[i] > reach) || !(coarse[i] < edge)) measure(x, y + i * width_, i);
      }
    }
  }

  void write(T* distances, int64_t* indices, T* farthest) {
    std::sort(list_.begin(), list_.end());
    for (int64_t a = 0; a < k_; ++a) {
      distances[a] = list_[a].distance;
      indices[a] = list_[a].index;
    }
    *farthest = farthest_;
  }

 private:
  static constexpr int64_t kGroup = 16;   // values looked at together
  static constexpr int64_t kFewNew = 64;  // new items for each of a list's

  // Coarse distance up to which an item may belong to the k nearest of all.
  T reach_of(const T* coarse, int64_t count, T slack) {
    T reach = std::numeric_limits<T>::infinity();
    const int64_t listed = static_cast<int64_t>(list_.size());
    if (listed >= k_) reach = list_[k_ - 1].distance + slack;
    // Beside a long list the new items hardly lower its reach.
    if (count < k_ || (listed >= k_ && count < kFewNew * k_)) return reach;
    // k groups have an item within their k-th smallest minimum; NaN has no order to select by.
    const int64_t group = count < kGroup * k_ ? 1 : kGroup;
    minima_.clear();
    for (int64_t j = 0; j + group <= count; j += group) {
      T smallest = std::numeric_limits<T>::infinity();
      for (int64_t i = j; i < j + group; ++i) smallest = coarse[i] < smallest ? coarse[i] : smallest;
      minima_.push_back(smallest);
    }
    std::nth_element(minima_.begin(), minima_.begin() + (k_ - 1), minima_.end());
    return std::min(reach, minima_[k_ - 1] + 2 * slack);
  }

  void measure(const T* x, const T* y, int64_t j) {
    T distance;
    kernels().distance_tile<T>()(Product::kSquaredDifference, x, 1, y, 1, width_, &distance, 1);
    farthest_ = std::max(farthest_, distance);
    list_.push_back({distance, first_index_ + j});
  }

  int64_t k_;
  int64_t width_;
  int64_t first_index_;
  std::vector<Listed<T>> list_;
  std::vector<T> minima_;
  T farthest_ = 0;
};

// Rows of a transposed matrix: each step reads a cache line of its columns.
template <typename T>
void copy_columns(const T* first, int64_t stride, int64_t rows, int64_t count, T* out) {
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t r = 0; r < rows; ++r) out[r * count + j] = first[j * stride + r];
  }
}

template <typename T>
void merge(const MergeInput& in, int64_t first_index, int64_t k, T* distances, int64_t* indices,
           T* farthest) {
  const int64_t width = in.x.size(1);
  const int64_t count = in.y.size(0);
  const int64_t listed = in.distances.size(1);
  const T* x = in.x.const_data_ptr<T>();
  const T* y = in.y.const_data_ptr<T>();
  const T* coarse = in.coarse.const_data_ptr<T>();
  const T* slack = in.slack.const_data_ptr<T>();
  const T* known = in.distances.const_data_ptr<T>();
  const int64_t* items = in.indices.const_data_ptr<int64_t>();
  const T* far = in.farthest.const_data_ptr<T>();
  const bool transposed = !in.coarse.is_contiguous();
  torch::stable::parallel_for(0, in.x.size(0), kGrain, [&](int64_t begin, int64_t end) {
    RowMerge<T> row(k, width, first_index);
    std::vector<T> block(transposed ? kBlockRows * count : 0);
    for (int64_t r = begin; r < end; ++r) {
      const T* values = coarse + r * count;
      if (transposed) {
        const int64_t place = (r - begin) % kBlockRows;
        if (place == 0) {
          const int64_t rows = std::min(kBlockRows, end - r);
          copy_columns(coarse + r, in.coarse.stride(1), rows, count, block.data());
        }
        values = block.data() + place * count;
      }
      row.start(known + r * listed, items + r * listed, listed, far[r]);
      row.merge(values, count, slack[r], x + r * width, y);
      row.write(distances + r * k, indices + r * k, farthest + r);
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> merge_lists_cpu(const Tensor& x, const Tensor& y,
                                                   const Tensor& coarse, const Tensor& slack,
                                                   const Tensor& distances, const Tensor& indices,
                                                   const Tensor& farthest, int64_t first_index,
                                                   int64_t k) {
  const MergeInput in(x, y, coarse, slack, distances, indices, farthest);
  const int64_t most = distances.size(1) + y.size(0);
  STD_TORCH_CHECK(k >= 1 && k <= most, kOp, ": k must lie in [1, ", most, "], got ", k, ".");
  Tensor merged = torch::stable::new_empty(x, {x.size(0), k});
  Tensor items = torch::stable::new_empty(x, {x.size(0), k}, ScalarType::Long);
  Tensor far = torch::stable::new_empty(x, {x.size(0)});
  THO_DISPATCH_V2(x.scalar_type(), "merge_lists_cpu", AT_WRAP([&] {
    merge<scalar_t>(in, first_index, k, merged.mutable_data_ptr<scalar_t>(),
                    items.mutable_data_ptr<int64_t>(), far.mutable_data_ptr<scalar_t>());
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return {merged, items, far};
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("merge_lists", TORCH_BOX(&vireid_fast::merge_lists_cpu));
}
