// Sums and layer normalisation of rows, part of the table in kernels.h. Included by kernels.inc.h
// inside its namespace and under its rule: no function with external linkage.
#include "half.inc.h"

namespace {

inline int64_t size_of(Storage storage) {
  if (storage == Storage::kFloat) return sizeof(float);
  return storage == Storage::kDouble ? sizeof(double) : sizeof(uint16_t);
}

constexpr int kStripVectors = 4;  // sums that stay in registers while the rows pass

template <typename V, typename T>
inline void store(T* target, const V& value) {
  __builtin_memcpy(target, &value, sizeof(V));
}

// Consecutive lanes of a row, in the type of the sums.
template <typename S>
struct Strip {
  static constexpr int kLanes = kStripVectors * Lanes<S>::kVector;
  typename Lanes<S>::Vector part[kStripVectors];
};

template <typename S>
inline __attribute__((always_inline)) Strip<S> load_strip(const char* source, Storage storage) {
  Strip<S> strip;
  if constexpr (sizeof(S) == sizeof(double)) {
#pragma GCC unroll 4
    for (int i = 0; i < kStripVectors; ++i) {
      strip.part[i] = load<typename Lanes<S>::Vector>(source + i * VIREID_VECTOR_BYTES);
    }
  } else if (storage == Storage::kFloat) {
#pragma GCC unroll 4
    for (int i = 0; i < kStripVectors; ++i) {
      strip.part[i] = load<Floats>(source + i * VIREID_VECTOR_BYTES);
    }
  } else if (storage == Storage::kHalf) {
#pragma GCC unroll 4
    for (int i = 0; i < kStripVectors; ++i) {
      strip.part[i] = widen_float16(load<HalfBits>(source + i * sizeof(HalfBits)));
    }
  } else {
#pragma GCC unroll 4
    for (int i = 0; i < kStripVectors; ++i) {
      strip.part[i] = widen_bfloat16(load<HalfBits>(source + i * sizeof(HalfBits)));
    }
  }
  return strip;
}

template <typename S>
inline __attribute__((always_inline)) void store_strip(const Strip<S>& strip, char* target,
                                                       Storage storage) {
  if constexpr (sizeof(S) == sizeof(double)) {
#pragma GCC unroll 4
    for (int i = 0; i < kStripVectors; ++i) store(target + i * VIREID_VECTOR_BYTES, strip.part[i]);
  } else if (storage == Storage::kFloat) {
#pragma GCC unroll 4
    for (int i = 0; i < kStripVectors; ++i) store(target + i * VIREID_VECTOR_BYTES, strip.part[i]);
  } else if (storage == Storage::kHalf) {
#pragma GCC unroll 4
    for (int i = 0; i < kStripVectors; ++i) {
      store(target + i * sizeof(HalfBits), narrow_to_float16(strip.part[i]));
    }
  } else {
#pragma GCC unroll 4
    for (int i = 0; i < kStripVectors; ++i) {
      store(target + i * sizeof(HalfBits), narrow_to_bfloat16(strip.part[i]));
    }
  }
}

// The sum of one strip of the rows, in the order of the rows.
template <typename S>
inline __attribute__((always_inline)) Strip<S> sum_strip(const Row* rows, int64_t count,
                                                         int64_t offset) {
  Strip<S> sums = {};
  for (int64_t r = 0; r < count; ++r) {
    const char* source = static_cast<const char*>(rows[r].data);
    const Storage storage = rows[r].storage;
    const Strip<S> values = load_strip<S>(source + offset * size_of(storage), storage);
#pragma GCC unroll 4
    for (int i = 0; i < kStripVectors; ++i) {
      sums.part[i] = r == 0 ? values.part[i] : sums.part[i] + values.part[i];
    }
  }
  return sums;
}

template <typename S>
inline void sum_rows_of(const Row* rows, int64_t count, int64_t width, OutRow out) {
  constexpr int kLanes = Strip<S>::kLanes;
  char* target = static_cast<char*>(out.data);
  const int64_t size = size_of(out.storage);
  int64_t w = 0;
  for (; w + kLanes <= width; w += kLanes) {
    store_strip(sum_strip<S>(rows, count, w), target + w * size, out.storage);
  }
  if (w == width) return;
  // The rest of the width, through zero-padded copies.
  Strip<S> sums = {};
  char padded[kLanes * sizeof(S)] = {};
  for (int64_t r = 0; r < count; ++r) {
    const Storage storage = rows[r].storage;
    const char* source = static_cast<const char*>(rows[r].data) + w * size_of(storage);
    __builtin_memcpy(padded, source, (width - w) * size_of(storage));
    const Strip<S> values = load_strip<S>(padded, storage);
    for (int i = 0; i < kStripVectors; ++i) {
      sums.part[i] = r == 0 ? values.part[i] : sums.part[i] + values.part[i];
    }
  }
  store_strip(sums, padded, out.storage);
  __builtin_memcpy(target + w * size, padded, (width - w) * size);
}

// The common case, a token and its position in float32, without a look at the types per strip.
inline void add_two_rows(const float* a, const float* b, int64_t width, float* out) {
  constexpr int kLanes = Lanes<float>::kVector;
  int64_t w = 0;
#pragma GCC unroll 8
  for (; w + kLanes <= width; w += kLanes) {
    store(out + w, load<Floats>(a + w) + load<Floats>(b + w));
  }
  for (; w < width; ++w) out[w] = a[w] + b[w];
}

void sum_rows(const Row* rows, int64_t count, int64_t width, OutRow out) {
  // Rows without elements have null pointers, which nothing may be copied to, not even no bytes.
  if (width == 0) return;
  if (count == 1 && rows[0].storage == out.storage) {
    __builtin_memcpy(out.data, rows[0].data, width * size_of(out.storage));
  } else if (count == 2 && out.storage == Storage::kFloat && rows[0].storage == Storage::kFloat &&
             rows[1].storage == Storage::kFloat) {
    add_two_rows(static_cast<const float*>(rows[0].data), static_cast<const float*>(rows[1].data),
                 width, static_cast<float*>(out.data));
  } else if (out.storage == Storage::kDouble) {
    sum_rows_of<double>(rows, count, width, out);
  } else {
    sum_rows_of<float>(rows, count, width, out);
  }
}

template <typename S>
struct Group {
  typename Lanes<S>::Vector part[kParts];
};

template <typename S>
inline Group<S> load_group(const S* source) {
  Group<S> group;
  __builtin_memcpy(&group, source, kGroupBytes);
  return group;
}

constexpr int kChains = 4;  // independent sums, so that additions need not wait for each other

// Sum over `padded` lanes of what `group_at` gives for each 64-byte group, in one fixed order.
template <typename S, typename GroupAt>
inline __attribute__((always_inline)) S sum_groups(int64_t padded, GroupAt group_at) {
  constexpr int kGroup = Lanes<S>::kGroup;
  Group<S> chains[kChains] = {};
  int64_t w = 0;
  for (; w + kChains * kGroup <= padded; w += kChains * kGroup) {
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) {
      const Group<S> group = group_at(w + c * kGroup);
      for (int i = 0; i < kParts; ++i) chains[c].part[i] += group.part[i];
    }
  }
  for (; w < padded; w += kGroup) {
    const Group<S> group = group_at(w);
    for (int i = 0; i < kParts; ++i) chains[0].part[i] += group.part[i];
  }
  for (int i = 0; i < kParts; ++i) {
    chains[0].part[i] = (chains[0].part[i] + chains[1].part[i]) +
                        (chains[2].part[i] + chains[3].part[i]);
  }
  return reduce<S>(chains[0].part);
}

