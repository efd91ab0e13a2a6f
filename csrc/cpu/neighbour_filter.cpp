#include "neighbour_filter.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>
#include <vector>

#include "nearest_candidates.h"

namespace vireid_fast {
namespace {

constexpr int64_t kFewestItems = 640;
constexpr int64_t kFewestMutual = 1025;  // small sets are measured from one side (knn.cpp)
constexpr int64_t kFewestQueries = 32;
constexpr int64_t kFewestFeatures = 32;
constexpr int64_t kMostFeatures = 1 << 16;  // 8-bit products of so many fit int32
constexpr float kSmallestScale = 0x1p-40f;
constexpr float kLargestScale = 0x1p55f;
constexpr int64_t kSampledQueries = 16384;  // a smaller search is not worth a sample
constexpr int64_t kSampleRows = 48;
constexpr int64_t kSampleItems = 4096;
constexpr int64_t kQueryBlocks = 8;  // blocks of queries for which panels are packed once

std::atomic<int> plan{static_cast<int>(SearchPlan::kAutomatic)};

int64_t blocks_of(int64_t count) { return (count + kCoarseBlock - 1) / kCoarseBlock; }
int64_t block_size(int64_t block, int64_t count) {
  return std::min(kCoarseBlock, count - block * kCoarseBlock);
}

template <CoarseProducts P>
struct ProductTypes {
  using Product = int32_t;
  using Panel = std::conditional_t<P == CoarseProducts::kInt8, uint8_t, int16_t>;
};
template <>
struct ProductTypes<CoarseProducts::kFloat> {
  using Product = float;
  using Panel = float;
};

// Coarse products of one block of rows with one block of columns, and the lists that they fill.
template <CoarseProducts P>
class TileScanner {
  using Product = typename ProductTypes<P>::Product;
  using Panel = typename ProductTypes<P>::Panel;
  static constexpr bool kFloat = P == CoarseProducts::kFloat;

 public:
  TileScanner(const CoarseItems& rows, const CoarseItems& columns)
      : rows_(rows),
        columns_(columns),
        panels_(kCoarseBlock * columns.code_width),
        centred_(kFloat ? kCoarseBlock * rows.width : 0),
        products_(kCoarseBlock * kCoarseBlock),
        hits_(kCoarseBlock) {}

  void take_columns(int64_t first, int64_t count) {
    first_column_ = first;
    num_columns_ = count;
    columns_.pack_panels(first, count, panels_.data());
  }

  void take_rows(int64_t first, int64_t count) {
    first_row_ = first;
    num_rows_ = count;
    const int64_t num_panels = padded_to_panels(num_columns_) / kCoarsePanel;
    const CoarseKernels& kernels = coarse_kernels();
    if constexpr (kFloat) {
      rows_.copy_rows(first, count, centred_.data());
      kernels.float_tile(centred_.data(), count, rows_.width, panels_.data(), num_panels,
                         products_.data(), kCoarseBlock);
    } else if constexpr (P == CoarseProducts::kInt8) {
      kernels.int8_tile(rows_.int8_codes(first), &rows_.corrections[first], count,
                        rows_.code_width, panels_.data(), num_panels, products_.data(),
                        kCoarseBlock);
    } else {
      kernels.int16_tile(rows_.int16_codes(first), count, rows_.code_width, panels_.data(),
                         num_panels, products_.data(), kCoarseBlock);
    }
  }

  // Offers the tile to the lists of its rows and, if there are any, to those of its columns.
  void scan(NearestCandidates& row_lists, NearestCandidates* column_lists) {
    const CoarseColumns columns{
        &columns_.scale[first_column_],  &columns_.low[first_column_],
        &columns_.high[first_column_],   &columns_.radius[first_column_],
        column_lists != nullptr ? column_lists->near() : nullptr,
        column_lists != nullptr ? column_lists->far() : nullptr};
    const int64_t width = padded_to_panels(num_columns_);
    for (int64_t r = 0; r < num_rows_; ++r) {
      const int64_t item = first_row_ + r;
      const CoarseRow row{2 * rows_.scale[item], rows_.low[item],      rows_.high[item],
                          rows_.radius[item],    row_lists.near()[r], row_lists.far()[r],
                          rows_.measured_down,   rows_.measured_up};
      const Product* products = &products_[r * kCoarseBlock];
      int64_t found;
      if constexpr (kFloat) {
        found = coarse_kernels().float_scan(products, width, row, columns, column_lists != nullptr,
                                            hits_.data());
      } else {
        found = coarse_kernels().integer_scan(products, width, row, columns,
                                              column_lists != nullptr, hits_.data());
      }
      for (int64_t h = 0; h < found; ++h) offer(r, hits_[h], row_lists, column_lists);
    }
  }

