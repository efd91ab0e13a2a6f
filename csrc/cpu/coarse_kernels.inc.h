// The bodies of the table in coarse_kernels.h, included once by each coarse_<set>.cpp, which first
// defines kLanes, kTileRows, kTileVectors (registers of sums of a float tile: kTileRows rows of
// kTileVectors registers), Vector, Integers, fused(), square_root(), lanes_of() and VIREID_TABLE, and,
// where the set has dot products of integers, VIREID_HAS_INTEGERS, dot_int8() and dot_int16().
//
// Nothing here may call a function or template with external linkage (the standard library
// included): the linker keeps one copy of such a function, possibly the one compiled for a wider
// instruction set than the machine has.

namespace vireid_fast {
namespace {

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

inline Vector broadcast(float value) { return value - Vector{}; }

template <int R>
inline void float_rows(const float* rows, int64_t width, const float* panel, float* products,
                       int64_t stride) {
  Vector sums[R][kTileVectors] = {};
  for (int64_t d = 0; d < width; ++d) {
    Vector columns[kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) {
      columns[v] = load<Vector>(panel + d * kCoarsePanel + v * kLanes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vector element = broadcast(rows[r * width + d]);
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) sums[r][v] = fused(element, columns[v], sums[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kTileVectors; ++v) store(products + r * stride + v * kLanes, sums[r][v]);
  }
}

void float_tile(const float* rows, int64_t count, int64_t width, const float* panels,
                int64_t num_panels, float* products, int64_t stride) {
  constexpr int64_t kStep = kTileVectors * kLanes;
  for (int64_t column = 0; column < num_panels * kCoarsePanel; column += kStep) {
    const float* panel =
        panels + column / kCoarsePanel * kCoarsePanel * width + column % kCoarsePanel;
    int64_t r = 0;
    for (; r + kTileRows <= count; r += kTileRows) {
      float_rows<kTileRows>(rows + r * width, width, panel, products + r * stride + column, stride);
    }
    for (; r < count; ++r) {
      float_rows<1>(rows + r * width, width, panel, products + r * stride + column, stride);
    }
  }
}

#ifdef VIREID_HAS_INTEGERS
inline Integers dot(Integers sums, Integers columns, Integers row, int8_t) {
  return dot_int8(sums, columns, row);
}
inline Integers dot(Integers sums, Integers columns, Integers row, int16_t) {
  return dot_int16(sums, columns, row);
}

// `corrections` may be null. Panels and rows are read in groups of kCoarseBytes.
template <int R, typename Code>
inline void integer_rows(const Code* rows, const int32_t* corrections, int64_t width,
                         const char* panel, int32_t* products, int64_t stride) {
  constexpr int kVectors = kCoarsePanel / kLanes;
  constexpr int64_t kGroup = kCoarseBytes / sizeof(Code);
  Integers sums[R][kVectors];
  for (int r = 0; r < R; ++r) {
    const int32_t first = corrections == nullptr ? 0 : -corrections[r];
    for (int v = 0; v < kVectors; ++v) sums[r][v] = first - Integers{};
  }
  for (int64_t d = 0; d < width; d += kGroup, panel += kCoarsePanel * kCoarseBytes) {
    Integers columns[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      columns[v] = load<Integers>(panel + v * kLanes * kCoarseBytes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      int32_t group;
      __builtin_memcpy(&group, rows + r * width + d, sizeof(group));
      const Integers element = group - Integers{};
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] = dot(sums[r][v], columns[v], element, Code{});
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) store(products + r * stride + v * kLanes, sums[r][v]);
  }
}

template <typename Code, typename Panel>
inline void integer_tile(const Code* rows, const int32_t* corrections, int64_t count,
                         int64_t width, const Panel* panels, int64_t num_panels,
                         int32_t* products, int64_t stride) {
  for (int64_t p = 0; p < num_panels; ++p) {
    const char* panel = reinterpret_cast<const char*>(panels + p * kCoarsePanel * width);
    int32_t* column = products + p * kCoarsePanel;
    const auto offset = [&](int64_t r) {
      return corrections == nullptr ? nullptr : corrections + r;
    };
    int64_t r = 0;
    for (; r + kTileRows <= count; r += kTileRows) {
      integer_rows<kTileRows>(rows + r * width, offset(r), width, panel, column + r * stride,
                              stride);
    }
    for (; r < count; ++r) {
      integer_rows<1>(rows + r * width, offset(r), width, panel, column + r * stride, stride);
    }
  }
}

void int8_tile(const int8_t* rows, const int32_t* corrections, int64_t count, int64_t width,
               const uint8_t* panels, int64_t num_panels, int32_t* products, int64_t stride) {
  integer_tile(rows, corrections, count, width, panels, num_panels, products, stride);
}

void int16_tile(const int16_t* rows, int64_t count, int64_t width, const int16_t* panels,
                int64_t num_panels, int32_t* products, int64_t stride) {
  integer_tile(rows, nullptr, count, width, panels, num_panels, products, stride);
}
#endif

inline Vector as_floats(const float* source) { return load<Vector>(source); }
inline Vector as_floats(const int32_t* source) {
  return __builtin_convertvector(load<Integers>(source), Vector);
}

// A pair is near for a list of reach t if the true distance may be t or less, that is if the
// coarse one is at most t + both radii; it is far if the coarse one is at least t - both radii.
template <bool kMutual, typename T>
inline int64_t scan_row(const T* products, int64_t count, const CoarseRow& row,
                        const CoarseColumns& columns, CoarseHit* hits) {
  int64_t found = 0;
  for (int64_t c = 0; c < count; c += kLanes) {
    const Vector product =
        row.scale * (load<Vector>(columns.scale + c) * as_floats(products + c));
    const Vector low = (row.low + load<Vector>(columns.low + c)) - product;
    const Vector high = (row.high + load<Vector>(columns.high + c)) - product;
    const Vector radius = row.radius + load<Vector>(columns.radius + c);
    const Vector near = row.near + radius;
    Vector far = row.far - radius;
    far = far > 0.0f ? far : Vector{};
    const Integers row_near = low <= near * near;
    const Integers row_far = high >= far * far;
    Integers lists = (row_near & int32_t{kRowNear}) | (row_far & int32_t{kRowFar});
    if constexpr (kMutual) {
      const Vector reach = load<Vector>(columns.near + c) + radius;
      Vector edge = load<Vector>(columns.far + c) - radius;
      edge = edge > 0.0f ? edge : Vector{};
      lists |= ((low <= reach * reach) & int32_t{kColumnNear}) |
               ((high >= edge * edge) & int32_t{kColumnFar});
    }
    uint32_t lanes = lanes_of(lists != 0);
    if (__builtin_expect(lanes == 0, 1)) continue;
    Vector least = square_root(low > 0.0f ? low : Vector{}) * kCoarseDown - radius * kCoarseUp;
    least = least > 0.0f ? least : Vector{};
    least = least * least * row.measured_down - kCoarseTiny;
    least = least > 0.0f ? least : Vector{};
    const Vector most = square_root(high > 0.0f ? high : Vector{}) * kCoarseUp + radius * kCoarseUp;
    const Vector farthest = most * most * row.measured_up + kCoarseTiny;
    for (; lanes != 0; lanes &= lanes - 1) {
      const int lane = __builtin_ctz(lanes);
      hits[found++] = {static_cast<int32_t>(c) + lane, lists[lane], least[lane], farthest[lane]};
    }
  }
  return found;
}

template <typename T>
int64_t scan(const T* products, int64_t count, const CoarseRow& row, const CoarseColumns& columns,
             bool mutual, CoarseHit* hits) {
  return mutual ? scan_row<true>(products, count, row, columns, hits)
                : scan_row<false>(products, count, row, columns, hits);
}

}  // namespace

const CoarseKernels VIREID_TABLE = {
    float_tile,
#ifdef VIREID_HAS_INTEGERS
    int8_tile,
    int16_tile,
#else
    nullptr,
    nullptr,
#endif
    scan<float>,
    scan<int32_t>,
};

}  // namespace vireid_fast
