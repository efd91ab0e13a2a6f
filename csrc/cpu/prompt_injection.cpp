// Token injection on the CPU: streams in which sources of tokens replace, join or add to what is
// there, with positions and layer normalisation. Every output row is the sum of a few rows.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "bytes.h"
#include "tensor_rows.h"
#include "token_layout.h"

namespace vireid_fast {
namespace {

constexpr const char* kOp = "prompt_injection";

struct Source {
  Rows tokens;
  int64_t slots;
  ItemClasses classes;
};

// The rows that make up one output token: of the stream and of each source, -1 for none.
struct Origin {
  int64_t stream = -1;
  std::array<int64_t, kMaxSources> slots{-1, -1, -1, -1};
};

std::vector<Origin> origins_of(const TokenLayout& layout) {
  std::vector<Origin> origins(layout.length);
  for (size_t part = 0; part < layout.targets.size(); ++part) {
    for (size_t i = 0; i < layout.targets[part].size(); ++i) {
      const int64_t target = layout.targets[part][i];
      if (target < 0) continue;
      Origin& origin = origins[target];
      (part == 0 ? origin.stream : origin.slots[part - 1]) = static_cast<int64_t>(i);
    }
  }
  return origins;
}

struct Assembly {
  Rows stream;
  int64_t stream_items;  // rows of the stream from one item to the next, 0 if they share it
  std::vector<Source> sources;
  std::optional<Rows> positions;
  std::vector<Origin> origins;

  int64_t rows_of(int64_t item, int64_t token, Row* rows) const {
    const Origin& origin = origins[token];
    int64_t count = 0;
    if (origin.stream >= 0) rows[count++] = stream[item * stream_items + origin.stream];
    for (size_t k = 0; k < sources.size(); ++k) {
      if (origin.slots[k] < 0) continue;
      const int64_t first = sources[k].classes[item] * sources[k].slots;
      rows[count++] = sources[k].tokens[first + origin.slots[k]];
    }
    if (positions) rows[count++] = (*positions)[token];
    return count;
  }
};

// Tokens from one on whose rows lie one after the other in everything that they are made of, so
// that they are one long row; `constant` if they are the same in all items.
struct Span {
  int64_t tokens;
  bool constant;
};

bool continues(const Origin& origin, const Origin& next) {
  const auto follows = [](int64_t row, int64_t after) { return after == (row < 0 ? -1 : row + 1); };
  bool all = follows(origin.stream, next.stream);
  for (size_t k = 0; k < kMaxSources; ++k) all = all && follows(origin.slots[k], next.slots[k]);
  return all;
}

// The span that begins at each token.
std::vector<Span> spans_of(const Assembly& assembly) {
  std::vector<Span> spans(assembly.origins.size());
  for (size_t t = spans.size(); t-- > 0;) {
    const Origin& origin = assembly.origins[t];
    bool constant = origin.stream < 0 || assembly.stream_items == 0;
    for (size_t k = 0; k < assembly.sources.size(); ++k) {
      constant = constant && (origin.slots[k] < 0 || assembly.sources[k].classes.shared());
    }
    const bool joined = t + 1 < spans.size() && spans[t + 1].constant == constant &&
                        continues(origin, assembly.origins[t + 1]);
    spans[t] = {joined ? spans[t + 1].tokens + 1 : 1, constant};
  }
  return spans;
}

// Layer normalisation of output rows, while the cache still holds them.
template <typename S>
class Normalization {
 public:
  Normalization(const NormRow<S>& norm, const Rows& out, const Rows& normalized, S* mean, S* rstd)
      : norm_(norm), out_(out), normalized_(normalized), mean_(mean), rstd_(rstd) {}

  // With scratch of its own; one for each thread.
  class Worker {
   public:
    explicit Worker(const Normalization& all)
        : all_(all), row_(padded<S>(all.norm_.width)), result_(row_.size()) {}

    void rows(int64_t begin, int64_t end) {
      const int64_t width = all_.norm_.width;
      const bool direct =
          all_.out_.storage == kSumStorage<S> && static_cast<int64_t>(row_.size()) == width;
      for (int64_t r = begin; r < end; ++r) {
        if (direct) {
          normalize_(all_.norm_, static_cast<S*>(all_.out_.out(r).data),
                     static_cast<S*>(all_.normalized_.out(r).data), all_.mean_ + r, all_.rstd_ + r);
          continue;
        }
        widen(all_.out_[r], width, row_.data());
        normalize_(all_.norm_, row_.data(), result_.data(), all_.mean_ + r, all_.rstd_ + r);
        const Row row{result_.data(), kSumStorage<S>};
        kernels().sum_rows(&row, 1, width, all_.normalized_.out(r));
      }
    }

    // Rows that are equal to those from `source` on.
    void copy(int64_t source, int64_t target, int64_t count) {
      copy_bytes(all_.normalized_.out(target).data, all_.normalized_[source].data,
                  count * all_.normalized_.stride);
      copy_bytes(all_.mean_ + target, all_.mean_ + source, count * sizeof(S));
      copy_bytes(all_.rstd_ + target, all_.rstd_ + source, count * sizeof(S));
    }

   private:
    const Normalization& all_;
    const NormalizeRow<S> normalize_ = kernels().normalize_row<S>();
    std::vector<S> row_;
    std::vector<S> result_;
  };

