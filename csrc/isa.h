// Instruction sets that the CPU kernels exist for. Torch-free: used by _C and by _host.
#pragma once

// The wide kernels rely on GCC's `#pragma GCC target`; elsewhere only the baseline is built.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define VIREID_X86_DISPATCH 1
#else
#define VIREID_X86_DISPATCH 0
#endif

namespace vireid_fast {

enum class InstructionSet : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

inline constexpr const char* kInstructionSetNames[] = {"baseline", "avx2", "avx512"};
inline constexpr int kInstructionSetCount = 3;

inline const char* name_of(InstructionSet set) {
  return kInstructionSetNames[static_cast<int>(set)];
}

// The widest set that both this machine and this build have.
inline InstructionSet widest_instruction_set() {
#if VIREID_X86_DISPATCH
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return InstructionSet::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return InstructionSet::kAvx2;
  }
#endif
  return InstructionSet::kBaseline;
}

}  // namespace vireid_fast
