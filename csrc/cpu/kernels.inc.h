// The bodies of the table in kernels.h, included once by each kernels_<set>.cpp, which first
// defines VIREID_VECTOR_BYTES (width of its registers), VIREID_TILE_ROWS x VIREID_TILE_COLS
// (pairs whose sums fit the register file) and VIREID_TABLE (name of its table).
//
// Nothing here may call a function or template with external linkage (the standard library
// included): the linker keeps one copy of such a function, possibly the one compiled for a wider
// instruction set than the machine has.

#include "../isa.h"

#if VIREID_X86_DISPATCH
#include <immintrin.h>
#endif

namespace vireid_fast {
namespace {

constexpr int kGroupBytes = 64;
constexpr int kParts = kGroupBytes / VIREID_VECTOR_BYTES;  // registers per 64-byte group

template <typename T>
struct Lanes {
  typedef T Vector __attribute__((vector_size(VIREID_VECTOR_BYTES)));
  typedef T Quarter __attribute__((vector_size(kGroupBytes / 4)));
  static constexpr int kGroup = kGroupBytes / sizeof(T);
  static constexpr int kVector = VIREID_VECTOR_BYTES / sizeof(T);
};

template <typename V, typename T>
inline V load(const T* source) {
  V value;
  __builtin_memcpy(&value, source, sizeof(V));
  return value;
}

// Sum of one 64-byte group: lane i with i + half, half = group / 2, group / 4, ..., 1.
template <typename T>
inline T reduce(const typename Lanes<T>::Vector (&parts)[kParts]) {
  using Quarter = typename Lanes<T>::Quarter;
  constexpr int kQuarter = Lanes<T>::kGroup / 4;
  T lanes[Lanes<T>::kGroup];
  __builtin_memcpy(lanes, parts, kGroupBytes);
  const Quarter sum = (load<Quarter>(lanes) + load<Quarter>(lanes + 2 * kQuarter)) +
                      (load<Quarter>(lanes + kQuarter) + load<Quarter>(lanes + 3 * kQuarter));
  if constexpr (kQuarter == 4) {
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
  } else {
    return sum[0] + sum[1];
  }
}

// One step of 64 bytes along the width for R x C pairs.
template <Product P, int R, int C, typename T>
inline __attribute__((always_inline)) void accumulate(
    const T* x, int64_t x_stride, const T* y, int64_t y_stride,
    typename Lanes<T>::Vector (&sums)[R][C][kParts]) {
  using Vector = typename Lanes<T>::Vector;
#pragma GCC unroll 4
  for (int part = 0; part < kParts; ++part) {
    const int64_t offset = part * Lanes<T>::kVector;
    Vector rows[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) rows[r] = load<Vector>(x + r * x_stride + offset);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const Vector column = load<Vector>(y + c * y_stride + offset);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        if constexpr (P == Product::kSquaredDifference) {
          const Vector difference = rows[r] - column;
          sums[r][c][part] += difference * difference;
        } else {
          sums[r][c][part] += rows[r] * column;
        }
      }
    }
  }
}

template <Product P, int R, int C, typename T>
inline void register_tile(const T* x, const T* y, int64_t width, T* out, int64_t out_stride) {
  constexpr int kGroup = Lanes<T>::kGroup;
  typename Lanes<T>::Vector sums[R][C][kParts] = {};
  int64_t d = 0;
  for (; d + kGroup <= width; d += kGroup) {
    accumulate<P, R, C>(x + d, width, y + d, width, sums);
  }
  if (d < width) {
    T x_tail[R * kGroup] = {};
    T y_tail[C * kGroup] = {};
    for (int64_t i = d; i < width; ++i) {
      for (int r = 0; r < R; ++r) x_tail[r * kGroup + i - d] = x[r * width + i];
      for (int c = 0; c < C; ++c) y_tail[c * kGroup + i - d] = y[c * width + i];
    }
    accumulate<P, R, C>(x_tail, kGroup, y_tail, kGroup, sums);
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) out[r * out_stride + c] = reduce<T>(sums[r][c]);
  }
}