 private:
  NormRow<S> norm_;
  const Rows& out_;
  const Rows& normalized_;
  S* mean_;
  S* rstd_;
};

struct NoNormalization {
  struct Worker {
    explicit Worker(const NoNormalization&) {}
    void rows(int64_t, int64_t) {}
    void copy(int64_t, int64_t, int64_t) {}
  };
};

// The first item is summed in full; the others copy what is the same in all from it, since a copy
// takes half the time of summing again.
template <typename Normalize>
void assemble(const Assembly& assembly, int64_t batch, int64_t width, const Rows& out,
              const Normalize& normalize) {
  const int64_t length = static_cast<int64_t>(assembly.origins.size());
  const std::vector<Span> spans = spans_of(assembly);
  const auto sum_rows = kernels().sum_rows;
  const int64_t task = rows_per_task(width);
  const auto fill = [&](int64_t begin, int64_t end) {
    std::array<Row, kMaxSources + 2> rows;
    typename Normalize::Worker worker(normalize);
    for (int64_t r = begin, tokens = 0; r < end; r += tokens) {
      const Span& span = spans[r % length];
      // No more than a task at once, so that normalisation finds the rows in the cache.
      tokens = std::min({span.tokens, end - r, task});
      if (r >= length && span.constant) {
        copy_bytes(out.out(r).data, out[r % length].data, tokens * out.stride);
        worker.copy(r % length, r, tokens);
      } else {
        const int64_t count = assembly.rows_of(r / length, r % length, rows.data());
        sum_rows(rows.data(), count, tokens * width, out.out(r));
        worker.rows(r, r + tokens);
      }
    }
  };
  const int64_t first = std::min<int64_t>(batch, 1) * length;
  torch::stable::parallel_for(0, first, task, fill);
  torch::stable::parallel_for(first, batch * length, task, fill);
}

std::vector<int64_t> sizes_of(const std::vector<Tensor>& tensors, int64_t dim) {
  std::vector<int64_t> sizes;
  for (const Tensor& tensor : tensors) sizes.push_back(tensor.size(dim));
  return sizes;
}

std::tuple<Tensor, Tensor, Tensor> prompt_injection_cpu(
    const Tensor& stream, const std::vector<Tensor>& tokens,
    const std::vector<std::optional<Tensor>>& labels, const std::vector<int64_t>& starts,
    const std::vector<int64_t>& modes, const std::optional<Tensor>& positions,
    const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, double eps,
    int64_t batch, ScalarType dtype) {
  const int64_t rank = stream.dim();
  STD_TORCH_CHECK(rank == 2 || (rank == 3 && stream.size(0) == batch), kOp,
                  ": stream must have shape (L, W) or (", batch, ", L, W).");
  STD_TORCH_CHECK(labels.size() == tokens.size(), kOp, ": every source must have labels.");
  for (const Tensor& source : tokens) check_rank(kOp, "tokens", source, 3);
  const int64_t width = stream.size(rank - 1);
  const int64_t stream_length = stream.size(rank - 2);
  const TokenLayout layout(kOp, stream_length, sizes_of(tokens, 1), starts, modes);
  Assembly assembly{Rows(kOp, stream, width), rank == 3 ? stream_length : 0, {}, {},
                    origins_of(layout)};
  for (size_t k = 0; k < tokens.size(); ++k) {
    assembly.sources.push_back({Rows(kOp, tokens[k], width), tokens[k].size(1),
                                ItemClasses(kOp, labels[k], tokens[k].size(0), batch)});
  }
  if (positions) {
    check_rank(kOp, "positions", *positions, 2);
    check_size(kOp, "positions", *positions, 0, layout.length);
    assembly.positions.emplace(kOp, *positions, width);
  }
  const Tensor out = torch::stable::new_empty(stream, {batch, layout.length, width}, dtype);
  const Rows out_rows(kOp, out, width);
  check_sums(kOp, stream, out);
  for (const Tensor& source : tokens) check_sums(kOp, source, out);
  for (const auto& optional : {positions, weight, bias}) {
    if (optional) check_sums(kOp, *optional, out);
  }
  if (!weight) {
    assemble(assembly, batch, width, out_rows, NoNormalization{});
    return {out, no_output(out), no_output(out, /*sums=*/true)};
  }
  const bool wide = dtype == ScalarType::Double;
  const ScalarType sums = wide ? ScalarType::Double : ScalarType::Float;
  const Tensor normalized = torch::stable::new_empty(out, {batch, layout.length, width});
  const Tensor statistics = torch::stable::new_empty(out, {2, batch, layout.length}, sums);
  const Rows normalized_rows(kOp, normalized, width);
  const auto run = [&]<typename S>(S epsilon) {
    const std::vector<S> scale = widened<S>(kOp, weight, width);
    const std::vector<S> shift = widened<S>(kOp, bias, width);
    S* mean = statistics.mutable_data_ptr<S>();
    assemble(assembly, batch, width, out_rows,
             Normalization<S>({scale.data(), shift.data(), epsilon, width}, out_rows,
                              normalized_rows, mean, mean + batch * layout.length));
  };
  wide ? run(eps) : run(static_cast<float>(eps));
  return {out, normalized, statistics};
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("prompt_injection_fwd", TORCH_BOX(&vireid_fast::prompt_injection_cpu));
}