 private:
  void offer(int64_t r, const CoarseHit& hit, NearestCandidates& row_lists,
             NearestCandidates* column_lists) {
    const int32_t row = static_cast<int32_t>(first_row_ + r);
    const int32_t column = static_cast<int32_t>(first_column_) + hit.column;
    if (hit.lists & kRowNear) row_lists.add_near(r, column, hit.least, hit.most);
    if (hit.lists & kRowFar) row_lists.add_far(r, column, hit.least, hit.most);
    if (hit.lists & kColumnNear) column_lists->add_near(hit.column, row, hit.least, hit.most);
    if (hit.lists & kColumnFar) column_lists->add_far(hit.column, row, hit.least, hit.most);
  }

  const CoarseItems& rows_;
  const CoarseItems& columns_;
  std::vector<Panel> panels_;
  std::vector<float> centred_;
  std::vector<Product> products_;
  std::vector<CoarseHit> hits_;
  int64_t first_column_ = 0, num_columns_ = 0, first_row_ = 0, num_rows_ = 0;
};

void write_list(NearestCandidates& lists, int64_t local, int64_t row, int64_t k,
                const NeighbourOutput& out) {
  lists.finish(local, out.distances + row * k, out.indices + row * k, out.farthest + row);
}

// All pairs of one set, each tile once for its rows and its columns. A thread takes a block of
// columns and walks over the rows up to it; the two blocks of a tile are locked while it is scanned.
template <CoarseProducts P>
void search_mutual(const NeighbourSearch& search, const CoarseItems& items,
                   const NeighbourOutput& out) {
  const Measure measure{search.query, search.database, search.width};
  const int64_t blocks = blocks_of(search.num_items);
  std::vector<std::unique_ptr<NearestCandidates>> lists(blocks);
  std::vector<std::mutex> locks(blocks);
  for (int64_t b = 0; b < blocks; ++b) {
    lists[b] = std::make_unique<NearestCandidates>(measure, items, b * kCoarseBlock,
                                                   block_size(b, items.count), search.k);
  }
  std::atomic<int64_t> next{blocks};  // the longest walks first
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t, int64_t) {
    TileScanner<P> scanner(items, items);
    for (int64_t column = --next; column >= 0; column = --next) {
      scanner.take_columns(column * kCoarseBlock, block_size(column, items.count));
      for (int64_t row = column; row >= 0; --row) {
        scanner.take_rows(row * kCoarseBlock, block_size(row, items.count));
        if (row == column) {
          const std::lock_guard<std::mutex> held(locks[row]);
          scanner.scan(*lists[row], nullptr);
        } else {
          const std::scoped_lock held(locks[row], locks[column]);
          scanner.scan(*lists[row], lists[column].get());
        }
      }
    }
  });
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kCoarseBlock;
      for (int64_t r = 0; r < block_size(b, items.count); ++r) {
        write_list(*lists[b], r, first + r, search.k, out);
      }
      lists[b].reset();
    }
  });
}

// The best of several lists of each row, each over a part of the items and in order.
void merge_parts(const std::vector<NeighbourOutput>& parts, int64_t rows, int64_t k,
                 const NeighbourOutput& out) {
  torch::stable::parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
    std::vector<std::pair<float, int64_t>> all;
    for (int64_t row = begin; row < end; ++row) {
      all.clear();
      float farthest = 0;
      for (const NeighbourOutput& part : parts) {
        for (int64_t i = row * k; i < (row + 1) * k && part.indices[i] >= 0; ++i) {
          all.emplace_back(part.distances[i], part.indices[i]);
        }
        farthest = std::max(farthest, part.farthest[row]);
      }
      std::partial_sort(all.begin(), all.begin() + k, all.end());
      for (int64_t i = 0; i < k; ++i) {
        out.distances[row * k + i] = all[i].first;
        out.indices[row * k + i] = all[i].second;
      }
      out.farthest[row] = farthest;
    }
  });
}