template <Product P, int R, typename T>
inline void register_rows(const T* x, const T* y, int64_t cols, int64_t width, T* out,
                          int64_t out_stride) {
  int64_t c = 0;
  for (; c + VIREID_TILE_COLS <= cols; c += VIREID_TILE_COLS) {
    register_tile<P, R, VIREID_TILE_COLS>(x, y + c * width, width, out + c, out_stride);
  }
  for (; c < cols; ++c) register_tile<P, R, 1>(x, y + c * width, width, out + c, out_stride);
}

template <Product P, typename T>
void product_tile(const T* x, int64_t rows, const T* y, int64_t cols, int64_t width, T* out,
                  int64_t out_stride) {
  // Columns go in blocks that stay in the second-level cache while all rows pass over them.
  constexpr int64_t kBlockBytes = 256 * 1024;
  const int64_t row_bytes = width * static_cast<int64_t>(sizeof(T)) + 1;
  const int64_t fitting = kBlockBytes / row_bytes / VIREID_TILE_COLS * VIREID_TILE_COLS;
  const int64_t block = fitting > VIREID_TILE_COLS ? fitting : VIREID_TILE_COLS;
  for (int64_t first = 0; first < cols; first += block) {
    const int64_t count = cols - first < block ? cols - first : block;
    const T* y_block = y + first * width;
    T* out_block = out + first;
    int64_t r = 0;
    for (; r + VIREID_TILE_ROWS <= rows; r += VIREID_TILE_ROWS) {
      register_rows<P, VIREID_TILE_ROWS>(x + r * width, y_block, count, width,
                                         out_block + r * out_stride, out_stride);
    }
    for (; r < rows; ++r) {
      register_rows<P, 1>(x + r * width, y_block, count, width, out_block + r * out_stride,
                          out_stride);
    }
  }
}

// The steps of register_tile for one row and C rows anywhere.
template <int C>
inline void gather_tile(const float* x, const float* y, const int32_t* rows, int64_t width,
                        float* out) {
  using Vector = typename Lanes<float>::Vector;
  constexpr int kGroup = Lanes<float>::kGroup;
  Vector sums[C][kParts] = {};
  const auto add = [&](const float* left, const float* right, int c) {
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      const int64_t offset = part * Lanes<float>::kVector;
      const Vector difference = load<Vector>(left + offset) - load<Vector>(right + offset);
      sums[c][part] += difference * difference;
    }
  };
  int64_t d = 0;
  for (; d + kGroup <= width; d += kGroup) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) add(x + d, y + rows[c] * width + d, c);
  }
  if (d < width) {
    float x_tail[kGroup] = {};
    for (int64_t i = d; i < width; ++i) x_tail[i - d] = x[i];
    for (int c = 0; c < C; ++c) {
      float y_tail[kGroup] = {};
      for (int64_t i = d; i < width; ++i) y_tail[i - d] = y[rows[c] * width + i];
      add(x_tail, y_tail, c);
    }
  }
  for (int c = 0; c < C; ++c) out[c] = reduce<float>(sums[c]);
}

void distance_gather(const float* x, const float* y, const int32_t* rows, int64_t count,
                     int64_t width, float* out) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) gather_tile<4>(x, y, rows + i, width, out + i);
  for (; i < count; ++i) gather_tile<1>(x, y, rows + i, width, out + i);
}

template <typename T>
void distance_tile(Product product, const T* x, int64_t rows, const T* y, int64_t cols,
                   int64_t width, T* out, int64_t out_stride) {
  if (product == Product::kSquaredDifference) {
    product_tile<Product::kSquaredDifference>(x, rows, y, cols, width, out, out_stride);
  } else {
    product_tile<Product::kDot>(x, rows, y, cols, width, out, out_stride);
  }
}

}  // namespace

#include "rows.inc.h"
#include "counting.inc.h"

const Kernels VIREID_TABLE = {
    distance_tile<float>,
    distance_tile<double>,
    distance_gather,
    sum_rows,
    normalize_row<float>,
    normalize_row<double>,
    normalize_row_bwd<float>,
    normalize_row_bwd<double>,
    {count_below<float>, find_at_most<float>, find_between<float>, has_nan<float>},
    {count_below<double>, find_at_most<double>, find_between<double>, has_nan<double>},
};

}  // namespace vireid_fast
