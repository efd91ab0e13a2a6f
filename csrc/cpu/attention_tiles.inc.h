// Building blocks of attention_kernels.inc.h: vectors, packing and register-tiled products.
//
// Every matrix in scratch lies in panels of kPanel columns: element (row, column) of a matrix with
// `rows` rows is at (column / kPanel) * rows * kPanel + row * kPanel + column % kPanel. So the
// inner loops see constant strides whatever the sizes are.

namespace vireid_fast {

#include "half.inc.h"

namespace {

constexpr int kPanel = 2 * kLanes;
constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;
using Bits = WordBits;
typedef int32_t Mask __attribute__((vector_size(kLanes * 4)));

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t panels(int64_t columns) { return (columns + kPanel - 1) / kPanel; }
inline int64_t panelled(int64_t rows, int64_t columns) { return panels(columns) * rows * kPanel; }

inline Vector load(const float* source) {
  Vector value;
  __builtin_memcpy(&value, source, sizeof(Vector));
  return value;
}

inline void store(float* target, Vector value) { __builtin_memcpy(target, &value, sizeof(Vector)); }

inline HalfBits load_half(const uint16_t* source) {
  HalfBits bits;
  __builtin_memcpy(&bits, source, sizeof(HalfBits));
  return bits;
}

inline void store_half(uint16_t* target, HalfBits bits) {
  __builtin_memcpy(target, &bits, sizeof(HalfBits));
}

inline Vector broadcast(float value) { return value - Vector{}; }

// The second operand where either is NaN, as maxps has it.
inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

// Lane i = rows[i] folded by `fold`, every row in the same order of its lanes.
template <typename Fold>
inline Vector fold_rows(Vector (&rows)[kLanes], const Fold& fold) {
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      Vector low, high;
      interleave(rows[i], rows[i + half], low, high);
      rows[i] = fold(low, high);
    }
  }
  return rows[0];
}

// 2^x for x <= 0, relative error below 1e-7, 0 below 2^-126. NaN stays NaN: the comparison of the
// clamp is false for it, and the power of two is multiplied, not added to the exponent bits.
inline Vector power_of_two(Vector x) {
  // Adding 1.5 * 2^23 rounds to an integer; the 127 makes its low bits a float's exponent.
  const Vector magic = broadcast(12582912.0f + 127.0f);
  const Vector lowest = broadcast(-127.0f);
  x = x < lowest ? lowest : x;
  const Vector shifted = x + magic;
  const Vector rest = x - (shifted - magic);
  // Minimax polynomial of 2^x on [-1/2, 1/2], fitted for the relative error.
  Vector power = broadcast(1.534581242594868e-4f);
  power = fused(power, rest, broadcast(1.3399930903688073e-3f));
  power = fused(power, rest, broadcast(9.618489071726799e-3f));
  power = fused(power, rest, broadcast(5.550328642129898e-2f));
  power = fused(power, rest, broadcast(2.4022646248340607e-1f));
  power = fused(power, rest, broadcast(6.931471824645996e-1f));
  power = fused(power, rest, broadcast(1.0f));
  return power * bits_of<Vector>(bits_of<Bits>(shifted) << 23);
}

// Natural logarithm of x >= 1, relative error below 1e-7. NaN stays NaN.
inline Vector logarithm(Vector x) {
  // x = 2^exponent * (1 + rest) with 1 + rest in [sqrt(1/2), sqrt(2)).
  const Bits bits = bits_of<Bits>(x);
  const Bits exponent = (bits - 0x3f3504f3) >> 23;
  const Vector rest = bits_of<Vector>(bits - (exponent << 23)) - 1.0f;
  // Minimax polynomial of (log(1 + rest) - rest) / rest^2.
  Vector tail = broadcast(8.979532867670059e-2f);
  tail = fused(tail, rest, broadcast(-1.4426885545253754e-1f));
  tail = fused(tail, rest, broadcast(1.4883683621883392e-1f));
  tail = fused(tail, rest, broadcast(-1.655178666114807e-1f));
  tail = fused(tail, rest, broadcast(1.9963477551937103e-1f));
  tail = fused(tail, rest, broadcast(-2.5002583861351013e-1f));
  tail = fused(tail, rest, broadcast(3.333393335342407e-1f));
  tail = fused(tail, rest, broadcast(-4.999998211860657e-1f));
  const Vector fraction = fused(tail, rest * rest, rest);
  const Vector whole = __builtin_convertvector(bits_of<Mask>(exponent), Vector);
  return x == x ? fused(whole, broadcast(kLn2), fraction) : x;
}

