// Rows of tokens as the functions of kernels.h read and write them.
#pragma once

#include <cstdint>

namespace vireid_fast {

enum class Storage : int { kFloat = 0, kDouble = 1, kHalf = 2, kBfloat16 = 3 };

struct Row {
  const void* data;
  Storage storage;
};

struct OutRow {
  void* data;
  Storage storage;
};

// Layer normalisation of rows of `width` elements; weight and bias are padded by zeros to a
// multiple of 64 bytes.
template <typename S>
struct NormRow {
  const S* weight;
  const S* bias;
  S eps;
  int64_t width;
};

}  // namespace vireid_fast
