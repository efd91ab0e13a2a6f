// What every binding shares: one device for all tensors, its stream, memory, and errors.
#pragma once

#include <cuda_runtime.h>
#if defined(__CUDACC__)
#include <torch/csrc/stable/accelerator.h>
#endif
#include <torch/csrc/stable/c/shim.h>

#include <initializer_list>

#include "../checks.h"

namespace vireid_fast {

inline Tensor memory_beside(const Tensor& like, size_t bytes) {
  return torch::stable::new_empty(like, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
}

// `count` values of any type beside a tensor.
template <typename T>
struct Scratch {
  Scratch(const Tensor& like, int64_t count)
      : memory(memory_beside(like, static_cast<size_t>(count) * sizeof(T))) {}

  T* data() { return static_cast<T*>(memory.mutable_data_ptr()); }

  Tensor memory;
};

#if defined(__CUDACC__)
#define VIREID_DEVICE CUDA

// Makes the device of the first tensor current for as long as it lives; all must be on it.
class CurrentDevice {
 public:
  CurrentDevice(const char* op, std::initializer_list<const Tensor*> tensors)
      : index_((*tensors.begin())->get_device_index()), guard_(index_) {
    for (const Tensor* tensor : tensors) {
      STD_TORCH_CHECK(tensor->is_cuda() && tensor->get_device_index() == index_, op,
                      ": all tensors must be on the GPU ", index_, ".");
    }
  }

  // The stream that torch works on.
  cudaStream_t stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    return static_cast<cudaStream_t>(stream);
  }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
};

#else
#include "emulated_device.h"
#endif

// Where an op runs, and its errors.
class OnDevice {
 public:
  OnDevice(const char* op, std::initializer_list<const Tensor*> tensors)
      : op_(op), device_(op, tensors), stream_(device_.stream()) {}

  cudaStream_t stream() const { return stream_; }

  void check(cudaError_t status) const {
    STD_TORCH_CHECK(status == cudaSuccess, op_, ": a kernel failed: ", cudaGetErrorString(status));
  }

  // The value at `source` on the device, once all work before has ended.
  template <typename T>
  T fetch(const T* source) const {
    T value;
    check(cudaMemcpyAsync(&value, source, sizeof(T), cudaMemcpyDeviceToHost, stream_));
    check(cudaStreamSynchronize(stream_));
    return value;
  }

 private:
  const char* op_;
  CurrentDevice device_;
  cudaStream_t stream_;
};

// A number on the device, 0 until kernels raise it.
template <typename T>
struct Raised : Scratch<T> {
  Raised(const OnDevice& device, const Tensor& like) : Scratch<T>(like, 1), device_(device) {
    device.check(cudaMemsetAsync(this->data(), 0, sizeof(T), device.stream()));
  }

  T fetch() { return device_.fetch(this->data()); }

 private:
  const OnDevice& device_;
};

}  // namespace vireid_fast
