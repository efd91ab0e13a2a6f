// Attention between token sequences on the CPU, forward and backward, in tasks of one sequence and
// head. Each writes rows of its own only, so that results do not depend on the threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../checks.h"
#include "attention_kernels.h"
#include "bytes.h"
#include "kernels.h"

namespace vireid_fast {
namespace {

constexpr const char* kForward = "cross_modal_attention_fwd";
constexpr const char* kBackward = "cross_modal_attention_bwd";
constexpr int64_t kProductsPerRange = 1 << 18;
constexpr int64_t kQueriesPerPiece = 64;
// Scores of a sequence from which on threads are worth their start in the backward, and up to which
// all of its probabilities may be held for that (8 bytes each).
constexpr int64_t kLeastTogether = 1 << 17;
constexpr int64_t kMostTogether = 1 << 21;
constexpr std::align_val_t kScratchAlignment{64};

using OptionalTensor = std::optional<Tensor>;

const AttentionKernels& attention_kernels() {
#if VIREID_X86_DISPATCH
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return kAttentionAvx512;
    case InstructionSet::kAvx2:
      return kAttentionAvx2;
    case InstructionSet::kBaseline:
      break;
  }
#endif
  return kAttentionBaseline;
}

Element element_of(const char* op, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Element::kFloat32;
    case ScalarType::Half:
      return Element::kFloat16;
    case ScalarType::BFloat16:
      return Element::kBFloat16;
    default:
      STD_TORCH_CHECK(false, op, ": query must be float32, float16 or bfloat16, got ",
                      tensor.scalar_type(), ".");
  }
}

Tensor with_dense_rows(const Tensor& tensor) {
  return tensor.stride(2) == 1 ? tensor : torch::stable::contiguous(tensor);
}

// A (N, H, D) tensor seen head by head.
template <typename Pointer>
struct Heads {
  Pointer data;
  int64_t item, row, head;  // bytes of an element, elements from row to row, from head to head

  HeadRows<Pointer> rows(int64_t h, const int64_t* indices, int64_t first, int64_t count) const {
    constexpr bool kConst = std::is_const_v<std::remove_pointer_t<Pointer>>;
    using Byte = std::conditional_t<kConst, const char, char>;
    return {static_cast<Byte*>(data) + h * head * item, row, indices, first, count};
  }
};

Heads<const void*> source_heads(const Tensor& tensor) {
  return {tensor.const_data_ptr(), static_cast<int64_t>(tensor.element_size()), tensor.stride(0),
          tensor.stride(1)};
}

Heads<void*> target_heads(const Tensor& tensor) {
  return {tensor.mutable_data_ptr(), static_cast<int64_t>(tensor.element_size()),
          tensor.stride(0), tensor.stride(1)};
}

// The int64 tensors that say where the sequences of the queries, or of the keys, lie.
class Sequences {
 public:
  Sequences(const char* op, const char* side, const Tensor& start, const Tensor& length,
            const OptionalTensor& rows, const OptionalTensor& slots, int64_t num_rows)
      : op_(op), side_(side), start_(index(start, "start")), length_(index(length, "length")) {
    check_size(op, (side_ + "_length").c_str(), length_, 0, start_.size(0));
    if (rows.has_value()) rows_ = index(*rows, "rows");
    if (slots.has_value()) slots_ = index(*slots, "slots");
    if (rows_) check_indices(op, (side_ + "_rows").c_str(), *rows_, num_rows);
    start_data_ = start_.const_data_ptr<int64_t>();
    length_data_ = length_.const_data_ptr<int64_t>();
    if (rows_) rows_data_ = rows_->const_data_ptr<int64_t>();
    slots_data_ = slots_ ? slots_->const_data_ptr<int64_t>() : rows_data_;
    const int64_t entries = rows_ ? rows_->size(0) : num_rows;
    if (slots_) check_size(op, (side_ + "_slots").c_str(), *slots_, 0, entries);
    for (int64_t s = 0; s < count(); ++s) {
      STD_TORCH_CHECK(length_at(s) >= 1 && length_at(s) <= entries && start_at(s) >= 0 &&
                          start_at(s) <= entries - length_at(s),
                      op, ": ", side_, " sequences must have a token and lie within the ", entries,
                      " entries, got start ", start_at(s), " and length ", length_at(s), ".");
    }
  }

  int64_t count() const { return start_.size(0); }
  int64_t start_at(int64_t s) const { return start_data_[s]; }
  int64_t length_at(int64_t s) const { return length_data_[s]; }
  const int64_t* rows() const { return rows_data_; }
  const int64_t* slots() const { return slots_data_; }