// Queries against a database, whose blocks [first, last) a task passes; returns the pairs measured.
template <CoarseProducts P>
int64_t search_part(const NeighbourSearch& search, const CoarseItems& queries,
                    const CoarseItems& items, int64_t first_query, int64_t num_query,
                    int64_t first, int64_t last, const NeighbourOutput& out) {
  const Measure measure{search.query, search.database, search.width};
  TileScanner<P> scanner(queries, items);
  std::vector<std::unique_ptr<NearestCandidates>> lists;
  for (int64_t b = 0; b < blocks_of(num_query); ++b) {
    lists.push_back(std::make_unique<NearestCandidates>(
        measure, queries, first_query + b * kCoarseBlock, block_size(b, num_query), search.k));
  }
  for (int64_t column = first; column < last; ++column) {
    scanner.take_columns(column * kCoarseBlock, block_size(column, items.count));
    for (int64_t b = 0; b < blocks_of(num_query); ++b) {
      scanner.take_rows(first_query + b * kCoarseBlock, block_size(b, num_query));
      scanner.scan(*lists[b], nullptr);
    }
  }
  int64_t measured = 0;
  for (int64_t row = 0; row < num_query; ++row) {
    NearestCandidates& block = *lists[row / kCoarseBlock];
    // A short part may hold fewer than k items.
    std::fill_n(out.indices + (first_query + row) * search.k, search.k, int64_t{-1});
    write_list(block, row % kCoarseBlock, first_query + row, search.k, out);
  }
  for (const auto& block : lists) measured += block->measured();
  return measured;
}

template <CoarseProducts P>
void search_apart(const NeighbourSearch& search, const CoarseItems& queries,
                  const CoarseItems& items, const NeighbourOutput& out) {
  const int64_t row_blocks = blocks_of(search.num_query);
  const int64_t row_tasks = (row_blocks + kQueryBlocks - 1) / kQueryBlocks;
  const int64_t rows_at_once = (row_blocks + row_tasks - 1) / row_tasks * kCoarseBlock;
  const int64_t blocks = blocks_of(items.count);
  // Tasks that the threads share evenly. Each part learns its reaches anew, so there are few.
  const int64_t threads = static_cast<int64_t>(torch::stable::get_num_threads());
  int64_t num_parts = 1;
  while (row_tasks * num_parts < 4 * threads && row_tasks * num_parts % threads != 0 &&
         num_parts < blocks / 8) {
    ++num_parts;
  }
  const int64_t size = search.num_query * search.k;
  std::vector<float> distances((num_parts - 1) * size);
  std::vector<int64_t> indices((num_parts - 1) * size);
  std::vector<float> farthest((num_parts - 1) * search.num_query);
  std::vector<NeighbourOutput> parts{out};
  for (int64_t p = 0; p + 1 < num_parts; ++p) {
    parts.push_back({distances.data() + p * size, indices.data() + p * size,
                     farthest.data() + p * search.num_query});
  }
  std::atomic<int64_t> next{0};
  const int64_t tasks = row_tasks * num_parts;
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t, int64_t) {
    for (int64_t task = next++; task < tasks; task = next++) {
      const int64_t first_query = task / num_parts * rows_at_once;
      const int64_t part = task % num_parts;
      search_part<P>(search, queries, items, first_query,
                     std::min(rows_at_once, search.num_query - first_query),
                     blocks * part / num_parts, blocks * (part + 1) / num_parts, parts[part]);
    }
  });
  if (num_parts > 1) merge_parts(parts, search.num_query, search.k, out);
}

// Largest magnitude of the values; NaN and infinity give infinity.
float largest_magnitude(const float* values, int64_t count) {
  constexpr int64_t kChunk = int64_t{1} << 16;
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  std::vector<uint32_t> largest(chunks);
  torch::stable::parallel_for(0, chunks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const int64_t stop = std::min(count, (c + 1) * kChunk);
      uint32_t most = 0;
      for (int64_t i = c * kChunk; i < stop; ++i) {
        uint32_t bits;
        __builtin_memcpy(&bits, values + i, sizeof(bits));
        bits &= 0x7fffffffu;  // magnitudes order as their bits do
        most = bits > most ? bits : most;
      }
      largest[c] = most;
    }
  });
  const uint32_t most = *std::max_element(largest.begin(), largest.end());
  float value;
  __builtin_memcpy(&value, &most, sizeof(value));
  return value <= std::numeric_limits<float>::max() ? value
                                                    : std::numeric_limits<float>::infinity();
}

// Whether filtering gains on measuring every pair.
bool is_large(const NeighbourSearch& search) {
  return search.num_items >= (search.mutual() ? kFewestMutual : kFewestItems) &&
         search.num_query >= kFewestQueries && search.width >= kFewestFeatures &&
         search.k <= search.num_items / 8;
}

