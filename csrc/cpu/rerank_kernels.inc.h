// The bodies of the table in rerank_kernels.h, included once by each rerank_<set>.cpp, which first
// defines VIREID_VECTOR_BYTES, includes rerank_registers.inc.h, and defines kTileRows (rows whose
// sums, two registers each, fit the register file), fused() on registers, and VIREID_TABLE (name of
// its table).
//
// Nothing here may call a function or template with external linkage (the standard library
// included): the linker keeps one copy of such a function, possibly the one compiled for a wider
// instruction set than the machine has.

namespace vireid_fast {
namespace {

constexpr int64_t kPiece = 128;  // dimensions of a sum that runs unbroken
constexpr int kTileVectors = 2;

template <typename V, typename T>
inline V load(const T* source) {
  V value;
  __builtin_memcpy(&value, source, sizeof(V));
  return value;
}

template <typename V, typename T>
inline void store(T* target, const V& value) {
  __builtin_memcpy(target, &value, sizeof(V));
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// R sums at a time: each is a chain of additions, and only several fill the time that one takes.
template <int R, typename T>
inline void norms_of(const T* rows, int64_t width, T* norms) {
  T totals[R] = {};
  for (int64_t first = 0; first < width; first += kPiece) {
    const int64_t end = smaller(first + kPiece, width);
    T sums[R] = {};
    for (int64_t d = first; d < end; ++d) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const T value = rows[r * width + d];
        sums[r] = fused(value, value, sums[r]);
      }
    }
    for (int r = 0; r < R; ++r) totals[r] += sums[r];
  }
  for (int r = 0; r < R; ++r) norms[r] = totals[r];
}

template <typename T>
void row_norms(const T* rows, int64_t num_rows, int64_t width, T* norms) {
  constexpr int kRows = 8;
  int64_t r = 0;
  for (; r + kRows <= num_rows; r += kRows) norms_of<kRows>(rows + r * width, width, norms + r);
  for (; r < num_rows; ++r) norms_of<1>(rows + r * width, width, norms + r);
}

// panel[d][c] of four columns and four dimensions.
template <typename T>
inline void pack_four(const T* columns, int64_t width, const T* centre, T* panel) {
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));
  const Four origin = load<Four>(centre);
  const Four a = load<Four>(columns) - origin;
  const Four b = load<Four>(columns + width) - origin;
  const Four c = load<Four>(columns + 2 * width) - origin;
  const Four d = load<Four>(columns + 3 * width) - origin;
  const Four low_ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Four high_ab = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Four low_cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Four high_cd = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  constexpr int64_t kColumns = kPanelColumns<T>;
  store(panel, __builtin_shufflevector(low_ab, low_cd, 0, 1, 4, 5));
  store(panel + kColumns, __builtin_shufflevector(low_ab, low_cd, 2, 3, 6, 7));
  store(panel + 2 * kColumns, __builtin_shufflevector(high_ab, high_cd, 0, 1, 4, 5));
  store(panel + 3 * kColumns, __builtin_shufflevector(high_ab, high_cd, 2, 3, 6, 7));
}

template <typename T>
void pack_panel(const T* columns, int64_t count, int64_t width, const T* centre, T* panel,
                T* norms) {
  using Vector = typename Registers<T>::Vector;
  constexpr int64_t kColumns = kPanelColumns<T>;
  constexpr int kLanes = Registers<T>::kLanes;
  const int64_t whole = count == kColumns ? width / 4 * 4 : 0;
  for (int64_t d = 0; d < whole; d += 4) {
    for (int64_t c = 0; c < kColumns; c += 4) {
      pack_four(columns + c * width + d, width, centre + d, panel + d * kColumns + c);
    }
  }
  for (int64_t d = whole; d < width; ++d) {
    // Columns that are not there are 0.
    for (int64_t c = 0; c < kColumns; ++c) {
      panel[d * kColumns + c] = c < count ? columns[c * width + d] - centre[d] : T(0);
    }
  }
  for (int64_t c = 0; c < kColumns; c += kLanes) {
    Vector norm = {};
    for (int64_t first = 0; first < width; first += kPiece) {
      const int64_t end = smaller(first + kPiece, width);
      Vector sum = {};
      for (int64_t d = first; d < end; ++d) {
        const Vector value = load<Vector>(panel + d * kColumns + c);
        sum = fused(value, value, sum);
      }
      norm += sum;
    }
    store(norms + c, norm);
  }
}

