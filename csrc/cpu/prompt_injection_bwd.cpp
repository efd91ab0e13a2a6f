// Gradients of token injection on the CPU: every gradient row is a sum of rows over the items that
// used it, in their order, after the gradient has passed through the layer normalisation.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <utility>

#include "bytes.h"
#include "tensor_rows.h"
#include "token_layout.h"

namespace vireid_fast {
namespace {

constexpr const char* kOp = "prompt_injection_bwd";
// Sums over all items go in partial sums of this many rows, for any number of threads.
constexpr int64_t kRowsPerPartial = 32;

enum class Wanted : int64_t { kNothing = 0, kSameType = 1, kFloat = 2 };

template <typename S>
std::vector<S> column_sums(const std::vector<S>& partials, int64_t parts, int64_t stride,
                           int64_t width) {
  std::vector<Row> rows;
  const S* partial = partials.data();
  for (int64_t p = 0; p < parts; ++p) rows.push_back({partial + p * stride, kSumStorage<S>});
  std::vector<S> sums(padded<S>(width), S(0));
  kernels().sum_rows(rows.data(), parts, width, {sums.data(), kSumStorage<S>});
  return sums;
}

// total = grad (zero if absent) + the gradient that comes through the norm; returns the gradients
// of the norm's weight and bias.
template <typename S>
std::pair<std::vector<S>, std::vector<S>> normalize_bwd(
    const NormRow<S>& norm, int64_t rows, const std::optional<Rows>& grad,
    const Rows& grad_normalized, const Rows& out, const S* statistics, const Rows& total) {
  const int64_t stride = padded<S>(norm.width);
  const int64_t parts = (rows + kRowsPerPartial - 1) / kRowsPerPartial;
  std::vector<S> weight_parts(parts * stride, S(0));
  std::vector<S> bias_parts(parts * stride, S(0));
  const auto normalize_row_bwd = kernels().normalize_row_bwd<S>();
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    std::vector<S> scratch(3 * stride, S(0));
    S* row = scratch.data();
    S* row_grad = row + stride;
    S* sum = row_grad + stride;
    for (int64_t r = begin * kRowsPerPartial; r < std::min(rows, end * kRowsPerPartial); ++r) {
      widen(out[r], norm.width, row);
      widen(grad_normalized[r], norm.width, row_grad);
      std::fill(sum, sum + stride, S(0));
      if (grad) widen((*grad)[r], norm.width, sum);
      const int64_t part = r / kRowsPerPartial * stride;
      normalize_row_bwd(norm, row, row_grad, statistics[r], statistics[rows + r], sum,
                        weight_parts.data() + part, bias_parts.data() + part);
      copy_bytes(total.data + r * total.stride, sum, total.stride);
    }
  });
  return {column_sums(weight_parts, parts, stride, norm.width),
          column_sums(bias_parts, parts, stride, norm.width)};
}

// out = the sum of rows in their order, or of partial sums of `per_sum` rows each.
template <typename S>
void sum_in_parts(const std::vector<Row>& rows, int64_t per_sum, int64_t width, OutRow out) {
  const auto sum_rows = kernels().sum_rows;
  const int64_t count = static_cast<int64_t>(rows.size());
  if (count <= per_sum) return sum_rows(rows.data(), count, width, out);
  const int64_t parts = (count + per_sum - 1) / per_sum;
  std::vector<S> sums(parts * width);
  std::vector<Row> sum_of_part;
  for (int64_t p = 0; p < parts; ++p) {
    S* sum = sums.data() + p * width;
    const int64_t first = p * per_sum;
    sum_rows(&rows[first], std::min(per_sum, count - first), width, {sum, kSumStorage<S>});
    sum_of_part.push_back({sum, kSumStorage<S>});
  }
  sum_rows(sum_of_part.data(), parts, width, out);
}

// How many targets from each on follow each other: their tokens are one long row.
std::vector<int64_t> spans_of(const std::vector<int64_t>& targets) {
  std::vector<int64_t> spans(targets.size(), 1);
  for (size_t i = targets.size(); i-- > 1;) {
    if (targets[i] >= 0 && targets[i - 1] + 1 == targets[i]) spans[i - 1] = spans[i] + 1;
  }
  return spans;
}

