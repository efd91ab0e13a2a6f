// Token injection on the CPU: streams in which sources of tokens replace, join or add to what is
// there, with positions and layer normalisation. Every output row is the sum of a few rows.
#include <torch/csrc/stable/library.h>

#include <cstring>
#include <tuple>

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

// The tokens after each token, itself included, that are the same in all items without a break.
std::vector<int64_t> constant_runs(const Assembly& assembly) {
  std::vector<int64_t> runs(assembly.origins.size() + 1, 0);
  for (size_t t = assembly.origins.size(); t-- > 0;) {
    const Origin& origin = assembly.origins[t];
    bool constant = origin.stream < 0 || assembly.stream_items == 0;
    for (size_t k = 0; k < assembly.sources.size(); ++k) {
      constant = constant && (origin.slots[k] < 0 || assembly.sources[k].classes.shared());
    }
    runs[t] = constant ? runs[t + 1] + 1 : 0;
  }
  runs.pop_back();
  return runs;
}

// The first item is summed in full; the others copy what is the same in all from it, since a copy
// of several rows takes half the time of summing them again.
void assemble(const Assembly& assembly, int64_t batch, int64_t width, const Rows& out) {
  const int64_t length = static_cast<int64_t>(assembly.origins.size());
  const std::vector<int64_t> runs = constant_runs(assembly);
  const auto sum_rows = kernels().sum_rows;
  const auto fill = [&](int64_t begin, int64_t end) {
    std::array<Row, kMaxSources + 2> rows;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t token = r % length;
      if (r >= length && runs[token] > 0) {
        const int64_t copied = std::min(runs[token], end - r);
        std::memcpy(out.out(r).data, out[token].data, copied * out.stride);
        r += copied - 1;
        continue;
      }
      const int64_t count = assembly.rows_of(r / length, token, rows.data());
      sum_rows(rows.data(), count, width, out.out(r));
    }
  };
  const int64_t first = std::min<int64_t>(batch, 1) * length;
  torch::stable::parallel_for(0, first, rows_per_task(width), fill);
  torch::stable::parallel_for(first, batch * length, rows_per_task(width), fill);
}

// Normalises a block of rows that the cache still holds.
template <typename S>
void normalize(const NormRow<S>& norm, int64_t rows, const Rows& out, const Rows& normalized,
               S* statistics) {
  const auto sum_rows = kernels().sum_rows;
  const auto normalize_row = kernels().normalize_row<S>();
  const auto fill = [&](int64_t begin, int64_t end) {
    std::vector<S> wide(padded<S>(norm.width));
    std::vector<S> result(padded<S>(norm.width));
    for (int64_t r = begin; r < end; ++r) {
      widen(out[r], norm.width, wide.data());
      normalize_row(norm, wide.data(), result.data(), statistics + r, statistics + rows + r);
      const Row row{result.data(), kSumStorage<S>};
      sum_rows(&row, 1, norm.width, normalized.out(r));
    }
  };
  torch::stable::parallel_for(0, rows, rows_per_task(norm.width), fill);
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
  assemble(assembly, batch, width, out_rows);
  if (!weight) return {out, no_output(out), no_output(out, /*sums=*/true)};
  const bool wide = dtype == ScalarType::Double;
  const ScalarType sums = wide ? ScalarType::Double : ScalarType::Float;
  const Tensor normalized = torch::stable::new_empty(out, {batch, layout.length, width});
  const Tensor statistics = torch::stable::new_empty(out, {2, batch, layout.length}, sums);
  const Rows normalized_rows(kOp, normalized, width);
  const auto run = [&]<typename S>(S epsilon) {
    const std::vector<S> scale = widened<S>(kOp, weight, width);
    const std::vector<S> shift = widened<S>(kOp, bias, width);
    normalize<S>({scale.data(), shift.data(), epsilon, width}, batch * layout.length, out_rows,
                 normalized_rows, statistics.mutable_data_ptr<S>());
  };
  wide ? run(eps) : run(static_cast<float>(eps));
  return {out, normalized, statistics};
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("prompt_injection_fwd", TORCH_BOX(&vireid_fast::prompt_injection_cpu));
}