// Whether the sizes and values are such that the proof holds.
bool is_provable(const NeighbourSearch& search) {
  if (search.num_query == 0 || search.width == 0 || search.width > kMostFeatures ||
      search.num_items > std::numeric_limits<int32_t>::max()) {
    return false;
  }
  float largest = largest_magnitude(search.database, search.num_items * search.width);
  if (!search.mutual()) {
    largest = std::max(largest, largest_magnitude(search.query, search.num_query * search.width));
  }
  return largest >= kSmallestScale && largest <= kLargestScale;
}

// Rows of a set, evenly spread.
std::vector<float> spread_rows(const float* rows, int64_t count, int64_t width, int64_t wanted) {
  std::vector<float> chosen(wanted * width);
  for (int64_t r = 0; r < wanted; ++r) {
    const float* row = rows + r * count / wanted * width;
    std::copy(row, row + width, chosen.data() + r * width);
  }
  return chosen;
}

// Whether 8-bit products leave few enough pairs to measure, as a small part of the search tells. A
// pair costs about width / 64 cycles as a 16-bit product and half of that in 8 bit; one that is kept
// and measured costs width / 8 + 450, which is waiting for memory and sorting. Each pair of a mutual
// search serves two rows.
bool int8_gains(const NeighbourSearch& search, const std::vector<float>& centre) {
  if (search.num_query < kSampledQueries) return false;
  const int64_t num_items = std::min(kSampleItems, search.num_items);
  const std::vector<float> queries =
      spread_rows(search.query, search.num_query, search.width, kSampleRows);
  const std::vector<float> database =
      spread_rows(search.database, search.num_items, search.width, num_items);
  const NeighbourSearch part{queries.data(), kSampleRows, database.data(), num_items, search.width,
                             std::max<int64_t>(1, search.k * num_items / search.num_items)};
  const CoarseItems rows(part.query, part.num_query, part.width, centre, CoarseProducts::kInt8);
  const CoarseItems items(part.database, num_items, part.width, centre, CoarseProducts::kInt8);
  std::vector<float> distances(kSampleRows * part.k), farthest(kSampleRows);
  std::vector<int64_t> indices(kSampleRows * part.k);
  const int64_t measured = search_part<CoarseProducts::kInt8>(
      part, rows, items, 0, kSampleRows, 0, blocks_of(num_items),
      {distances.data(), indices.data(), farthest.data()});
  const double width = static_cast<double>(search.width);
  const double saved = width / 128 / (search.mutual() ? 2 : 1);
  const double pairs = static_cast<double>(kSampleRows * num_items);
  return static_cast<double>(measured) * (width / 8 + 450) < saved * pairs;
}

template <CoarseProducts P>
void run(const NeighbourSearch& search, const CoarseItems& items, const NeighbourOutput& out) {
  if (search.mutual()) {
    search_mutual<P>(search, items, out);
    return;
  }
  const CoarseItems queries(search.query, search.num_query, search.width, items.centre(),
                            items.products);
  search_apart<P>(search, queries, items, out);
}

}  // namespace

void set_search_plan(SearchPlan wanted) {
  plan.store(static_cast<int>(wanted), std::memory_order_relaxed);
}

bool filtered_neighbours(const NeighbourSearch& search, const NeighbourOutput& out) {
  const auto wanted = static_cast<SearchPlan>(plan.load(std::memory_order_relaxed));
  if (wanted == SearchPlan::kMeasureAll ||
      (wanted == SearchPlan::kAutomatic && !is_large(search)) || !is_provable(search)) {
    return false;
  }
  const std::vector<float> centre = centre_of(search.database, search.num_items, search.width);
  const auto items_as = [&](CoarseProducts products) {
    return CoarseItems(search.database, search.num_items, search.width, centre, products);
  };
  const bool integers = coarse_kernels().int8_tile != nullptr && wanted != SearchPlan::kFloat;
  const bool int8 = wanted == SearchPlan::kInt8 ||
                    (wanted == SearchPlan::kAutomatic && integers && int8_gains(search, centre));
  if (integers && int8) {
    run<CoarseProducts::kInt8>(search, items_as(CoarseProducts::kInt8), out);
  } else if (integers) {
    run<CoarseProducts::kInt16>(search, items_as(CoarseProducts::kInt16), out);
  } else {
    run<CoarseProducts::kFloat>(search, items_as(CoarseProducts::kFloat), out);
  }
  return true;
}

}  // namespace vireid_fast