// The gradient of tokens (C, M, W): each row sums its token over the items of its class.
template <typename S>
void reduce(const Rows& total, int64_t length, int64_t width, const ItemClasses& classes,
            const std::vector<int64_t>& targets, const Rows& out) {
  const ItemGroups groups(classes);
  const int64_t slots = static_cast<int64_t>(targets.size());
  const int64_t all = std::max<int64_t>(1, classes.batch());
  const int64_t per_sum = classes.shared() ? kRowsPerPartial : all;
  // Partial sums of long rows would take much memory.
  const std::vector<int64_t> spans =
      all <= per_sum ? spans_of(targets) : std::vector<int64_t>(slots, 1);
  const auto fill = [&](int64_t begin, int64_t end) {
    std::vector<Row> rows;
    for (int64_t r = begin, tokens = 0; r < end; r += tokens) {
      const int64_t label = r / slots;
      const int64_t first = groups.offsets[label];
      const int64_t last = groups.offsets[label + 1];
      if (first == last) {
        // Classes without items, at once up to the next that has some.
        const auto head = groups.offsets.begin();
        const int64_t next = std::upper_bound(head + label, groups.offsets.end(), last) - head - 1;
        tokens = std::min(end, next * slots) - r;
        clear_bytes(out.out(r).data, tokens * out.stride);
        continue;
      }
      rows.clear();
      const int64_t target = targets[r % slots];
      for (int64_t i = first; target >= 0 && i < last; ++i) {
        rows.push_back(total[groups.order[i] * length + target]);
      }
      tokens = std::min(spans[r % slots], end - r);
      sum_in_parts<S>(rows, per_sum, tokens * width, out.out(r));
    }
  };
  torch::stable::parallel_for(0, classes.classes() * slots, rows_per_task(width), fill);
}

Tensor make_gradient(const Tensor& grad, Wanted wanted, const std::vector<int64_t>& shape) {
  if (wanted == Wanted::kNothing) return no_output(grad);
  if (wanted == Wanted::kFloat) return torch::stable::new_empty(grad, shape, ScalarType::Float);
  return torch::stable::new_empty(grad, shape);
}

struct Gradients {
  const std::optional<Tensor>& tokens;
  const std::optional<Tensor>& normalized;
  const Tensor& any() const { return tokens ? *tokens : *normalized; }
};