// R rows by kTileVectors registers of columns, `panel` and `norms` at the first of these.
template <int R, typename T>
inline void tile_rows(const T* rows, const T* row_norms, int64_t width, const T* panel,
                      const T* norms, int64_t count, T* out, int64_t stride) {
  using Vector = typename Registers<T>::Vector;
  constexpr int kLanes = Registers<T>::kLanes;
  Vector totals[R][kTileVectors] = {};
  for (int64_t first = 0; first < width; first += kPiece) {
    const int64_t end = smaller(first + kPiece, width);
    Vector sums[R][kTileVectors] = {};
    for (int64_t d = first; d < end; ++d) {
      Vector columns[kTileVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kTileVectors; ++v) {
        columns[v] = load<Vector>(panel + d * kPanelColumns<T> + v * kLanes);
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vector element = rows[r * width + d] - Vector{};
#pragma GCC unroll 2
        for (int v = 0; v < kTileVectors; ++v) {
          sums[r][v] = fused(element, columns[v], sums[r][v]);
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kTileVectors; ++v) totals[r][v] += sums[r][v];
    }
  }
  for (int r = 0; r < R; ++r) {
    T line[kTileVectors * kLanes];
    for (int v = 0; v < kTileVectors; ++v) {
      Vector distance = (row_norms[r] + load<Vector>(norms + v * kLanes)) - T(2) * totals[r][v];
      // Of nearly equal rows rounding may leave less than nothing; NaN stays.
      distance = distance < T(0) ? Vector{} : distance;
      store(line + v * kLanes, distance);
    }
    __builtin_memcpy(out + r * stride, line,
                     smaller(count, kTileVectors * kLanes) * static_cast<int64_t>(sizeof(T)));
  }
}

template <typename T>
void squared_tile(const T* rows, const T* row_norms, int64_t num_rows, int64_t width,
                  const T* panel, const T* norms, int64_t count, T* out, int64_t stride) {
  constexpr int64_t kStep = kTileVectors * Registers<T>::kLanes;
  int64_t r = 0;
  for (; r + kTileRows <= num_rows; r += kTileRows) {
    for (int64_t c = 0; c < count; c += kStep) {
      tile_rows<kTileRows>(rows + r * width, row_norms + r, width, panel + c, norms + c, count - c,
                           out + r * stride + c, stride);
    }
  }
  for (; r < num_rows; ++r) {
    for (int64_t c = 0; c < count; c += kStep) {
      tile_rows<1>(rows + r * width, row_norms + r, width, panel + c, norms + c, count - c,
                   out + r * stride + c, stride);
    }
  }
}

template <typename T>
void blend_row(T* overlap, int64_t count, T farthest, T lambda, T rest, T* distance) {
  for (int64_t g = 0; g < count; ++g) {
    // As in reciprocal_sets.h, which this file must not call.
    const T jaccard = T(1) - overlap[g] / (T(2) - overlap[g]);
    const T bounded = jaccard < T(0) ? T(0) : jaccard;
    distance[g] = bounded * rest + distance[g] / farthest * lambda;
    overlap[g] = T(0);
  }
}

}  // namespace

const RerankTable VIREID_TABLE = {
    {row_norms<float>, pack_panel<float>, squared_tile<float>, blend_row<float>},
    {row_norms<double>, pack_panel<double>, squared_tile<double>, blend_row<double>},
};

}  // namespace vireid_fast
