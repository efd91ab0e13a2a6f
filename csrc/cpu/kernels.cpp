#include "kernels.h"

#include <atomic>

namespace vireid_fast {
namespace {

std::atomic<int> limit{static_cast<int>(InstructionSet::kAvx512)};

}  // namespace

InstructionSet instruction_set() {
  static const int widest = static_cast<int>(widest_instruction_set());
  const int allowed = limit.load(std::memory_order_relaxed);
  return static_cast<InstructionSet>(widest < allowed ? widest : allowed);
}

void limit_instruction_set(InstructionSet set) {
  limit.store(static_cast<int>(set), std::memory_order_relaxed);
}

const Kernels& kernels() {
#if VIREID_X86_DISPATCH
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return kKernelsAvx512;
    case InstructionSet::kAvx2:
      return kKernelsAvx2;
    case InstructionSet::kBaseline:
      break;
  }
#endif
  return kKernelsBaseline;
}

}  // namespace vireid_fast
