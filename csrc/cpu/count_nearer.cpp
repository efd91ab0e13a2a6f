// Counts the entries of distance rows before given (distance, index) pairs. Rows in parallel; a
// count is an integer, so that no order of work changes it.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <vector>

#include "kernels.h"
#include "sparse_rows.h"

namespace vireid_fast {
namespace {

constexpr const char* kOp = "count_nearer";

// Counts of one row after the other, with the memory that it reuses.
template <typename T>
class RowCounter {
 public:
  RowCounter(int64_t width, int64_t first)
      : width_(width), first_(first), count_below_(kernels().counting<T>().count_below) {}

  // Entries equal to a bound count left of its item only. Items left or right of all columns, which
  // are most of them, share passes over the row.
  void count(const T* row, const T* bounds, const int64_t* indices, int64_t num_bounds,
             int64_t* counts) {
    right_.clear();
    left_.clear();
    for (int64_t p = 0; p < num_bounds; ++p) {
      const int64_t place = indices[p] - first_;
      counts[p] = 0;
      if (place >= width_) {
        right_.push_back(p);
      } else if (place <= 0) {
        left_.push_back(p);
      } else {
        count_below_(row, place, bounds + p, 1, true, counts + p);
        count_below_(row + place, width_ - place, bounds + p, 1, false, counts + p);
      }
    }
    count_shared(row, bounds, right_, true, counts);
    count_shared(row, bounds, left_, false, counts);
  }

 private:
  void count_shared(const T* row, const T* bounds, const std::vector<int64_t>& items,
                    bool or_equal, int64_t* counts) {
    bounds_.clear();
    for (const int64_t p : items) bounds_.push_back(bounds[p]);
    found_.assign(items.size(), 0);
    count_below_(row, width_, bounds_.data(), static_cast<int64_t>(items.size()), or_equal,
                 found_.data());
    for (size_t i = 0; i < items.size(); ++i) counts[items[i]] = found_[i];
  }

  int64_t width_;
  int64_t first_;
  CountBelow<T> count_below_;
  std::vector<int64_t> right_;
  std::vector<int64_t> left_;
  std::vector<T> bounds_;
  std::vector<int64_t> found_;
};

Tensor count_nearer_cpu(const Tensor& distances, const Tensor& crow, const Tensor& bound,
                        const Tensor& index, int64_t first) {
  check_rank(kOp, "distances", distances, 2);
  check_dtype(kOp, "crow", crow, ScalarType::Long);
  check_dtype(kOp, "index", index, ScalarType::Long);
  check_same_dtype(kOp, "bound", bound, "distances", distances);
  check_rank(kOp, "index", index, 1);
  check_rank(kOp, "bound", bound, 1);
  check_size(kOp, "bound", bound, 0, index.size(0));
  check_rank(kOp, "crow", crow, 1);
  check_size(kOp, "crow", crow, 0, distances.size(0) + 1);
  const Tensor matrix = torch::stable::contiguous(distances);
  const Tensor offsets = torch::stable::contiguous(crow);
  const Tensor limits = torch::stable::contiguous(bound);
  const Tensor places = torch::stable::contiguous(index);
  check_offsets(kOp, offsets, places.numel());
  Tensor counts = torch::stable::new_empty(places, {places.numel()});
  THO_DISPATCH_V2(matrix.scalar_type(), "count_nearer_cpu", AT_WRAP([&] {
    const int64_t width = matrix.size(1);
    const scalar_t* values = matrix.const_data_ptr<scalar_t>();
    const scalar_t* limit = limits.const_data_ptr<scalar_t>();
    const int64_t* begins = offsets.const_data_ptr<int64_t>();
    const int64_t* place = places.const_data_ptr<int64_t>();
    int64_t* out = counts.mutable_data_ptr<int64_t>();
    torch::stable::parallel_for(0, matrix.size(0), 4, [&](int64_t begin, int64_t end) {
      RowCounter<scalar_t> counter(width, first);
      for (int64_t q = begin; q < end; ++q) {
        const int64_t p = begins[q];
        counter.count(values + q * width, limit + p, place + p, begins[q + 1] - p, out + p);
      }
    });
  }), AT_EXPAND(AT_FLOATING_TYPES));
  return counts;
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("count_nearer", TORCH_BOX(&vireid_fast::count_nearer_cpu));
}
