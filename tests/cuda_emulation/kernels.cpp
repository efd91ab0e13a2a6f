// The launchers of csrc/cuda behind C functions, for tests/ops/test_cuda_emulated.py.
#include "../../csrc/cuda/centred_distance.cuh"
#include "../../csrc/cuda/count_nearer.cuh"
#include "../../csrc/cuda/jaccard_distance.cuh"
#include "../../csrc/cuda/k_reciprocal.cuh"
#include "../../csrc/cuda/knn.cuh"
#include "../../csrc/cuda/merge_lists.cuh"
#include "../../csrc/cuda/rank_statistics.cuh"

using namespace vireid_fast;

namespace {

template <typename T>
int run_knn(const T* query, int64_t num_query, const T* database, int64_t num_items, int64_t width,
            int64_t k, bool use_coarse, int64_t most_bytes, T* distances, int64_t* indices,
            T* farthest, int64_t* lost) {
  const neighbours::Shape shape = {num_query, num_items, width, k,
                                   query == database && num_query == num_items};
  const auto plan = neighbours::plan_of<T>(shape, use_coarse, most_bytes);
  std::vector<unsigned char> memory(plan.bytes + 256, 0xff);
  unsigned char* aligned =
      memory.data() + (256 - reinterpret_cast<uintptr_t>(memory.data()) % 256) % 256;
  return launch_knn<T>(
      {query, database, shape, plan, aligned, {distances, indices, farthest}, nullptr}, lost);
}

template <typename T>
int run_smallest_k(const T* matrix, int64_t rows, int64_t count, int64_t k, T* distances,
                   int64_t* indices, T* farthest) {
  const int64_t scratch = smallest_k_scratch(rows, k);
  std::vector<typename Ordered<T>::Key> keys(scratch);
  std::vector<int64_t> places(scratch);
  return launch_smallest_k<T>(matrix, rows, count, k, nullptr, keys.data(), places.data(),
                              {distances, indices, farthest}, nullptr);
}

template <typename T>
int run_rank_normalised(const T* distances, const int64_t* indices, const T* farthest,
                        int64_t rows, int64_t width, int64_t k, int64_t* ranked, bool* open) {
  const int64_t scratch =
      sort_scratch(rows, width);
  std::vector<typename Ordered<T>::Key> keys(scratch);
  std::vector<int64_t> places(scratch);
  return launch_rank_normalised<T>(distances, indices, farthest, rows, width, k, keys.data(),
                                   places.data(), ranked, open, nullptr);
}

// `col_out` and `weight_out` have room for `room` entries.
template <typename T>
int run_expand_query(const int64_t* crow, const int64_t* col, const T* weight,
                     const int64_t* lists, int64_t rows, int64_t width, int64_t k2,
                     int64_t* crow_out, int64_t* col_out, T* weight_out) {
  reciprocal::ExpansionArguments<T> task = {crow, col, weight, lists, rows, width, k2, 0};
  unsigned long long longest = 0;
  launch_expansion_bound(crow, lists, rows, width, k2, &longest, nullptr);
  task.longest = static_cast<int64_t>(longest);
  const int64_t scratch = sort_scratch(rows, task.longest);
  std::vector<uint64_t> keys(scratch);
  std::vector<T> weights(scratch);
  task.scratch_keys = keys.data();
  task.scratch_weights = weights.data();
  task.crow_out = crow_out;
  crow_out[0] = 0;
  const int status = launch_expand_query<T>(task, nullptr);
  task.col_out = col_out;
  task.weight_out = weight_out;
  return status != 0 ? status : launch_expand_query<T>(task, nullptr);
}

// With `farthest`, `out` holds the distances to be blended.
template <typename T>
int run_jaccard(const int64_t* crow, const int64_t* col, const T* weight, int64_t num_rows,
                int64_t num_query, const T* farthest, double lambda, int64_t* first, int32_t* row,
                T* row_weight, T* out) {
  std::vector<int64_t> next(num_rows + 1);
  const jaccard::Inverted<T> index = {first, row, row_weight};
  const int status = launch_invert_rows<T>(crow, col, weight, num_rows, num_query, crow[num_query],
                                           crow[num_rows] - crow[num_query], next.data(), index,
                                           nullptr);
  if (status != 0) return status;
  return launch_overlaps<T>(
      {crow, col, weight, {first, row, row_weight}, farthest, num_query, num_rows - num_query, 0,
       static_cast<T>(lambda), static_cast<T>(1 - lambda), out},
      nullptr);
}

template <typename T>
int run_ranks(const T* distances, int64_t num_query, int64_t width, const int64_t* columns,
              const int64_t* query_identity, const int64_t* query_group,
              const int64_t* identity_of, const int64_t* identity_start,
              const int64_t* identity_items, const int64_t* group_of, int64_t num_identities,
              int64_t num_gallery, int64_t drop, int* broken, int64_t* first_rank,
              int64_t* first_identity_rank, double* average_precision,
              double* inverse_negative_penalty, int64_t* num_positives) {
  const ranks::Labels labels = {query_identity, query_group,    identity_of,
                                identity_start, identity_items, group_of,
                                num_identities, num_gallery,    static_cast<ranks::Drop>(drop)};
  int longest = 0;
  const int status = launch_check_labels(labels, num_query, broken, &longest, nullptr);
  if (status != 0 || *broken != 0) return status;
  const int64_t scratch = rank_scratch(num_query, longest);
  std::vector<typename Ordered<T>::Key> keys(scratch);
  std::vector<int64_t> items(scratch);
  std::vector<int> counts(scratch);
  std::vector<unsigned> seen(rank_blocks(num_query, longest) * ((num_identities + 31) / 32));
  return launch_rank_statistics<T>(
      {distances, columns, 0, num_query, width, longest, keys.data(), items.data(), counts.data(),
       seen.data(),
       {first_rank, first_identity_rank, average_precision, inverse_negative_penalty,
        num_positives}},
      labels, nullptr);
}

template <typename T>
int run_merge_lists(const T* distances, const int64_t* indices, const T* farthest,
                    const T* new_distances, const int64_t* new_indices, const T* new_farthest,
                    int64_t rows, int64_t listed, int64_t added, int64_t first_index, int64_t k,
                    T* distances_out, int64_t* indices_out, T* farthest_out) {
  const int64_t scratch = sort_scratch(rows, listed + added);
  std::vector<typename Ordered<T>::Key> keys(scratch);
  std::vector<int64_t> places(scratch);
  return launch_merge_lists<T>(
      {distances, indices, farthest, new_distances, new_indices, new_farthest, rows, listed, added,
       first_index, k, keys.data(), places.data(), distances_out, indices_out, farthest_out},
      nullptr);
}

}  // namespace

