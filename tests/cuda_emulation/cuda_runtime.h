// As much of CUDA as the kernels of csrc/cuda use, on the CPU: one block after the other, each
// thread of a block a fiber that runs until it waits for its warp or its block. It shows the logic
// of a kernel, barriers included, but neither races within a warp nor the hardware's rounding.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  explicit dim3(unsigned size) : x(size) {}
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorInvalidValue = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
using cudaStream_t = void*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

template <typename Function>
cudaError_t cudaFuncSetAttribute(Function*, cudaFuncAttribute, int) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  std::memset(data, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  std::memcpy(target, source, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "an emulated error"; }

namespace emulation {

constexpr int kWarp = 32;
constexpr size_t kStack = 128 * 1024;

// A background copy of 16 bytes, of zeros without source.
struct Copy {
  void* target;
  const void* source;
};

enum class Wait { kNot, kBlock, kWarp };

struct Fiber {
  ucontext_t start;
  jmp_buf state;
  bool started = false;
  std::unique_ptr<char[]> stack;
  bool done = false;
  Wait waits = Wait::kNot;
  std::deque<std::vector<Copy>> copies;  // groups that are under way, the last still open
};

// What the lanes of a warp exchange at one point.
struct Exchange {
  unsigned arrived = 0;
  uint64_t values[kWarp][4];
  uint64_t results[kWarp][4];
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Exchange> warps;
  std::vector<unsigned char> shared;
  std::function<void()> body;
  jmp_buf scheduler;
  int current = 0;
  int live = 0;
  int at_barrier = 0;
};

inline Block* block = nullptr;
// In which order the threads of a block run: 1 as they are numbered, -1 from the last to the first,
// 0 shuffled, differently each time.
inline int direction = 1;
inline dim3 grid_dim, block_dim, block_idx;

[[noreturn]] inline void fail(const char* why) {
  std::fprintf(stderr, "emulation: %s\n", why);
  std::abort();
}

inline void wait(Wait kind) {
  Fiber& self = block->fibers[block->current];
  self.waits = kind;
  // Unlike swapcontext, a jump asks nothing of the kernel.
  if (_setjmp(self.state) == 0) _longjmp(block->scheduler, 1);
}

inline void run_fiber() {
  block->body();
  Fiber& self = block->fibers[block->current];
  self.done = true;
  --block->live;
  _longjmp(block->scheduler, 1);
}

inline void release_barrier() {
  for (Fiber& fiber : block->fibers) {
    if (fiber.waits == Wait::kBlock) fiber.waits = Wait::kNot;
  }
  block->at_barrier = 0;
}

// Waits for all lanes of the warp; the last to arrive runs `then` before any goes on.
template <typename Then>
void gather_warp(Then then) {
  const int lane = block->current % kWarp;
  const int first = block->current - lane;
  Exchange& exchange = block->warps[block->current / kWarp];
  exchange.arrived |= 1u << lane;
  if (exchange.arrived != 0xffffffffu) return wait(Wait::kWarp);
  exchange.arrived = 0;
  then(exchange);
  for (int other = 0; other < kWarp; ++other) block->fibers[first + other].waits = Wait::kNot;
}

// Every lane brings values; `combine` sees them all, once, and leaves each lane its results.
template <typename Combine>
void exchange_values(unsigned mask, const uint64_t (&mine)[4], uint64_t (&result)[4],
                     Combine combine) {
  if (mask != 0xffffffffu) fail("only whole warps may exchange values");
  const int lane = block->current % kWarp;
  Exchange& exchange = block->warps[block->current / kWarp];
  std::memcpy(exchange.values[lane], mine, sizeof(mine));
  gather_warp(combine);
  std::memcpy(result, exchange.results[lane], sizeof(result));
  // Nobody may start the next exchange before all have read the results of this one.
  gather_warp([](Exchange&) {});
}

inline void resume(Fiber& fiber) {
  if (_setjmp(block->scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.state, 1);
  fiber.started = true;
  setcontext(&fiber.start);
}

inline void run_block() {
  const int count = static_cast<int>(block->fibers.size());
  block->live = count;
  for (Fiber& fiber : block->fibers) {
    fiber.done = fiber.started = false;
    fiber.waits = Wait::kNot;
    fiber.copies.assign(1, {});
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = kStack;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, run_fiber, 0);
  }
  std::vector<int> order(count);
  std::iota(order.begin(), order.end(), 0);
  if (direction < 0) std::reverse(order.begin(), order.end());
  static std::minstd_rand random;
  while (block->live > 0) {
    bool moved = false;
    if (direction == 0) std::shuffle(order.begin(), order.end(), random);
    for (const int thread : order) {
      block->current = thread;
      Fiber& fiber = block->fibers[block->current];
      if (fiber.done || fiber.waits != Wait::kNot) continue;
      moved = true;
      resume(fiber);
      // Threads that have left count as arrived.
      if (block->at_barrier > 0 && block->at_barrier == block->live) release_barrier();
    }
    if (!moved) fail("every thread of a block waits");
  }
}

struct ThreadIndex {
  struct Axis {
    operator int() const { return block->current; }
  } x;
};

template <typename T>
uint64_t bits_of(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
T value_of(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
T shuffle(unsigned mask, T value, int source) {
  const uint64_t mine[4] = {bits_of(value), static_cast<uint64_t>(source)};
  uint64_t result[4];
  exchange_values(mask, mine, result, [](Exchange& exchange) {
    for (int lane = 0; lane < kWarp; ++lane) {
      exchange.results[lane][0] = exchange.values[exchange.values[lane][1] % kWarp][0];
    }
  });
  return value_of<T>(result[0]);
}

inline int lane() { return block->current % kWarp; }

}  // namespace emulation

inline const dim3& gridDim = emulation::grid_dim;
inline const dim3& blockDim = emulation::block_dim;
inline const dim3& blockIdx = emulation::block_idx;
inline emulation::ThreadIndex threadIdx;

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  emulation::Block block;
  const unsigned threads = config->blockDim.x;
  if (threads % emulation::kWarp != 0) emulation::fail("blocks must be whole warps");
  block.fibers.resize(threads);
  for (emulation::Fiber& fiber : block.fibers) fiber.stack.reset(new char[emulation::kStack]);
  block.warps.resize(threads / emulation::kWarp);
  block.body = [&] { kernel(arguments...); };
  emulation::block = &block;
  emulation::grid_dim = config->gridDim;
  emulation::block_dim = config->blockDim;
  for (unsigned b = 0; b < config->gridDim.x; ++b) {
    // Nothing may rely on what another block left behind.
    block.shared.assign(config->dynamicSmemBytes, 0xff);
    emulation::block_idx.x = b;
    emulation::run_block();
  }
  return cudaSuccess;
}

inline void __syncthreads() {
  ++emulation::block->at_barrier;
  if (emulation::block->at_barrier == emulation::block->live) return emulation::release_barrier();
  emulation::wait(emulation::Wait::kBlock);
}

inline void __syncwarp() { emulation::gather_warp([](emulation::Exchange&) {}); }

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return emulation::shuffle(mask, value, emulation::lane() ^ lanes);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, int lanes) {
  const int source = emulation::lane() - lanes;
  return emulation::shuffle(mask, value, source < 0 ? emulation::lane() : source);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
  return emulation::shuffle(mask, value, source);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t mine[4] = {predicate != 0};
  uint64_t result[4];
  emulation::exchange_values(mask, mine, result, [](emulation::Exchange& exchange) {
    uint64_t bits = 0;
    for (int lane = 0; lane < emulation::kWarp; ++lane) bits |= exchange.values[lane][0] << lane;
    for (auto& of_lane : exchange.results) of_lane[0] = bits;
  });
  return static_cast<unsigned>(result[0]);
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

template <typename T>
T atomicAdd(T* target, T value) {
  const T before = *target;
  *target += value;
  return before;
}
template <typename T>
T atomicOr(T* target, T value) {
  const T before = *target;
  *target |= value;
  return before;
}
template <typename T>
T atomicMax(T* target, T value) {
  const T before = *target;
  if (before < value) *target = value;
  return before;
}

// Compiled with -ffp-contract=off, so that each operation is rounded by itself.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline uint32_t __float_as_uint(float value) {
  return static_cast<uint32_t>(emulation::bits_of(value));
}
inline float __uint_as_float(uint32_t bits) { return emulation::value_of<float>(bits); }
inline long long __double_as_longlong(double value) {
  return static_cast<long long>(emulation::bits_of(value));
}
inline double __longlong_as_double(long long bits) {
  return emulation::value_of<double>(emulation::bits_of(bits));
}
