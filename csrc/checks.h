// What memory safety needs; the full validation with remedies is in each op's api.py.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

namespace vireid_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_rank(const char* op, const char* argument, const Tensor& tensor, int64_t rank) {
  STD_TORCH_CHECK(tensor.dim() == rank, op, ": ", argument, " must have ", rank,
                  " dimensions, got ", tensor.dim(), ".");
}

inline void check_size(const char* op, const char* argument, const Tensor& tensor, int64_t dim,
                       int64_t size) {
  STD_TORCH_CHECK(tensor.size(dim) == size, op, ": ", argument, " must have size ", size,
                  " in dimension ", dim, ", got ", tensor.size(dim), ".");
}

inline void check_dtype(const char* op, const char* argument, const Tensor& tensor,
                        ScalarType dtype) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, op, ": ", argument, " must be ", dtype, ", got ",
                  tensor.scalar_type(), ".");
}

inline void check_same_dtype(const char* op, const char* argument, const Tensor& tensor,
                             const char* other_argument, const Tensor& other) {
  STD_TORCH_CHECK(tensor.scalar_type() == other.scalar_type(), op, ": ", argument,
                  " must have the dtype of ", other_argument, " (", other.scalar_type(),
                  "), got ", tensor.scalar_type(), ".");
}

// `indices` is contiguous int64; every value must lie in [0, size).
inline void check_indices(const char* op, const char* argument, const Tensor& indices,
                          int64_t size) {
  const int64_t* values = indices.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < indices.numel(); ++i) {
    STD_TORCH_CHECK(values[i] >= 0 && values[i] < size, op, ": ", argument, " must lie in [0, ",
                    size, "), got ", values[i], ".");
  }
}

}  // namespace vireid_fast
