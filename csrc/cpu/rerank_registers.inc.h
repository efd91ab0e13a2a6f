// Registers of VIREID_VECTOR_BYTES and fused multiply-add on scalars, for the rerank_<set>.cpp, which
// add fused() on registers.
namespace vireid_fast {
namespace {

template <typename T>
struct Registers {
  typedef T Vector __attribute__((vector_size(VIREID_VECTOR_BYTES)));
  static constexpr int kLanes = VIREID_VECTOR_BYTES / sizeof(T);
};
using Floats = Registers<float>::Vector;
using Doubles = Registers<double>::Vector;

// Where the machine has no such instruction the C library computes it, slowly and exactly: the
// other sets' bits, which a product and a sum would not give.
inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }

}  // namespace
}  // namespace vireid_fast