template <typename S>
void normalize_row(const NormRow<S>& norm, S* row, S* out, S* mean, S* rstd) {
  constexpr int kGroup = Lanes<S>::kGroup;
  const int64_t padded = (norm.width + kGroup - 1) / kGroup * kGroup;
  for (int64_t w = norm.width; w < padded; ++w) row[w] = 0;
  const S sum = sum_groups<S>(padded, [row](int64_t w) __attribute__((always_inline)) {
    return load_group(row + w);
  });
  const S centre = sum / static_cast<S>(norm.width);
  // Padding of this value adds nothing to the variance.
  for (int64_t w = norm.width; w < padded; ++w) row[w] = centre;
  const S squares = sum_groups<S>(padded, [row, centre](int64_t w) __attribute__((always_inline)) {
    Group<S> x = load_group(row + w);
    for (int i = 0; i < kParts; ++i) {
      const auto difference = x.part[i] - centre;
      x.part[i] = difference * difference;
    }
    return x;
  });
  const S variance = squares / static_cast<S>(norm.width);
  const S scale = S(1) / static_cast<S>(__builtin_sqrt(variance + norm.eps));
  for (int64_t w = 0; w < padded; w += kGroup) {
    const Group<S> x = load_group(row + w);
    const Group<S> weight = load_group(norm.weight + w);
    const Group<S> bias = load_group(norm.bias + w);
    Group<S> result;
    for (int i = 0; i < kParts; ++i) {
      result.part[i] = (x.part[i] - centre) * scale * weight.part[i] + bias.part[i];
    }
    __builtin_memcpy(out + w, &result, kGroupBytes);
  }
  *mean = centre;
  *rstd = scale;
}

template <typename S>
void normalize_row_bwd(const NormRow<S>& norm, const S* row, const S* grad, S mean, S rstd,
                       S* grad_row, S* grad_weight, S* grad_bias) {
  constexpr int kGroup = Lanes<S>::kGroup;
  Group<S> plain = {};
  Group<S> projected = {};
  for (int64_t w = 0; w < norm.width; w += kGroup) {
    const Group<S> x = load_group(row + w);
    const Group<S> g = load_group(grad + w);
    const Group<S> weight = load_group(norm.weight + w);
    Group<S> weight_sum = load_group(grad_weight + w);
    Group<S> bias_sum = load_group(grad_bias + w);
    for (int i = 0; i < kParts; ++i) {
      const auto unit = (x.part[i] - mean) * rstd;
      const auto weighted = g.part[i] * weight.part[i];
      plain.part[i] += weighted;
      projected.part[i] += weighted * unit;
      weight_sum.part[i] += g.part[i] * unit;
      bias_sum.part[i] += g.part[i];
    }
    __builtin_memcpy(grad_weight + w, &weight_sum, kGroupBytes);
    __builtin_memcpy(grad_bias + w, &bias_sum, kGroupBytes);
  }
  const S mean_grad = reduce<S>(plain.part) / static_cast<S>(norm.width);
  const S mean_projection = reduce<S>(projected.part) / static_cast<S>(norm.width);
  for (int64_t w = 0; w < norm.width; w += kGroup) {
    const Group<S> x = load_group(row + w);
    const Group<S> g = load_group(grad + w);
    const Group<S> weight = load_group(norm.weight + w);
    Group<S> total = load_group(grad_row + w);
    for (int i = 0; i < kParts; ++i) {
      const auto unit = (x.part[i] - mean) * rstd;
      total.part[i] += (g.part[i] * weight.part[i] - mean_grad - unit * mean_projection) * rstd;
    }
    __builtin_memcpy(grad_row + w, &total, kGroupBytes);
  }
}

}  // namespace