// Element types: their storage and conversion from and to float32, nearest even.
struct Float32 {
  using Storage = float;
  static Vector widen(const float* source) { return load(source); }
  static void narrow(float* target, Vector value) { store(target, value); }
};

struct BFloat16 {
  using Storage = uint16_t;
  static Vector widen(const uint16_t* source) { return widen_bfloat16(load_half(source)); }
  static void narrow(uint16_t* target, Vector value) {
    store_half(target, narrow_to_bfloat16(value));
  }
};

struct Float16 {
  using Storage = uint16_t;
  static Vector widen(const uint16_t* source) { return widen_float16(load_half(source)); }
  static void narrow(uint16_t* target, Vector value) {
    store_half(target, narrow_to_float16(value));
  }
};

// The next `count` columns, at most kLanes; zero beyond.
template <typename E>
inline Vector widen_columns(const typename E::Storage* source, int64_t count) {
  if (count >= kLanes) return E::widen(source);
  typename E::Storage padded[kLanes] = {};
  __builtin_memcpy(padded, source, count * sizeof(padded[0]));
  return E::widen(padded);
}

template <typename E>
inline void narrow_columns(typename E::Storage* target, int64_t count, Vector value) {
  if (count >= kLanes) return E::narrow(target, value);
  typename E::Storage padded[kLanes];
  E::narrow(padded, value);
  __builtin_memcpy(target, padded, count * sizeof(padded[0]));
}

template <typename Pointer>
inline int64_t index_of(const HeadRows<Pointer>& rows, int64_t i) {
  return rows.indices == nullptr ? rows.first + i : rows.indices[rows.first + i];
}

template <typename E>
inline const typename E::Storage* row_of(const SourceRows& rows, int64_t i) {
  return static_cast<const typename E::Storage*>(rows.data) + index_of(rows, i) * rows.stride;
}

template <typename E>
inline typename E::Storage* row_of(const TargetRows& rows, int64_t i) {
  return static_cast<typename E::Storage*>(rows.data) + index_of(rows, i) * rows.stride;
}

// packed (count, width) = factor * the rows first .. first + count of `rows`.
template <typename E>
void pack(const SourceRows& rows, int64_t first, int64_t count, int64_t width, float factor,
          float* packed) {
  for (int64_t i = 0; i < count; ++i) {
    const typename E::Storage* source = row_of<E>(rows, first + i);
    float* target = packed + i * kPanel;
    for (int64_t column = 0; column < width; column += kPanel, target += count * kPanel) {
      for (int64_t c = column; c < smaller(width, column + kPanel); c += kLanes) {
        store(target + c - column, widen_columns<E>(source + c, width - c) * factor);
      }
    }
  }
}

inline void transpose(Vector (&block)[kLanes]) {
  Vector other[kLanes];
#pragma GCC unroll 4
  for (int step = 1; step < kLanes; step *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      interleave(block[i], block[i + kLanes / 2], other[2 * i], other[2 * i + 1]);
    }
    __builtin_memcpy(block, other, sizeof(block));
  }
}

// packed (width, count) = the transpose of all `rows`; vectors of columns are filled up with zeros.
template <typename E>
void pack_transposed(const SourceRows& rows, int64_t width, float* packed) {
  for (int64_t first = 0; first < rows.count; first += kLanes) {
    float* target = packed + first / kPanel * width * kPanel + first % kPanel;
    const int64_t count = smaller(kLanes, rows.count - first);
    for (int64_t column = 0; column < width; column += kLanes) {
      Vector block[kLanes] = {};
      for (int64_t i = 0; i < count; ++i) {
        block[i] = widen_columns<E>(row_of<E>(rows, first + i) + column, width - column);
      }
      transpose(block);
      const int64_t columns = smaller(kLanes, width - column);
      for (int64_t i = 0; i < columns; ++i) store(target + (column + i) * kPanel, block[i]);
    }
  }
}

// The rows first .. first + count of `rows` = factor * packed (count, width), a factor per row.
template <typename E>
void unpack(const float* packed, const float* factors, int64_t first, int64_t count, int64_t width,
            const TargetRows& rows) {
  for (int64_t i = 0; i < count; ++i) {
    typename E::Storage* target = row_of<E>(rows, first + i);
    const float* source = packed + i * kPanel;
    const Vector factor = broadcast(factors[i]);
    for (int64_t column = 0; column < width; column += kPanel, source += count * kPanel) {
      for (int64_t c = column; c < smaller(width, column + kPanel); c += kLanes) {
        narrow_columns<E>(target + c, width - c, load(source + c - column) * factor);
      }
    }
  }
}

