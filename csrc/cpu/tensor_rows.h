// Tensors as rows for the table in kernels.h, shared by both directions of token injection.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "../checks.h"
#include "kernels.h"

namespace vireid_fast {

inline int64_t rows_per_task(int64_t width) {
  constexpr int64_t kElementsPerTask = 1 << 15;
  return std::max<int64_t>(1, kElementsPerTask / (width + 1));
}

inline Storage storage_of(const char* op, const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double ||
                      type == ScalarType::Half || type == ScalarType::BFloat16,
                  op, ": tensors must be floating, got ", type, ".");
  if (type == ScalarType::Float) return Storage::kFloat;
  if (type == ScalarType::Double) return Storage::kDouble;
  return type == ScalarType::Half ? Storage::kHalf : Storage::kBfloat16;
}

// Sums are in float64 where the rows are, else in float32.
inline void check_sums(const char* op, const Tensor& rows, const Tensor& out) {
  const bool wide = out.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK((rows.scalar_type() == ScalarType::Double) == wide, op,
                  ": float64 must not be mixed with other dtypes.");
}

// An output that is not there. Made without the dispatcher, whose time counts at this size.
inline Tensor no_output(const Tensor& like, bool sums = false) {
  int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  if (sums && dtype != aoti_torch_dtype_float64()) dtype = aoti_torch_dtype_float32();
  const int64_t size = 0;
  const int64_t stride = 1;
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, &size, &stride, dtype,
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// A tensor as contiguous rows of its last dimension.
struct Rows {
  Rows(const char* op, const Tensor& rows, int64_t width)
      : tensor(rows.is_contiguous() ? rows : torch::stable::contiguous(rows)),
        data(static_cast<char*>(tensor.data_ptr())),
        storage(storage_of(op, rows)),
        stride(width * static_cast<int64_t>(rows.element_size())) {
    check_size(op, "every tensor", rows, rows.dim() - 1, width);
  }

  Row operator[](int64_t row) const { return {data + row * stride, storage}; }
  OutRow out(int64_t row) const { return {data + row * stride, storage}; }

  Tensor tensor;
  char* data;
  Storage storage;
  int64_t stride;
};

template <typename S>
inline constexpr Storage kSumStorage =
    sizeof(S) == sizeof(float) ? Storage::kFloat : Storage::kDouble;

template <typename S>
int64_t padded(int64_t width) {
  constexpr int64_t kLanes = 64 / sizeof(S);
  return (width + kLanes - 1) / kLanes * kLanes;
}

template <typename S>
void widen(const Row& row, int64_t width, S* out) {
  kernels().sum_rows(&row, 1, width, {out, kSumStorage<S>});
}

template <typename S>
std::vector<S> widened(const char* op, const std::optional<Tensor>& values, int64_t width) {
  std::vector<S> wide(padded<S>(width), S(0));
  if (values) widen(Rows(op, *values, width)[0], width, wide.data());
  return wide;
}

}  // namespace vireid_fast
