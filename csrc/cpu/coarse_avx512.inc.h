// What coarse_kernels.inc.h wants of 512-bit registers. Included under the target pragma of the two
// sets that have them.
namespace vireid_fast {
namespace {

constexpr int kLanes = 16;
constexpr int kTileRows = 6;
constexpr int kTileVectors = 4;  // 6 x 4 sums, 4 columns and 1 broadcast of 32 registers
typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef int32_t Integers __attribute__((vector_size(kLanes * 4)));

inline Vector fused(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector square_root(Vector values) { return _mm512_sqrt_ps(values); }

// Bit i: whether lane i is set.
inline uint32_t lanes_of(Integers mask) {
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask));
}

}  // namespace
}  // namespace vireid_fast
