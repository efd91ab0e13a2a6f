// Squared distances from products of centred rows on the GPU, in the CPU kernels' order: fused
// multiply-adds along pieces of the width, whose sums are then added. One multiply-add per element
// and pair, where exact distances take three operations.
#pragma once

#include "device.cuh"

namespace vireid_fast {
namespace centred {

constexpr int kPiece = 128;  // dimensions of a sum that runs unbroken, as on the CPU
constexpr int kDepth = 16;   // of a slice in shared memory
constexpr int kThreadRows = 8;
constexpr int kThreadCols = 16;
constexpr int kBlockSize = kThreadRows * kThreadCols;
constexpr int kNormRows = 32;  // rows of a block that sums squares

// Elements of 16 bytes. A thread owns two such runs of rows and two of columns.
template <typename T>
constexpr int kRun = 16 / static_cast<int>(sizeof(T));
template <typename T>
constexpr int kOwned = 2 * kRun<T>;
template <typename T>
constexpr int kTileRows = kThreadRows * kOwned<T>;
template <typename T>
constexpr int kTileCols = kThreadCols * kOwned<T>;

__device__ inline float multiply_add(float a, float b, float sum) { return fmaf(a, b, sum); }
__device__ inline double multiply_add(double a, double b, double sum) { return fma(a, b, sum); }

template <typename T>
struct alignas(16) Run {
  T values[kRun<T>];
};

// Rows of x and y, from which a centre is subtracted; zeros outside. Without centre they are
// centred already.
template <typename T>
struct Rows {
  __device__ Run<T> run(int64_t row, int64_t column) const {
    Run<T> found = {};
    if (row >= count) return found;
    const T* source = rows + row * width + column;
    if (aligned && column + kRun<T> <= width) {
      found = *reinterpret_cast<const Run<T>*>(source);
    } else {
#pragma unroll
      for (int i = 0; i < kRun<T>; ++i) {
        if (column + i < width) found.values[i] = source[i];
      }
    }
    if (centre == nullptr) return found;
#pragma unroll
    for (int i = 0; i < kRun<T>; ++i) {
      if (column + i < width) found.values[i] -= centre[column + i];
    }
    return found;
  }

  const T* rows;
  const T* centre;
  int64_t count;
  int64_t width;
  bool aligned;  // runs of rows begin at multiples of 16 bytes
};

// norms[r] = |rows[r] - centre|^2. One warp per kNormRows rows, one thread per row.
template <typename T>
__global__ void __launch_bounds__(kWarp) centred_norms_kernel(Rows<T> rows, T* norms) {
  __shared__ T slice[kNormRows][kPiece + 1];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kNormRows;
  T total = 0;
  for (int64_t column = 0; column < rows.width; column += kPiece) {
    for (int i = threadIdx.x; i < kNormRows * kPiece / kRun<T>; i += kWarp) {
      const int r = i / (kPiece / kRun<T>);
      const int run = i % (kPiece / kRun<T>) * kRun<T>;
      const Run<T> found = rows.run(first + r, column + run);
#pragma unroll
      for (int k = 0; k < kRun<T>; ++k) slice[r][run + k] = found.values[k];
    }
    __syncwarp();
    T sum = 0;
#pragma unroll 8
    for (int d = 0; d < kPiece; ++d) {
      const T value = slice[threadIdx.x][d];
      sum = multiply_add(value, value, sum);
    }
    total = Rounded<T>::add(total, sum);
    __syncwarp();
  }
  if (first + threadIdx.x < rows.count) norms[first + threadIdx.x] = total;
}

// A slice of kDepth columns of `kRows` rows on its way from global to shared memory.
template <typename T, int kRows>
struct Slice {
  static constexpr int kRuns = kRows * kDepth / kRun<T> / kBlockSize;
  using Shared = T[kDepth][kRows + kRun<T>];

  __device__ void load(const Rows<T>& rows, int64_t first, int64_t column) {
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      const int at = threadIdx.x + i * kBlockSize;
      runs[i] = rows.run(first + at % kRows, column + at / kRows * kRun<T>);
    }
  }

  // Transposed: neighbouring threads write to neighbouring rows.
  __device__ void store(Shared& shared) const {
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      const int at = threadIdx.x + i * kBlockSize;
#pragma unroll
      for (int k = 0; k < kRun<T>; ++k) {
        shared[at / kRows * kRun<T> + k][at % kRows] = runs[i].values[k];
      }
    }
  }

  Run<T> runs[kRuns];
};

// Products of the owned rows and columns over one slice, added to `sums`.
template <typename T, typename XSlice, typename YSlice>
__device__ void add_products(const XSlice& x, const YSlice& y, int thread_row, int thread_col,
                             T (&sums)[kOwned<T>][kOwned<T>]) {
  constexpr int kLength = kRun<T>;
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    Run<T> rows[2];
    Run<T> columns[2];
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      rows[part] = *reinterpret_cast<const Run<T>*>(
          &x[k][(part * kThreadRows + thread_row) * kLength]);
      columns[part] = *reinterpret_cast<const Run<T>*>(
          &y[k][(part * kThreadCols + thread_col) * kLength]);
    }
