// Attention of one sequence and one head, once per instruction set, chosen at run time.
//
// Unlike the table in kernels.h these use fused multiply-add where the set has it, so two
// instruction sets differ by rounding. Within one set every value has one fixed order of
// reduction: it depends neither on threads, nor on the tiles, nor on the other rows.
#pragma once

#include <cstdint>

namespace vireid_fast {

enum class Element : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

// `count` rows of one head in memory, `stride` elements apart: row i is first + i, or, with
// indices, indices[first + i].
template <typename Pointer>
struct HeadRows {
  Pointer data;
  int64_t stride;
  const int64_t* indices;  // or null
  int64_t first;
  int64_t count;
};

using SourceRows = HeadRows<const void*>;
using TargetRows = HeadRows<void*>;

// lse[row i of out] is the natural logarithm of sum_j exp(scale q_i . k_j).
struct AttentionForward {
  Element element;
  int64_t width;  // multiple of 8
  float scale;
  SourceRows query, key, value;
  TargetRows out;
  float* lse;
};

// Calls body(context, i) for all i < count, in any order and perhaps at once.
using RunAll = void (*)(int64_t count, void (*body)(const void* context, int64_t i),
                        const void* context);

// The rows of `grad` and of lse are those of the forward's `out`. The queries go in blocks, of which
// `blocks` are held at a time; `run` does what writes to places of its own, so that neither has any
// effect on the result.
struct AttentionBackward {
  Element element;
  int64_t width;
  float scale;
  SourceRows grad, query, key, value;
  const float* lse;
  TargetRows grad_query, grad_key, grad_value;
  int64_t blocks;
  RunAll run;
};

// Scratch sizes are in floats; the kernels want it aligned to 64 bytes.
struct AttentionKernels {
  int64_t (*forward_scratch)(int64_t queries, int64_t keys, int64_t width);
  int64_t (*backward_blocks)(int64_t queries, int64_t keys);
  int64_t (*backward_scratch)(int64_t queries, int64_t keys, int64_t width, int64_t blocks);
  void (*forward)(const AttentionForward& unit, float* scratch);
  void (*backward)(const AttentionBackward& unit, float* scratch);
};

// One table per translation unit attention_<set>.cpp.
extern const AttentionKernels kAttentionBaseline;
extern const AttentionKernels kAttentionAvx2;
extern const AttentionKernels kAttentionAvx512;

}  // namespace vireid_fast
