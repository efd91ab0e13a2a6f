// Also the choice of the table, as kernels.cpp does it for its own.
#include "kernels.h"
#include "rerank_kernels.h"

#define VIREID_VECTOR_BYTES 16
#include "rerank_registers.inc.h"

namespace vireid_fast {
namespace {

constexpr int kTileRows = 4;

inline Floats fused(Floats a, Floats b, Floats c) {
  for (int i = 0; i < Registers<float>::kLanes; ++i) c[i] = fused(a[i], b[i], c[i]);
  return c;
}
inline Doubles fused(Doubles a, Doubles b, Doubles c) {
  for (int i = 0; i < Registers<double>::kLanes; ++i) c[i] = fused(a[i], b[i], c[i]);
  return c;
}

}  // namespace
}  // namespace vireid_fast

#define VIREID_TABLE kRerankBaseline
#include "rerank_kernels.inc.h"

namespace vireid_fast {

const RerankTable& rerank_kernels() {
#if VIREID_X86_DISPATCH
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return kRerankAvx512;
    case InstructionSet::kAvx2:
      return kRerankAvx2;
    case InstructionSet::kBaseline:
      break;
  }
#endif
  return kRerankBaseline;
}

}  // namespace vireid_fast
