// The two loops over all query x gallery pairs that re-ranking needs, once per instruction set and
// chosen at run time. Every entry gives the same bits on every set: sums run in one order, fused
// multiply-adds stand where this file says so and nowhere else.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace vireid_fast {

// Columns of a packed panel.
template <typename T>
inline constexpr int64_t kPanelColumns = 128 / sizeof(T);

template <typename T>
struct RerankKernels {
  // Dot products here run fused over 128 dimensions at a time, in order, and the sums of these
  // pieces are added in order.

  // norms[r] = rows[r] . rows[r].
  void (*row_norms)(const T* rows, int64_t num_rows, int64_t width, T* norms);

  // panel[d][c] = columns[c, d] - centre[d], 0 behind `count` columns; norms[c] as row_norms'.
  void (*pack_panel)(const T* columns, int64_t count, int64_t width, const T* centre, T* panel,
                     T* norms);

  // out[r * stride + c] = (row_norms[r] + norms[c]) - 2 rows[r] . panel[c], not below 0, for the
  // first `count` columns of the panel.
  void (*squared_tile)(const T* rows, const T* row_norms, int64_t num_rows, int64_t width,
                       const T* panel, const T* norms, int64_t count, T* out, int64_t stride);

  // distance[g] = rest jaccard_of_overlap(overlap[g]) + lambda distance[g] / farthest, in this order
  // of operations; rest = 1 - lambda, rounded once. Sets `overlap` to 0 for the next row.
  void (*blend_row)(T* overlap, int64_t count, T farthest, T lambda, T rest, T* distance);
};

struct RerankTable {
  RerankKernels<float> f32;
  RerankKernels<double> f64;

  template <typename T>
  const RerankKernels<T>& of() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return f32;
    } else {
      return f64;
    }
  }
};

// One table per translation unit rerank_<set>.cpp.
extern const RerankTable kRerankBaseline;
#if VIREID_X86_DISPATCH
extern const RerankTable kRerankAvx2;
extern const RerankTable kRerankAvx512;
#endif

// The table of the instruction set that kernels() uses.
const RerankTable& rerank_kernels();

}  // namespace vireid_fast