  // The slots that no sequence writes; an error if two tokens have the same one.
  std::vector<int64_t> unwritten(int64_t num_slots) const {
    std::vector<char> written(num_slots, 0);
    const int64_t* slot_of = slots();
    for (int64_t s = 0; s < count(); ++s) {
      for (int64_t p = start_at(s); p < start_at(s) + length_at(s); ++p) {
        const int64_t slot = slot_of == nullptr ? p : slot_of[p];
        STD_TORCH_CHECK(slot >= 0 && slot < num_slots && !written[slot], op_, ": ", side_,
                        " slots must be distinct and lie in [0, ", num_slots, "), got ", slot,
                        ".");
        written[slot] = 1;
      }
    }
    std::vector<int64_t> rest;
    for (int64_t slot = 0; slot < num_slots; ++slot) {
      if (!written[slot]) rest.push_back(slot);
    }
    return rest;
  }

 private:
  Tensor index(const Tensor& tensor, const char* what) const {
    const std::string name = side_ + "_" + what;
    check_rank(op_, name.c_str(), tensor, 1);
    check_dtype(op_, name.c_str(), tensor, ScalarType::Long);
    return torch::stable::contiguous(tensor);
  }

  const char* op_;
  std::string side_;
  Tensor start_, length_;
  OptionalTensor rows_, slots_;
  const int64_t* start_data_;
  const int64_t* length_data_;
  const int64_t* rows_data_ = nullptr;   // null: entry p is row p
  const int64_t* slots_data_ = nullptr;  // null: entry p has slot p
};

void check_tokens(const char* op, const char* argument, const Tensor& tensor, const Tensor& query) {
  check_rank(op, argument, tensor, 3);
  check_size(op, argument, tensor, 1, query.size(1));
  check_size(op, argument, tensor, 2, query.size(2));
  check_same_dtype(op, argument, tensor, "query", query);
}

void check_inputs(const char* op, const Tensor& query, const Tensor& key, const Tensor& value) {
  check_rank(op, "query", query, 3);
  check_tokens(op, "key", key, query);
  check_tokens(op, "value", value, query);
  check_size(op, "value", value, 0, key.size(0));
  STD_TORCH_CHECK(query.size(2) > 0 && query.size(2) % 8 == 0, op,
                  ": query must have a head size that is a multiple of 8, got ", query.size(2),
                  ".");
}

void zero_rows(const Tensor& tensor, const std::vector<int64_t>& rows) {
  const int64_t bytes = tensor.size(1) * tensor.size(2) * tensor.element_size();
  char* data = static_cast<char*>(tensor.mutable_data_ptr());
  for (const int64_t row : rows) clear_bytes(data + row * bytes, bytes);
}

// Some queries of one sequence and head, against all of its keys.
struct Task {
  int64_t sequence, head;
  int64_t first, count;  // list entries of the queries
  int64_t work;
};

// All sequences and heads; queries in up to `pieces` pieces where they are many.
std::vector<Task> tasks_of(const Sequences& query, const Sequences& key, int64_t heads,
                           int64_t width, int64_t pieces) {
  std::vector<Task> tasks;
  for (int64_t s = 0; s < query.count(); ++s) {
    const int64_t length = query.length_at(s);
    const int64_t piece = std::max(kQueriesPerPiece, (length + pieces - 1) / pieces);
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t first = 0; first < length; first += piece) {
        const int64_t count = std::min(piece, length - first);
        tasks.push_back({s, h, query.start_at(s) + first, count, count * key.length_at(s) * width});
      }
    }
  }
  return tasks;
}

void run_in_turn(int64_t count, void (*body)(const void* context, int64_t i),
                 const void* context) {
  for (int64_t i = 0; i < count; ++i) body(context, i);
}

void run_in_threads(int64_t count, void (*body)(const void* context, int64_t i),
                    const void* context) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(context, i);
  });
}

// Boundaries of at most one range of tasks per thread, with about the same work in each.
std::vector<size_t> split_evenly(const std::vector<Task>& tasks, int64_t threads) {
  int64_t total = 0;
  for (const Task& task : tasks) total += task.work;
  const int64_t ranges = std::clamp<int64_t>(total / kProductsPerRange, 1, threads);
  std::vector<size_t> bounds{0};
  int64_t done = 0;
  for (size_t i = 0; i < tasks.size(); ++i) {
    const auto next = static_cast<int64_t>(bounds.size());
    if (next < ranges && done >= total / ranges * next) bounds.push_back(i);
    done += tasks[i].work;
  }
  bounds.push_back(tasks.size());
  return bounds;
}

