// Prompt assembly on the CPU and the gradient of its context, both over rows of the width.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "../checks.h"

namespace vireid_fast {
namespace {

constexpr const char* kForward = "prompt_injection";
constexpr const char* kBackward = "prompt_injection_bwd";
constexpr int64_t kElementsPerTask = 1 << 15;

template <typename T>
using Sum = std::conditional_t<sizeof(T) < sizeof(float), float, T>;

int64_t rows_per_task(int64_t width) { return std::max<int64_t>(1, kElementsPerTask / (width + 1)); }

void check_labels(const char* op, const int64_t* labels, int64_t count, int64_t classes) {
  for (int64_t b = 0; b < count; ++b) {
    STD_TORCH_CHECK(labels[b] >= 0 && labels[b] < classes, op, ": labels must be in [0, ", classes,
                    "), got ", labels[b], " at position ", b, ".");
  }
}

void check_window(const char* op, int64_t start, int64_t slots, int64_t length) {
  STD_TORCH_CHECK(start >= 0 && slots >= 0 && start + slots <= length, op,
                  ": the context must lie within the ", length, " tokens, got [", start, ", ",
                  start + slots, ").");
}

template <typename T>
void add_rows(const T* a, const T* b, int64_t width, T* out) {
  for (int64_t w = 0; w < width; ++w) {
    out[w] = static_cast<T>(static_cast<Sum<T>>(a[w]) + static_cast<Sum<T>>(b[w]));
  }
}

struct Sizes {
  int64_t prompts, length, width, classes, slots, start;
};

template <typename T>
void assemble(const Sizes& n, const T* prompt, const T* positions, const T* context,
              const int64_t* labels, T* out) {
  const auto fill = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t token = row % n.length;
      const int64_t slot = token - n.start;
      const bool learned = slot >= 0 && slot < n.slots;
      const T* source = learned ? context + (labels[row / n.length] * n.slots + slot) * n.width
                                : prompt + token * n.width;
      add_rows(source, positions + token * n.width, n.width, out + row * n.width);
    }
  };
  torch::stable::parallel_for(0, n.prompts * n.length, rows_per_task(n.width), fill);
}

// Sums the prompts of each class in index order, so that the result does not depend on threads.
template <typename T>
void reduce_context(const Sizes& n, const T* grad, const std::vector<int64_t>& order,
                    const std::vector<int64_t>& offsets, T* out) {
  const auto fill = [&](int64_t begin, int64_t end) {
    std::vector<Sum<T>> sums(n.width);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t label = row / n.slots;
      const int64_t token = n.start + row % n.slots;
      std::fill(sums.begin(), sums.end(), Sum<T>(0));
      for (int64_t i = offsets[label]; i < offsets[label + 1]; ++i) {
        const T* source = grad + (order[i] * n.length + token) * n.width;
        for (int64_t w = 0; w < n.width; ++w) sums[w] += static_cast<Sum<T>>(source[w]);
      }
      T* target = out + row * n.width;
      for (int64_t w = 0; w < n.width; ++w) target[w] = static_cast<T>(sums[w]);
    }
  };
  torch::stable::parallel_for(0, n.classes * n.slots, rows_per_task(n.width), fill);
}

Tensor prompt_injection_cpu(const Tensor& prompt, const Tensor& positions, const Tensor& context,
                            const Tensor& labels, int64_t start) {
  check_rank(kForward, "template", prompt, 2);
  check_rank(kForward, "positions", positions, 2);
  check_rank(kForward, "context", context, 3);
  check_rank(kForward, "labels", labels, 1);
  const Sizes n{labels.size(0),  prompt.size(0),  prompt.size(1),
                context.size(0), context.size(1), start};
  check_size(kForward, "positions", positions, 0, n.length);
  check_size(kForward, "positions", positions, 1, n.width);
  check_size(kForward, "context", context, 2, n.width);
  check_same_dtype(kForward, "positions", positions, "template", prompt);
  check_same_dtype(kForward, "context", context, "template", prompt);
  check_dtype(kForward, "labels", labels, ScalarType::Long);
  check_window(kForward, start, n.slots, n.length);
  const Tensor rows = torch::stable::contiguous(prompt);
  const Tensor offsets = torch::stable::contiguous(positions);
  const Tensor learned = torch::stable::contiguous(context);
  const Tensor classes = torch::stable::contiguous(labels);
  const int64_t* label = classes.const_data_ptr<int64_t>();
  check_labels(kForward, label, n.prompts, n.classes);
  Tensor out = torch::stable::new_empty(prompt, {n.prompts, n.length, n.width});
  THO_DISPATCH_V2(prompt.scalar_type(), "prompt_injection_cpu", AT_WRAP([&] {
    assemble<scalar_t>(n, rows.const_data_ptr<scalar_t>(), offsets.const_data_ptr<scalar_t>(),
                       learned.const_data_ptr<scalar_t>(), label,
                       out.mutable_data_ptr<scalar_t>());
  }), AT_EXPAND(AT_FLOATING_TYPES), ScalarType::Half, ScalarType::BFloat16);
  return out;
}

Tensor prompt_injection_bwd_cpu(const Tensor& grad, const Tensor& labels, int64_t num_classes,
                                int64_t context_length, int64_t start) {
  check_rank(kBackward, "grad", grad, 3);
  check_rank(kBackward, "labels", labels, 1);
  check_size(kBackward, "labels", labels, 0, grad.size(0));
  check_dtype(kBackward, "labels", labels, ScalarType::Long);
  const Sizes n{grad.size(0), grad.size(1), grad.size(2), num_classes, context_length, start};
  check_window(kBackward, start, n.slots, n.length);
  const Tensor rows = torch::stable::contiguous(grad);
  const Tensor classes = torch::stable::contiguous(labels);
  const int64_t* label = classes.const_data_ptr<int64_t>();
  check_labels(kBackward, label, n.prompts, n.classes);
  std::vector<int64_t> offsets(n.classes + 1, 0);
  for (int64_t b = 0; b < n.prompts; ++b) ++offsets[label[b] + 1];
  for (int64_t c = 0; c < n.classes; ++c) offsets[c + 1] += offsets[c];
  std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
  std::vector<int64_t> order(n.prompts);
  for (int64_t b = 0; b < n.prompts; ++b) order[next[label[b]]++] = b;
  Tensor out = torch::stable::new_empty(grad, {n.classes, n.slots, n.width});
  THO_DISPATCH_V2(grad.scalar_type(), "prompt_injection_bwd_cpu", AT_WRAP([&] {
    reduce_context<scalar_t>(n, rows.const_data_ptr<scalar_t>(), order, offsets,
                             out.mutable_data_ptr<scalar_t>());
  }), AT_EXPAND(AT_FLOATING_TYPES), ScalarType::Half, ScalarType::BFloat16);
  return out;
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("prompt_injection_fwd", TORCH_BOX(&vireid_fast::prompt_injection_cpu));
  m.impl("prompt_injection_bwd", TORCH_BOX(&vireid_fast::prompt_injection_bwd_cpu));
}
