// What every kernel needs of the device: launches, shared memory, warp primitives and the few
// instructions that have no name in CUDA C++. A host compiler takes these headers too, with
// tests/cuda_emulation on its include path, which is how the kernels run in tests without a GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace vireid_fast {

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

inline int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// Smallest power of two that is not below `value`.
inline int64_t power_of_two(int64_t value) {
  int64_t power = 1;
  while (power < value) power *= 2;
  return power;
}

// Launches on one axis. No blocks, no launch.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared_bytes,
                   cudaStream_t stream, Arguments... arguments) {
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  constexpr size_t kWithoutAsking = 48 * 1024;
  if (shared_bytes > kWithoutAsking) {
    const cudaError_t status =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes));
    if (status != cudaSuccess) return status;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

// Index of this thread on a launch's one axis, and the number of threads, in 64 bits.
__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t thread_count() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

#if defined(__CUDACC__)

// The launch's dynamic shared memory, 16-byte aligned.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return bytes;
}

// Copies 16 bytes from global to shared memory in the background, or writes zeros.
__device__ inline void copy_async(void* shared, const void* global, bool valid) {
  const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(target), "l"(global),
               "r"(bytes));
}

__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;\n"); }

// Waits until at most `kPending` of this thread's committed groups are under way.
template <int kPending>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending));
}

// Four 8 x 8 matrices of 16-bit values: lane i gives the address of row i % 8 of matrix i / 8, and
// gets of each matrix the values 2 (i % 4) and 2 (i % 4) + 1 of row i / 4.
__device__ inline void load_matrices(uint32_t (&values)[4], const void* row) {
  const unsigned source = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(values[0]), "=r"(values[1]), "=r"(values[2]), "=r"(values[3])
               : "r"(source));
}

// sums (16 x 8, float32) += a (16 x 16) b (16 x 8), both bfloat16, on the tensor cores.
__device__ inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4],
                                    const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#else
#include "emulated_instructions.h"
#endif

// One rounding for each operation, and none left out: a compiler may otherwise contract products
// and sums, and the CPU's kernels do not.
template <typename T>
struct Rounded;

template <>
struct Rounded<float> {
  __device__ static float add(float a, float b) { return __fadd_rn(a, b); }
  __device__ static float multiply(float a, float b) { return __fmul_rn(a, b); }
  __device__ static float divide(float a, float b) { return __fdiv_rn(a, b); }
  __device__ static float root(float a) { return __fsqrt_rn(a); }
};

template <>
struct Rounded<double> {
  __device__ static double add(double a, double b) { return __dadd_rn(a, b); }
  __device__ static double multiply(double a, double b) { return __dmul_rn(a, b); }
  __device__ static double divide(double a, double b) { return __ddiv_rn(a, b); }
  __device__ static double root(double a) { return __dsqrt_rn(a); }
};

}  // namespace vireid_fast