#pragma unroll
    for (int r = 0; r < kOwned<T>; ++r) {
#pragma unroll
      for (int c = 0; c < kOwned<T>; ++c) {
        sums[r][c] = multiply_add(rows[r / kLength].values[r % kLength],
                                  columns[c / kLength].values[c % kLength], sums[r][c]);
      }
    }
  }
}

// One block makes a kTileRows x kTileCols tile of out (x.count, y.count).
template <typename T>
__global__ void __launch_bounds__(kBlockSize, 2)
    centred_tile_kernel(Rows<T> x, Rows<T> y, const T* __restrict__ x_norms,
                        const T* __restrict__ y_norms, int64_t tiles_across,
                        T* __restrict__ out) {
  using XSlice = Slice<T, kTileRows<T>>;
  using YSlice = Slice<T, kTileCols<T>>;
  constexpr int kLength = kRun<T>;
  __shared__ typename XSlice::Shared x_shared;
  __shared__ typename YSlice::Shared y_shared;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) / tiles_across * kTileRows<T>;
  const int64_t first_col = static_cast<int64_t>(blockIdx.x) % tiles_across * kTileCols<T>;
  const int thread_row = threadIdx.x / kThreadCols;
  const int thread_col = threadIdx.x % kThreadCols;
  T totals[kOwned<T>][kOwned<T>] = {};
  T sums[kOwned<T>][kOwned<T>] = {};
  XSlice x_slice;
  YSlice y_slice;
  x_slice.load(x, first_row, 0);
  y_slice.load(y, first_col, 0);
  for (int64_t column = 0; column < x.width; column += kDepth) {
    x_slice.store(x_shared);
    y_slice.store(y_shared);
    __syncthreads();
    // The next slice is on its way while this one is used; past the width it is zeros.
    x_slice.load(x, first_row, column + kDepth);
    y_slice.load(y, first_col, column + kDepth);
    add_products(x_shared, y_shared, thread_row, thread_col, sums);
    const bool piece_ends = (column + kDepth) % kPiece == 0 || column + kDepth >= x.width;
    if (piece_ends) {
#pragma unroll
      for (int r = 0; r < kOwned<T>; ++r) {
#pragma unroll
        for (int c = 0; c < kOwned<T>; ++c) {
          totals[r][c] = Rounded<T>::add(totals[r][c], sums[r][c]);
          sums[r][c] = T(0);
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < kOwned<T>; ++r) {
    const int64_t row =
        first_row + (r / kLength * kThreadRows + thread_row) * kLength + r % kLength;
    if (row >= x.count) continue;
#pragma unroll
    for (int c = 0; c < kOwned<T>; ++c) {
      const int64_t col =
          first_col + (c / kLength * kThreadCols + thread_col) * kLength + c % kLength;
      if (col >= y.count) continue;
      const T distance =
          Rounded<T>::add(Rounded<T>::add(x_norms[row], y_norms[col]), T(-2) * totals[r][c]);
      // Of nearly equal rows rounding may leave less than nothing; NaN stays.
      out[row * y.count + col] = distance < T(0) ? T(0) : distance;
    }
  }
}

}  // namespace centred

// x (n, width), y (m, width), centre (width) or absent, out (n, m); norms has room for n + m.
template <typename T>
cudaError_t launch_centred_distance(const T* x, int64_t n, const T* y, int64_t m, int64_t width,
                                    const T* centre, T* norms, T* out, cudaStream_t stream) {
  const auto aligned = [width](const T* rows) {
    return reinterpret_cast<uintptr_t>(rows) % 16 == 0 && width % centred::kRun<T> == 0;
  };
  const centred::Rows<T> left = {x, centre, n, width, aligned(x)};
  const centred::Rows<T> right = {y, centre, m, width, aligned(y)};
  cudaError_t status = launch(centred::centred_norms_kernel<T>, ceil_div(n, centred::kNormRows),
                              kWarp, 0, stream, left, norms);
  if (status != cudaSuccess) return status;
  status = launch(centred::centred_norms_kernel<T>, ceil_div(m, centred::kNormRows), kWarp, 0,
                  stream, right, norms + n);
  if (status != cudaSuccess) return status;
  const int64_t tiles_across = ceil_div(m, centred::kTileCols<T>);
  const int64_t tiles = ceil_div(n, centred::kTileRows<T>) * tiles_across;
  return launch(centred::centred_tile_kernel<T>, tiles, centred::kBlockSize, 0, stream, left,
                right, norms, norms + n, tiles_across, out);
}

}  // namespace vireid_fast