// Calls body(task, scratch) for all tasks, in up to `threads` threads.
template <typename Body>
void run_tasks(const std::vector<Task>& tasks, int64_t threads, int64_t scratch_floats,
               const Body& body) {
  const std::vector<size_t> bounds = split_evenly(tasks, threads);
  torch::stable::parallel_for(0, bounds.size() - 1, 1, [&](int64_t begin, int64_t end) {
    const auto release = [](float* data) { ::operator delete(data, kScratchAlignment); };
    const std::unique_ptr<float, decltype(release)> scratch(
        static_cast<float*>(::operator new(scratch_floats * sizeof(float), kScratchAlignment)),
        release);
    for (size_t i = bounds[begin]; i < bounds[end]; ++i) body(tasks[i], scratch.get());
  });
}

// The scratch that the largest of the sequences needs.
template <typename Size>
int64_t largest_scratch(const Sequences& query, const Sequences& key, int64_t width,
                        const Size& size) {
  int64_t largest = 0;
  for (int64_t s = 0; s < query.count(); ++s) {
    largest = std::max(largest, size(query.length_at(s), key.length_at(s), width));
  }
  return largest;
}

std::tuple<Tensor, Tensor> cross_modal_attention_fwd_cpu(
    const Tensor& query, const Tensor& key, const Tensor& value, const OptionalTensor& query_rows,
    const OptionalTensor& query_slots, const Tensor& query_start, const Tensor& query_length,
    const OptionalTensor& key_rows, const Tensor& key_start, const Tensor& key_length,
    int64_t num_slots, int64_t /*max_query*/, int64_t /*max_key*/, double scale) {
  check_inputs(kForward, query, key, value);
  const Element element = element_of(kForward, query);
  const Sequences queries(kForward, "query", query_start, query_length, query_rows, query_slots,
                          query.size(0));
  const Sequences keys(kForward, "key", key_start, key_length, key_rows, std::nullopt, key.size(0));
  check_size(kForward, "key_start", key_start, 0, queries.count());
  const int64_t heads = query.size(1);
  const int64_t width = query.size(2);
  const Tensor q = with_dense_rows(query), k = with_dense_rows(key), v = with_dense_rows(value);
  Tensor out = torch::stable::new_empty(query, {num_slots, heads, width});
  Tensor lse = torch::stable::new_empty(query, {heads, num_slots}, ScalarType::Float);
  float* lse_data = lse.mutable_data_ptr<float>();
  const std::vector<int64_t> unwritten = queries.unwritten(num_slots);
  zero_rows(out, unwritten);
  for (int64_t h = 0; h < heads; ++h) {
    for (const int64_t slot : unwritten) lse_data[h * num_slots + slot] = 0;
  }
  const auto q_heads = source_heads(q), k_heads = source_heads(k), v_heads = source_heads(v);
  const auto out_heads = target_heads(out);
  const AttentionKernels& table = attention_kernels();
  // Fewer sequences and heads than threads: every thread packs the keys of its queries.
  const int64_t units = std::max<int64_t>(1, queries.count() * heads);
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t pieces = (threads + units - 1) / units;
  const int64_t floats = largest_scratch(queries, keys, width, table.forward_scratch);
  const std::vector<Task> tasks = tasks_of(queries, keys, heads, width, pieces);
  run_tasks(tasks, threads, floats, [&](const Task& task, float* scratch) {
    const int64_t h = task.head;
    const int64_t first = keys.start_at(task.sequence), count = keys.length_at(task.sequence);
    table.forward({element, width, static_cast<float>(scale),
                   q_heads.rows(h, queries.rows(), task.first, task.count),
                   k_heads.rows(h, keys.rows(), first, count),
                   v_heads.rows(h, keys.rows(), first, count),
                   out_heads.rows(h, queries.slots(), task.first, task.count),
                   lse_data + h * num_slots},
                  scratch);
  });
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor> cross_modal_attention_bwd_cpu(
    const Tensor& grad, const Tensor& lse, const Tensor& query, const Tensor& key,
    const Tensor& value, const OptionalTensor& query_rows, const OptionalTensor& query_slots,
    const Tensor& query_start, const Tensor& query_length, const OptionalTensor& key_rows,
    const OptionalTensor& key_slots, const Tensor& key_start, const Tensor& key_length,
    int64_t num_query_slots, int64_t num_key_slots, int64_t /*max_query*/, int64_t /*max_key*/,
    double scale) {
  check_inputs(kBackward, query, key, value);
  const Element element = element_of(kBackward, query);
  check_tokens(kBackward, "grad", grad, query);
  check_size(kBackward, "grad", grad, 0, num_query_slots);
  const int64_t heads = query.size(1);
  const int64_t width = query.size(2);
  check_rank(kBackward, "lse", lse, 2);
  check_size(kBackward, "lse", lse, 0, heads);
  check_size(kBackward, "lse", lse, 1, num_query_slots);
  check_dtype(kBackward, "lse", lse, ScalarType::Float);
  const Sequences queries(kBackward, "query", query_start, query_length, query_rows, query_slots,
                          query.size(0));
  const Sequences keys(kBackward, "key", key_start, key_length, key_rows, key_slots, key.size(0));
  check_size(kBackward, "key_start", key_start, 0, queries.count());
  const Tensor g = with_dense_rows(grad), q = with_dense_rows(query);
  const Tensor k = with_dense_rows(key), v = with_dense_rows(value);
  const Tensor normalizers = torch::stable::contiguous(lse);
  const float* lse_data = normalizers.const_data_ptr<float>();
  Tensor grad_query = torch::stable::new_empty(query, {num_query_slots, heads, width});
  Tensor grad_key = torch::stable::new_empty(key, {num_key_slots, heads, width});
  Tensor grad_value = torch::stable::new_empty(value, {num_key_slots, heads, width});
  zero_rows(grad_query, queries.unwritten(num_query_slots));
  const std::vector<int64_t> unwritten = keys.unwritten(num_key_slots);
  zero_rows(grad_key, unwritten);
  zero_rows(grad_value, unwritten);
  const auto g_heads = source_heads(g), q_heads = source_heads(q);
  const auto k_heads = source_heads(k), v_heads = source_heads(v);
  const auto dq_heads = target_heads(grad_query), dk_heads = target_heads(grad_key);
  const auto dv_heads = target_heads(grad_value);
  const AttentionKernels& table = attention_kernels();
  const std::vector<Task> tasks = tasks_of(queries, keys, heads, width, 1);
  // With few sequences and heads the threads go through each of them together.
  const int64_t threads = torch::stable::get_num_threads();
  const bool together = 2 * static_cast<int64_t>(tasks.size()) <= threads;
  const auto blocks_of = [&](int64_t q_tokens, int64_t k_tokens) -> int64_t {
    const bool apart = q_tokens * k_tokens < kLeastTogether || q_tokens * k_tokens > kMostTogether;
    return together && !apart ? table.backward_blocks(q_tokens, k_tokens) : 1;
  };
  const auto scratch_size = [&](int64_t q_tokens, int64_t k_tokens, int64_t columns) {
    return table.backward_scratch(q_tokens, k_tokens, columns, blocks_of(q_tokens, k_tokens));
  };
  const int64_t floats = largest_scratch(queries, keys, width, scratch_size);
  run_tasks(tasks, together ? 1 : threads, floats, [&](const Task& task, float* scratch) {
    const int64_t h = task.head;
    const int64_t first = keys.start_at(task.sequence), count = keys.length_at(task.sequence);
    const int64_t blocks = blocks_of(task.count, count);
    table.backward({element, width, static_cast<float>(scale),
                    g_heads.rows(h, queries.slots(), task.first, task.count),
                    q_heads.rows(h, queries.rows(), task.first, task.count),
                    k_heads.rows(h, keys.rows(), first, count),
                    v_heads.rows(h, keys.rows(), first, count),
                    lse_data + h * num_query_slots,
                    dq_heads.rows(h, queries.slots(), task.first, task.count),
                    dk_heads.rows(h, keys.slots(), first, count),
                    dv_heads.rows(h, keys.slots(), first, count),
                    blocks,
                    blocks > 1 ? run_in_threads : run_in_turn},
                   scratch);
  });
  return {grad_query, grad_key, grad_value};
}

}  // namespace
}  // namespace vireid_fast

STABLE_TORCH_LIBRARY_IMPL(vireid_fast, CPU, m) {
  m.impl("cross_modal_attention_fwd", TORCH_BOX(&vireid_fast::cross_modal_attention_fwd_cpu));
  m.impl("cross_modal_attention_bwd", TORCH_BOX(&vireid_fast::cross_modal_attention_bwd_cpu));
}
