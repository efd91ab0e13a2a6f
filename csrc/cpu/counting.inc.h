// Counting by comparison, part of the table in kernels.h. Included by kernels.inc.h inside its
// namespace and under its rule: no function with external linkage.
namespace {

template <typename T>
struct Comparison;
template <>
struct Comparison<float> {
  typedef int32_t Lane;
};
template <>
struct Comparison<double> {
  typedef int64_t Lane;
};

// counts[b] += #{i : values[i] < bounds[b]}, or <= with kOrEqual, for kBounds bounds.
template <bool kOrEqual, int kBounds, typename T>
inline __attribute__((always_inline)) void count_few(const T* values, int64_t count,
                                                     const T* bounds, int64_t* counts) {
  using Vector = typename Lanes<T>::Vector;
  typedef typename Comparison<T>::Lane Counts __attribute__((vector_size(VIREID_VECTOR_BYTES)));
  constexpr int kLanes = Lanes<T>::kVector;
  Vector bound[kBounds];
  Counts found[kBounds] = {};
  for (int b = 0; b < kBounds; ++b) bound[b] = Vector{} + bounds[b];
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vector value = load<Vector>(values + i);
#pragma GCC unroll 8
    for (int b = 0; b < kBounds; ++b) {
      const Counts hit = kOrEqual ? value <= bound[b] : value < bound[b];
      // A hit is -1. With mask registers the first form is one masked addition.
      if constexpr (VIREID_VECTOR_BYTES == 64) {
        found[b] = hit ? found[b] + 1 : found[b];
      } else {
        found[b] -= hit;
      }
    }
  }
  for (int b = 0; b < kBounds; ++b) {
    int64_t total = 0;
    for (int lane = 0; lane < kLanes; ++lane) total += found[b][lane];
    for (int64_t rest = i; rest < count; ++rest) {
      total += kOrEqual ? values[rest] <= bounds[b] : values[rest] < bounds[b];
    }
    counts[b] += total;
  }
}

template <bool kOrEqual, typename T>
inline void count_many(const T* values, int64_t count, const T* bounds, int64_t num_bounds,
                       int64_t* counts) {
  int64_t b = 0;
  for (; b + 4 <= num_bounds; b += 4) {
    count_few<kOrEqual, 4>(values, count, bounds + b, counts + b);
  }
  for (; b < num_bounds; ++b) count_few<kOrEqual, 1>(values, count, bounds + b, counts + b);
}

template <typename T>
void count_below(const T* values, int64_t count, const T* bounds, int64_t num_bounds,
                 bool or_equal, int64_t* counts) {
  if (or_equal) {
    count_many<true>(values, count, bounds, num_bounds, counts);
  } else {
    count_many<false>(values, count, bounds, num_bounds, counts);
  }
}

// Bit i tells whether lane i of `value` is at most that of `bound`.
template <typename T>
inline uint32_t bits_at_most(const typename Lanes<T>::Vector& value,
                             const typename Lanes<T>::Vector& bound) {
#if VIREID_X86_DISPATCH && VIREID_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == sizeof(float)) {
    return _mm512_cmp_ps_mask((__m512)value, (__m512)bound, _CMP_LE_OQ);
  } else {
    return _mm512_cmp_pd_mask((__m512d)value, (__m512d)bound, _CMP_LE_OQ);
  }
#elif VIREID_X86_DISPATCH && VIREID_VECTOR_BYTES == 32
  if constexpr (sizeof(T) == sizeof(float)) {
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)value, (__m256)bound, _CMP_LE_OQ));
  } else {
    return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)value, (__m256d)bound, _CMP_LE_OQ));
  }
#else
  uint32_t bits = 0;
  for (int lane = 0; lane < Lanes<T>::kVector; ++lane) {
    bits |= static_cast<uint32_t>(value[lane] <= bound[lane]) << lane;
  }
  return bits;
#endif
}

// The places where bits_of, which looks at one register, or alone, which looks at one value, say so.
template <typename T, typename BitsOf, typename Alone>
inline __attribute__((always_inline)) int64_t find_places(const T* values, int64_t count,
                                                          BitsOf bits_of, Alone alone,
                                                          int32_t* places) {
  constexpr int kLanes = Lanes<T>::kVector;
  int64_t found = 0;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    uint32_t bits = bits_of(load<typename Lanes<T>::Vector>(values + i));
    for (; bits; bits &= bits - 1) {
      places[found++] = static_cast<int32_t>(i + __builtin_ctz(bits));
    }
  }
  for (; i < count; ++i) {
    if (alone(values[i])) places[found++] = static_cast<int32_t>(i);
  }
  return found;
}

template <typename T>
int64_t find_at_most(const T* values, int64_t count, T bound, int32_t* places) {
  using Vector = typename Lanes<T>::Vector;
  const Vector bounds = Vector{} + bound;
  return find_places<T>(
      values, count,
      [&](const Vector& value)
          __attribute__((always_inline)) { return bits_at_most<T>(value, bounds); },
      [bound](T value) { return value <= bound; }, places);
}

template <typename T>
int64_t find_between(const T* values, int64_t count, T lowest, T highest, int32_t* places) {
  using Vector = typename Lanes<T>::Vector;
  const Vector low = Vector{} + lowest;
  const Vector high = Vector{} + highest;
  return find_places<T>(
      values, count,
      [&](const Vector& value) __attribute__((always_inline)) {
        return bits_at_most<T>(value, high) & bits_at_most<T>(low, value);
      },
      [=](T value) { return lowest <= value && value <= highest; }, places);
}

template <typename T>
bool has_nan(const T* values, int64_t count) {
  typename Comparison<T>::Lane found = 0;
  for (int64_t i = 0; i < count; ++i) found |= values[i] != values[i];
  return found != 0;
}

}  // namespace