// A matrix in panels, `panel` floats from one panel to the next.
struct Panels {
  const float* data;
  int64_t panel;
};

// Rows x (Vectors * kLanes) sums over k < depth of a(i, k) * b(k, j), in registers, with
// a(i, k) = a[i, k], or a[k, i] if transposed (then all of the rows lie in one panel of a).
template <int Rows, int Vectors, bool Transposed>
inline __attribute__((always_inline)) void register_tile(Panels a, const float* b, int64_t depth,
                                                         float* c, bool accumulate) {
  Vector sums[Rows][Vectors];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) sums[i][j] = Vector{};
  }
  const auto add_step = [&](const float* left, const float* right)
                            __attribute__((always_inline)) {
    Vector columns[Vectors];
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) columns[j] = load(right + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const Vector row = broadcast(left[Transposed ? i : i * kPanel]);
#pragma GCC unroll 2
      for (int j = 0; j < Vectors; ++j) sums[i][j] = fused(row, columns[j], sums[i][j]);
    }
  };
  if constexpr (Transposed) {
    for (int64_t k = 0; k < depth; ++k) add_step(a.data + k * kPanel, b + k * kPanel);
  } else {
    for (int64_t first = 0; first < depth; first += kPanel, a.data += a.panel) {
      const int64_t steps = smaller(kPanel, depth - first);
      for (int64_t k = 0; k < steps; ++k) add_step(a.data + k, b + (first + k) * kPanel);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) {
      float* target = c + i * kPanel + j * kLanes;
      store(target, accumulate ? load(target) + sums[i][j] : sums[i][j]);
    }
  }
}

struct Product {
  Panels a, b;
  int64_t columns, depth;
  float* c;
  int64_t c_panel;
  bool accumulate;  // add to c instead of writing it
};

template <int Rows, bool Transposed>
void multiply_rows(const Product& p) {
  // Long sums go in parts, which keeps their rounding small; whole panels of a.
  constexpr int64_t kPart = 256;
  for (int64_t column = 0; column < p.columns; column += kPanel) {
    const float* b = p.b.data + column / kPanel * p.b.panel;
    float* c = p.c + column / kPanel * p.c_panel;
    for (int64_t first = 0; first < p.depth; first += kPart) {
      const int64_t a_offset = Transposed ? first * kPanel : first / kPanel * p.a.panel;
      const Panels a{p.a.data + a_offset, p.a.panel};
      const int64_t depth = smaller(kPart, p.depth - first);
      const bool accumulate = p.accumulate || first > 0;
      if (p.columns - column > kLanes) {
        register_tile<Rows, 2, Transposed>(a, b + first * kPanel, depth, c, accumulate);
      } else {
        register_tile<Rows, 1, Transposed>(a, b + first * kPanel, depth, c, accumulate);
      }
    }
  }
}

// c (rows, columns) = a (rows, depth) b (depth, columns) for 1 <= rows <= kMaxRows; the columns of
// c are written in whole vectors.
template <bool Transposed, int Rows = kMaxRows>
inline void multiply(int64_t rows, const Product& product) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return multiply<Transposed, Rows - 1>(rows, product);
  }
  multiply_rows<Rows, Transposed>(product);
}

// Spans of [0, total) of nearly equal size, at most `most` each.
struct EvenSpans {
  int64_t total, most;

  int64_t count() const { return (total + most - 1) / most; }

  // Calls body(first, size) for span i.
  template <typename Body>
  void visit(int64_t i, const Body& body) const {
    const int64_t size = total / count();
    const int64_t longer = total % count();
    body(i * size + smaller(i, longer), size + (i < longer ? 1 : 0));
  }
};

template <typename Body>
inline void in_even_spans(int64_t total, int64_t most, const Body& body) {
  const EvenSpans spans{total, most};
  for (int64_t i = 0; i < spans.count(); ++i) spans.visit(i, body);
}

template <typename Body>
inline void run_all(RunAll run, int64_t count, const Body& body) {
  run(
      count, [](const void* context, int64_t i) { (*static_cast<const Body*>(context))(i); },
      &body);
}

}  // namespace
}  // namespace vireid_fast