// The gradient of the tokens before the norm as rows of S, and of weight and bias.
template <typename S>
std::tuple<Tensor, Tensor, Tensor> through_norm(const Gradients& grads, const Tensor& out,
                                                const Tensor& statistics, const Tensor& weight,
                                                Wanted wanted) {
  const Tensor& given = *grads.normalized;
  const int64_t width = given.size(2);
  const int64_t rows = given.size(0) * given.size(1);
  check_size(kOp, "statistics", statistics, 0, 2);
  STD_TORCH_CHECK(out.numel() == given.numel() && statistics.numel() == 2 * rows, kOp,
                  ": out and statistics must fit the gradient.");
  const ScalarType sums = sizeof(S) == sizeof(float) ? ScalarType::Float : ScalarType::Double;
  check_dtype(kOp, "statistics", statistics, sums);
  check_sums(kOp, out, given);
  check_sums(kOp, weight, given);
  const Tensor total = torch::stable::new_empty(given, {given.size(0), given.size(1), width}, sums);
  std::optional<Rows> grad;
  if (grads.tokens) grad.emplace(kOp, *grads.tokens, width);
  const Tensor stats = torch::stable::contiguous(statistics);
  const std::vector<S> scale = widened<S>(kOp, weight, width);
  const auto [weight_sum, bias_sum] = normalize_bwd<S>(
      {scale.data(), nullptr, S(0), width}, rows, grad, Rows(kOp, given, width),
      Rows(kOp, out, width), stats.const_data_ptr<S>(), Rows(kOp, total, width));
  Tensor grad_weight = make_gradient(given, wanted, {width});
  Tensor grad_bias = make_gradient(given, wanted, {width});
  if (wanted != Wanted::kNothing) {
    const Row weight_row{weight_sum.data(), kSumStorage<S>};
    const Row bias_row{bias_sum.data(), kSumStorage<S>};
    kernels().sum_rows(&weight_row, 1, width, Rows(kOp, grad_weight, width).out(0));
    kernels().sum_rows(&bias_row, 1, width, Rows(kOp, grad_bias, width).out(0));
  }
  return {total, grad_weight, grad_bias};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, std::vector<Tensor>> prompt_injection_bwd_cpu(
    const std::optional<Tensor>& grad, const std::optional<Tensor>& grad_normalized,
    const std::optional<Tensor>& out, const std::optional<Tensor>& statistics,
    const std::optional<Tensor>& weight, const std::vector<std::optional<Tensor>>& labels,
    const std::vector<int64_t>& starts, const std::vector<int64_t>& modes,
    const std::vector<int64_t>& classes, const std::vector<int64_t>& lengths, bool stream_shared,
    int64_t stream_length, const std::vector<int64_t>& wanted) {
  const size_t num_sources = labels.size();
  STD_TORCH_CHECK(grad || (grad_normalized && out && statistics && weight), kOp,
                  ": a gradient must be given, with the norm's tensors if it is the norm's.");
  STD_TORCH_CHECK(classes.size() == num_sources && wanted.size() == num_sources + 3, kOp,
                  ": each source must have classes, and each input an entry of wanted.");
  const Gradients grads{grad, grad_normalized};
  const Tensor& given = grads.any();
  check_rank(kOp, "grad", given, 3);
  const int64_t batch = given.size(0), length = given.size(1), width = given.size(2);
  const TokenLayout layout(kOp, stream_length, lengths, starts, modes);
  STD_TORCH_CHECK(layout.length == length, kOp, ": grad must have ", layout.length,
                  " tokens, got ", length, ".");
  const auto want = [&](size_t i) { return static_cast<Wanted>(wanted[i]); };
  const bool wide = given.scalar_type() == ScalarType::Double;
  Tensor total = given;
  Tensor grad_weight = no_output(given);
  Tensor grad_bias = no_output(given);
  if (grad_normalized) {
    std::tie(total, grad_weight, grad_bias) =
        (wide ? through_norm<double> : through_norm<float>)(grads, *out, *statistics, *weight,
                                                            want(2));
  }
  const Rows rows(kOp, total, width);
  const auto gradient = [&](Wanted kind, const std::vector<int64_t>& shape,
                            const std::optional<Tensor>& label, int64_t num_classes,
                            const std::vector<int64_t>& targets) {
    const Tensor result = make_gradient(given, kind, shape);
    if (kind != Wanted::kNothing) {
      const ItemClasses items(kOp, label, num_classes, batch);
      (wide ? reduce<double> : reduce<float>)(rows, length, width, items, targets,
                                              Rows(kOp, result, width));
    }
    return result;
  };
  const int64_t streams = stream_shared ? 1 : batch;
  std::vector<int64_t> stream_shape{batch, stream_length, width};
  if (stream_shared) stream_shape.erase(stream_shape.begin());
  const Tensor grad_stream =
      gradient(want(0), stream_shape, std::nullopt, streams, layout.targets[0]);
  const std::vector<int64_t> all_tokens = TokenLayout(kOp, length, {}, {}, {}).targets[0];
  const Tensor grad_positions =
      gradient(want(1), {length, width}, std::nullopt, 1, all_tokens);
  std::vector<Tensor> grad_tokens;
  for (size_t k = 0; k < num_sources; ++k) {
    grad_tokens.push_back(gradient(want(k + 3), {classes[k], lengths[k], width}, labels[k],
                                   classes[k], layout.targets[k + 1]));
  }
  return {grad_stream, grad_positions, grad_weight, grad_bias, grad_tokens};
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("prompt_injection_bwd", TORCH_BOX(&vireid_fast::prompt_injection_bwd_cpu));
}
