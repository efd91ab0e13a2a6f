// k nearest neighbours on the GPU. A coarse product in bfloat16 (coarse_tiles.cuh) passes over the
// database in pieces that grow fourfold; between them each row's tests are tightened by the proven
// bound of coarse_bound.h; what is left gets exact distances. Rows with too many candidates,
// float64 and small searches take the plain way: blocks of exact distances, and the k smallest of
// each row.
#pragma once

#include "coarse_rows.cuh"

namespace vireid_fast {
namespace neighbours {

constexpr int64_t kGrowth = 4;
constexpr int64_t kMostRoundRows = 32768;
// Below this many multiplications, launching the passes takes longer than exact distances.
constexpr double kCoarsePays = 5e8;

// Places in one piece of memory, 256 bytes aligned.
class Layout {
 public:
  template <typename T>
  size_t add(int64_t count) {
    const size_t place = bytes_;
    bytes_ += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
    return place;
  }

  // What is added from now on shares its place with what was added since `bytes`.
  void rewind(size_t bytes) {
    most_ = most_ > bytes_ ? most_ : bytes_;
    bytes_ = bytes;
  }

  size_t bytes() const { return bytes_; }
  size_t most() const { return most_ > bytes_ ? most_ : bytes_; }

 private:
  size_t bytes_ = 0;
  size_t most_ = 0;
};

struct Shape {
  int64_t num_query;
  int64_t num_items;
  int64_t width;
  int64_t k;
  bool same;  // query and database are one matrix
};

// What a search needs in memory, and where it lies.
struct Plan {
  int64_t plain_rows;  // rows of a block of exact distances
  int64_t round_rows;  // rows of a coarse round; 0 without the coarse pass
  int64_t stride;      // elements of a bfloat16 row
  size_t matrix, scratch_keys, scratch_indices;
  size_t centre, copies[2], norms[2], columns[2];
  size_t near_dots, near_columns, near_counts, far_dots, far_columns, far_counts, tests, farthest,
      lost, lost_rows, lost_count;
  size_t bytes;
};

inline bool coarse_allowed(const Shape& shape, size_t element_size) {
  return element_size == sizeof(float) && shape.width > 0 && shape.num_query > 0 &&
         shape.k <= coarse::kMostNeighbours && shape.num_items < INT32_MAX;
}

inline bool coarse_pays(const Shape& shape, size_t element_size) {
  return coarse_allowed(shape, element_size) && shape.num_items >= 4 * coarse::kFirstColumns &&
         static_cast<double>(shape.num_query) * static_cast<double>(shape.num_items) *
                 static_cast<double>(shape.width) >=
             kCoarsePays;
}

inline int64_t at_least_one(int64_t value) { return value > 1 ? value : 1; }

// Blocks of distances and of candidates are each kept below `most_bytes`, but for a row at least.
template <typename T>
Plan plan_of(const Shape& shape, bool use_coarse, int64_t most_bytes) {
  Plan plan = {};
  Layout layout;
  size_t kept = 0;
  if (use_coarse) {
    constexpr int64_t kRowBytes = (coarse::kNearCapacity + coarse::kFarCapacity) * 8 + 64;
    int64_t rows = most_bytes / kRowBytes / coarse::kTile * coarse::kTile;
    rows = rows < kMostRoundRows ? rows : kMostRoundRows;
    rows = rows < coarse::kTile ? coarse::kTile : rows;
    plan.round_rows = rows < shape.num_query ? rows : shape.num_query;
    plan.stride = ceil_div(shape.width, coarse::kDepth) * coarse::kDepth;
    plan.centre = layout.add<float>(shape.width);
    const int64_t counts[2] = {shape.num_items, shape.num_query};
    for (int side = 0; side < (shape.same ? 1 : 2); ++side) {
      plan.copies[side] = layout.add<uint16_t>(counts[side] * plan.stride);
      plan.norms[side] = layout.add<coarse::RowNorms>(counts[side]);
      plan.columns[side] = layout.add<float4>(counts[side]);
    }
    plan.lost_rows = layout.add<int64_t>(shape.num_query);
    plan.lost_count = layout.add<unsigned long long>(1);
    kept = layout.bytes();
    plan.near_dots = layout.add<float>(plan.round_rows * coarse::kNearCapacity);
    plan.near_columns = layout.add<int>(plan.round_rows * coarse::kNearCapacity);
    plan.near_counts = layout.add<int>(plan.round_rows);
    plan.far_dots = layout.add<float>(plan.round_rows * coarse::kFarCapacity);
    plan.far_columns = layout.add<int>(plan.round_rows * coarse::kFarCapacity);
    plan.far_counts = layout.add<int>(plan.round_rows);
    plan.tests = layout.add<float4>(plan.round_rows);
    plan.farthest = layout.add<double>(plan.round_rows);
    plan.lost = layout.add<int>(plan.round_rows);
  }
  // Exact distances come after the candidates, in their place.
  layout.rewind(kept);
  const int64_t fitting = most_bytes / (shape.num_items * static_cast<int64_t>(sizeof(T)));
  plan.plain_rows = at_least_one(fitting < shape.num_query ? fitting : shape.num_query);
  plan.matrix = layout.add<T>(plan.plain_rows * shape.num_items);
  const int64_t scratch = smallest_k_scratch(plan.plain_rows, shape.k);
  plan.scratch_keys = layout.add<typename Ordered<T>::Key>(scratch);
  plan.scratch_indices = layout.add<int64_t>(scratch);
  plan.bytes = layout.most();
  return plan;
}

template <typename T>
struct Search {
  template <typename U>
  U* at(size_t place) const {
    return reinterpret_cast<U*>(memory + place);
  }

