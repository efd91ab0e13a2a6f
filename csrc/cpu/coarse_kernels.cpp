#include "coarse_kernels.h"

#include "kernels.h"

namespace vireid_fast {

const CoarseKernels& coarse_kernels() {
#if VIREID_X86_DISPATCH
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return __builtin_cpu_supports("avx512vnni") ? kCoarseAvx512Vnni : kCoarseAvx512;
    case InstructionSet::kAvx2:
      return kCoarseAvx2;
    case InstructionSet::kBaseline:
      break;
  }
#endif
  return kCoarseBaseline;
}

}  // namespace vireid_fast