extern "C" {

void set_direction(int direction) { emulation::direction = direction; }

int knn_f32(const float* query, int64_t num_query, const float* database, int64_t num_items,
            int64_t width, int64_t k, bool use_coarse, int64_t most_bytes, float* distances,
            int64_t* indices, float* farthest, int64_t* lost) {
  return run_knn(query, num_query, database, num_items, width, k, use_coarse, most_bytes,
                 distances, indices, farthest, lost);
}

int knn_f64(const double* query, int64_t num_query, const double* database, int64_t num_items,
            int64_t width, int64_t k, bool use_coarse, int64_t most_bytes, double* distances,
            int64_t* indices, double* farthest, int64_t* lost) {
  return run_knn(query, num_query, database, num_items, width, k, use_coarse, most_bytes,
                 distances, indices, farthest, lost);
}

// Half squared distances of all pairs as the coarse pass sees them, and their margins. At most
// kFirstColumns rows of y; both sides are centred by the mean of y.
int coarse_halves(const float* x, int64_t n, const float* y, int64_t m, int64_t width,
                  double* halves, double* margins) {
  using namespace coarse;
  const neighbours::Shape shape = {n, m, width, 1, false};
  const auto plan = neighbours::plan_of<float>(shape, true, 1 << 24);
  std::vector<unsigned char> memory(plan.bytes + 256);
  unsigned char* aligned =
      memory.data() + (256 - reinterpret_cast<uintptr_t>(memory.data()) % 256) % 256;
  const neighbours::Search<float> search = {x, y, shape, plan, aligned, {}, nullptr};
  const Side query = neighbours::side_of(search, true);
  const Side database = neighbours::side_of(search, false);
  const Candidates kept = neighbours::candidates_of(search);
  if (n > plan.round_rows || m > kFirstColumns) return cudaErrorInvalidValue;
  int status = neighbours::prepare(search);
  if (status != 0) return status;
  status = launch_coarse_tiles<true>({query, database, kept, 0, n, 0, m, plan.stride}, nullptr);
  const Order rows = order_of(n);
  const Order columns = order_of(m);
  for (int64_t p = 0; p < n; ++p) {
    for (int64_t q = 0; q < m; ++q) {
      const int64_t place = rows.row(p) * m + columns.row(q);
      halves[place] = coarse_half(query.norms[p], database.norms[q],
                                  kept.near_dots[p * kNearCapacity + q]);
      margins[place] = margin(query.norms[p], database.norms[q], width);
    }
  }
  return status;
}

int smallest_k_f32(const float* matrix, int64_t rows, int64_t count, int64_t k, float* distances,
                   int64_t* indices, float* farthest) {
  return run_smallest_k(matrix, rows, count, k, distances, indices, farthest);
}

int smallest_k_f64(const double* matrix, int64_t rows, int64_t count, int64_t k, double* distances,
                   int64_t* indices, double* farthest) {
  return run_smallest_k(matrix, rows, count, k, distances, indices, farthest);
}

int pairwise_distance_f32(int64_t metric, const float* x, int64_t n, const float* y, int64_t m,
                          int64_t width, float* out) {
  return launch_pairwise_distance<float>(static_cast<Metric>(metric), x, n, y, m, width, 0,
                                         out, nullptr);
}

int pairwise_distance_f64(int64_t metric, const double* x, int64_t n, const double* y, int64_t m,
                          int64_t width, double* out) {
  return launch_pairwise_distance<double>(static_cast<Metric>(metric), x, n, y, m, width, 0,
                                          out, nullptr);
}

int pair_distance_f32(const float* x, int64_t n, int64_t width, const int64_t* row,
                      const int64_t* column, int64_t pairs, float* out, int* outside) {
  return launch_pair_distance<float>(x, n, width, row, column, pairs, out, outside, nullptr);
}

int pair_distance_f64(const double* x, int64_t n, int64_t width, const int64_t* row,
                      const int64_t* column, int64_t pairs, double* out, int* outside) {
  return launch_pair_distance<double>(x, n, width, row, column, pairs, out, outside, nullptr);
}

int rank_normalised_f32(const float* distances, const int64_t* indices, const float* farthest,
                        int64_t rows, int64_t width, int64_t k, int64_t* ranked, bool* open) {
  return run_rank_normalised(distances, indices, farthest, rows, width, k, ranked, open);
}

int rank_normalised_f64(const double* distances, const int64_t* indices, const double* farthest,
                        int64_t rows, int64_t width, int64_t k, int64_t* ranked, bool* open) {
  return run_rank_normalised(distances, indices, farthest, rows, width, k, ranked, open);
}

int entry_distance_f32(const float* query, int64_t num_query, const float* gallery, int64_t width,
                       const int64_t* crow, int64_t rows, const int64_t* col, int64_t entries,
                       float* distances) {
  return launch_entry_distance<float>(query, num_query, gallery, width, crow, rows, col, entries,
                                   distances, nullptr);
}

int entry_distance_f64(const double* query, int64_t num_query, const double* gallery, int64_t width,
                       const int64_t* crow, int64_t rows, const int64_t* col, int64_t entries,
                       double* distances) {
  return launch_entry_distance<double>(query, num_query, gallery, width, crow, rows, col, entries,
                                   distances, nullptr);
}

// Returns the number of entries; `col` has room for them.
int64_t k_reciprocal_sets(const int64_t* lists, int64_t rows, int64_t width, int64_t k1,
                          int64_t* crow, int64_t* col, int* broken) {
  const ReciprocalSets sets(rows, width, k1);
  std::vector<int32_t> memory(sets.memory());
  if (sets.count(lists, memory.data(), crow, broken, nullptr) != 0) return -1;
  if (*broken == 0 && sets.fill(memory.data(), crow, col, nullptr) != 0) return -1;
  return crow[rows];
}

int reciprocal_weights_f32(const int64_t* crow, int64_t rows, const float* distances,
                           float* weights) {
  return launch_reciprocal_weights<float>(crow, rows, distances, weights, nullptr);
}

int reciprocal_weights_f64(const int64_t* crow, int64_t rows, const double* distances,
                           double* weights) {
  return launch_reciprocal_weights<double>(crow, rows, distances, weights, nullptr);
}

int expand_query_f32(const int64_t* crow, const int64_t* col, const float* weight,
                     const int64_t* lists, int64_t rows, int64_t width, int64_t k2,
                     int64_t* crow_out, int64_t* col_out, float* weight_out) {
  return run_expand_query(crow, col, weight, lists, rows, width, k2, crow_out, col_out,
                          weight_out);
}

int expand_query_f64(const int64_t* crow, const int64_t* col, const double* weight,
                     const int64_t* lists, int64_t rows, int64_t width, int64_t k2,
                     int64_t* crow_out, int64_t* col_out, double* weight_out) {
  return run_expand_query(crow, col, weight, lists, rows, width, k2, crow_out, col_out,
                          weight_out);
}

int jaccard_f32(const int64_t* crow, const int64_t* col, const float* weight, int64_t num_rows,
                int64_t num_query, const float* farthest, double lambda, int64_t* first,
                int32_t* row, float* row_weight, float* out) {
  return run_jaccard(crow, col, weight, num_rows, num_query, farthest, lambda, first, row,
                     row_weight, out);
}

int jaccard_f64(const int64_t* crow, const int64_t* col, const double* weight, int64_t num_rows,
                int64_t num_query, const double* farthest, double lambda, int64_t* first,
                int32_t* row, double* row_weight, double* out) {
  return run_jaccard(crow, col, weight, num_rows, num_query, farthest, lambda, first, row,
                     row_weight, out);
}

int rank_statistics_f32(const float* distances, int64_t num_query, int64_t width,
                        const int64_t* columns, const int64_t* query_identity,
                        const int64_t* query_group, const int64_t* identity_of,
                        const int64_t* identity_start, const int64_t* identity_items,
                        const int64_t* group_of, int64_t num_identities, int64_t num_gallery,
                        int64_t drop, int* broken, int64_t* first_rank,
                        int64_t* first_identity_rank, double* average_precision,
                        double* inverse_negative_penalty, int64_t* num_positives) {
  return run_ranks(distances, num_query, width, columns, query_identity, query_group, identity_of,
                   identity_start, identity_items, group_of, num_identities, num_gallery, drop,
                   broken, first_rank, first_identity_rank, average_precision,
                   inverse_negative_penalty, num_positives);
}

int rank_statistics_f64(const double* distances, int64_t num_query, int64_t width,
                        const int64_t* columns, const int64_t* query_identity,
                        const int64_t* query_group, const int64_t* identity_of,
                        const int64_t* identity_start, const int64_t* identity_items,
                        const int64_t* group_of, int64_t num_identities, int64_t num_gallery,
                        int64_t drop, int* broken, int64_t* first_rank,
                        int64_t* first_identity_rank, double* average_precision,
                        double* inverse_negative_penalty, int64_t* num_positives) {
  return run_ranks(distances, num_query, width, columns, query_identity, query_group, identity_of,
                   identity_start, identity_items, group_of, num_identities, num_gallery, drop,
                   broken, first_rank, first_identity_rank, average_precision,
                   inverse_negative_penalty, num_positives);
}

int check_rows(const int64_t* crow, int64_t rows, const int64_t* col, int64_t entries,
               int64_t num_columns, bool part, int* broken) {
  const int status = launch_check_offsets(crow, rows, entries, part, broken, nullptr);
  return status != 0 ? status : launch_check_indices(col, entries, num_columns, broken, nullptr);
}

int centred_distance_f32(const float* x, int64_t n, const float* y, int64_t m, int64_t width,
                         const float* centre, float* out) {
  std::vector<float> norms(n + m);
  return launch_centred_distance<float>(x, n, y, m, width, centre, norms.data(), out, nullptr);
}

int centred_distance_f64(const double* x, int64_t n, const double* y, int64_t m, int64_t width,
                         const double* centre, double* out) {
  std::vector<double> norms(n + m);
  return launch_centred_distance<double>(x, n, y, m, width, centre, norms.data(), out, nullptr);
}

int merge_lists_f32(const float* distances, const int64_t* indices, const float* farthest,
                    const float* new_distances, const int64_t* new_indices,
                    const float* new_farthest, int64_t rows, int64_t listed, int64_t added,
                    int64_t first_index, int64_t k,
                    float* distances_out, int64_t* indices_out, float* farthest_out) {
  return run_merge_lists(distances, indices, farthest, new_distances, new_indices, new_farthest,
                         rows, listed, added, first_index, k, distances_out, indices_out,
                         farthest_out);
}

int merge_lists_f64(const double* distances, const int64_t* indices, const double* farthest,
                    const double* new_distances, const int64_t* new_indices,
                    const double* new_farthest, int64_t rows, int64_t listed, int64_t added,
                    int64_t first_index, int64_t k,
                    double* distances_out, int64_t* indices_out, double* farthest_out) {
  return run_merge_lists(distances, indices, farthest, new_distances, new_indices, new_farthest,
                         rows, listed, added, first_index, k, distances_out, indices_out,
                         farthest_out);
}

int count_nearer_f32(const float* distances, int64_t rows, int64_t width, const int64_t* crow,
                     const float* bounds, const int64_t* indices, int64_t pairs, int64_t first,
                     int64_t* counts) {
  return launch_count_nearer<float>(distances, rows, width, crow, bounds, indices, pairs, first,
                                 counts, nullptr);
}

int count_nearer_f64(const double* distances, int64_t rows, int64_t width, const int64_t* crow,
                     const double* bounds, const int64_t* indices, int64_t pairs, int64_t first,
                     int64_t* counts) {
  return launch_count_nearer<double>(distances, rows, width, crow, bounds, indices, pairs, first,
                                 counts, nullptr);
}

}  // extern "C"