  const T* query;
  const T* database;
  Shape shape;
  Plan plan;
  unsigned char* memory;
  selection::Lists<T> lists;
  cudaStream_t stream;
};

// Rows `targets` (on the device) of the query, or all of them, by exact distances.
template <typename T>
cudaError_t search_plainly(const Search<T>& search, const int64_t* targets, int64_t rows) {
  const Shape& shape = search.shape;
  T* matrix = search.template at<T>(search.plan.matrix);
  for (int64_t begin = 0; begin < rows; begin += search.plan.plain_rows) {
    const int64_t left = rows - begin;
    const int64_t count = left < search.plan.plain_rows ? left : search.plan.plain_rows;
    const int64_t first = targets != nullptr ? 0 : begin;
    const int64_t* chosen = targets != nullptr ? targets + begin : nullptr;
    cudaError_t status = launch_distance_tiles<Metric::kSquaredEuclidean>(
        search.query + first * shape.width, chosen, count,
        search.database, shape.num_items, shape.width, T(0), matrix, search.stream);
    if (status != cudaSuccess) return status;
    const selection::Lists<T> lists = {search.lists.distances + first * shape.k,
                                       search.lists.indices + first * shape.k,
                                       search.lists.farthest + first};
    status = launch_smallest_k<T>(
        matrix, count, shape.num_items, shape.k, chosen,
        search.template at<typename Ordered<T>::Key>(search.plan.scratch_keys),
        search.template at<int64_t>(search.plan.scratch_indices), lists, search.stream);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

inline coarse::Candidates candidates_of(const Search<float>& search) {
  const Plan& plan = search.plan;
  return {search.at<float>(plan.near_dots), search.at<int>(plan.near_columns),
          search.at<int>(plan.near_counts), search.at<float>(plan.far_dots),
          search.at<int>(plan.far_columns), search.at<int>(plan.far_counts),
          search.at<float4>(plan.tests),    search.at<double>(plan.farthest),
          search.at<int>(plan.lost)};
}

inline coarse::Side side_of(const Search<float>& search, bool query) {
  const int side = query && !search.shape.same ? 1 : 0;
  return {search.at<uint16_t>(search.plan.copies[side]),
          search.at<coarse::RowNorms>(search.plan.norms[side]),
          search.at<float4>(search.plan.columns[side]),
          query ? search.shape.num_query : search.shape.num_items};
}

inline cudaError_t prepare(const Search<float>& search) {
  using namespace coarse;
  const Shape& shape = search.shape;
  float* centre = search.at<float>(search.plan.centre);
  cudaError_t status = launch(centre_kernel, ceil_div(shape.width, kWarp), kBlockSize, 0,
                              search.stream, search.database, shape.num_items, shape.width,
                              centre);
  for (int side = 0; side < (shape.same ? 1 : 2) && status == cudaSuccess; ++side) {
    const float* rows = side == 0 ? search.database : search.query;
    const int64_t count = side == 0 ? shape.num_items : shape.num_query;
    status = launch(convert_kernel, ceil_div(count * kWarp, kBlockSize), kBlockSize, 0,
                    search.stream, rows, order_of(count), shape.width, search.plan.stride, centre,
                    search.at<uint16_t>(search.plan.copies[side]),
                    search.at<RowNorms>(search.plan.norms[side]),
                    search.at<float4>(search.plan.columns[side]));
  }
  if (status != cudaSuccess) return status;
  return cudaMemsetAsync(search.at<unsigned char>(search.plan.lost_count), 0,
                         sizeof(unsigned long long), search.stream);
}

// One round: `rows` rows of the query from `first_row` on, by position, past the whole database.
inline cudaError_t search_round(const Search<float>& search, int64_t first_row, int64_t rows) {
  using namespace coarse;
  const Shape& shape = search.shape;
  TileArguments task = {side_of(search, true), side_of(search, false), candidates_of(search),
                        first_row,             rows,                   0,
                        kFirstColumns,         search.plan.stride};
  RefreshArguments refresh = {task.query.norms + first_row, task.database.norms, task.candidates,
                              0, shape.width, static_cast<int>(shape.k)};
  while (task.first_col < shape.num_items) {
    const bool first = task.first_col == 0;
    if (task.last_col > shape.num_items) task.last_col = shape.num_items;
    cudaError_t status = first ? launch_coarse_tiles<true>(task, search.stream)
                               : launch_coarse_tiles<false>(task, search.stream);
    if (status != cudaSuccess) return status;
    refresh.first_count = first ? task.last_col : 0;
    status = launch(refresh_kernel, rows, kRefreshThreads, 0, search.stream, refresh);
    if (status != cudaSuccess) return status;
    task.first_col = task.last_col;
    task.last_col *= kGrowth;
  }
  const RescoreArguments rescore = {
      search.query, search.database, order_of(shape.num_query), order_of(shape.num_items),
      task.candidates, first_row, rows, shape.width,
      exact::rows_are_aligned(search.query, shape.width) &&
          exact::rows_are_aligned(search.database, shape.width),
      static_cast<int>(shape.k), search.lists, search.at<int64_t>(search.plan.lost_rows),
      search.at<unsigned long long>(search.plan.lost_count)};
  return launch(rescore_kernel, ceil_div(rows, kRescoreWarps), kRescoreWarps * kWarp, 0,
                search.stream, rescore);
}

inline cudaError_t search_coarsely(const Search<float>& search, int64_t* lost) {
  cudaError_t status = prepare(search);
  for (int64_t row = 0; row < search.shape.num_query && status == cudaSuccess;
       row += search.plan.round_rows) {
    const int64_t left = search.shape.num_query - row;
    status = search_round(search, row,
                          left < search.plan.round_rows ? left : search.plan.round_rows);
  }
  if (status != cudaSuccess) return status;
  unsigned long long count = 0;
  status = cudaMemcpyAsync(&count, search.at<unsigned char>(search.plan.lost_count), sizeof(count),
                           cudaMemcpyDeviceToHost, search.stream);
  if (status == cudaSuccess) status = cudaStreamSynchronize(search.stream);
  *lost = static_cast<int64_t>(count);
  if (status != cudaSuccess || count == 0) return status;
  return search_plainly(search, search.at<int64_t>(search.plan.lost_rows), *lost);
}

}  // namespace neighbours

// `lost` gets the number of rows for which the coarse pass left too many candidates.
template <typename T>
cudaError_t launch_knn(const neighbours::Search<T>& search, int64_t* lost) {
  *lost = 0;
  if constexpr (sizeof(T) == sizeof(float)) {
    if (search.plan.round_rows > 0) return neighbours::search_coarsely(search, lost);
  }
  return neighbours::search_plainly<T>(search, nullptr, search.shape.num_query);
}

}  // namespace vireid_fast
