// The bodies of the table in attention_kernels.h, included once by each attention_<set>.cpp, which
// first defines VIREID_VECTOR_BYTES and kLanes (bytes and floats per register), kMaxRows (rows of
// a register tile), Vector, fused() and interleave(), and VIREID_TABLE (name of its table).
//
// Nothing here may call a function or template with external linkage compiled by us (the standard
// library's templates included): the linker keeps one copy of such a function, possibly the one
// compiled for a wider instruction set than the machine has.
#include "attention_tiles.inc.h"

namespace vireid_fast {
namespace {

// Rows of a register tile within panels: row i begins at data + i * kPanel.
struct TileRows {
  float* data;
  int64_t panel;
  int64_t rows, columns;
};

// Calls body(pointer) for the vectors of row i, the padded last one included.
template <typename Body>
inline void over_row(const TileRows& tile, int64_t i, const Body& body) {
  float* row = tile.data + i * kPanel;
  int64_t column = 0;
  for (; column + kLanes < tile.columns; column += kPanel, row += tile.panel) {
    body(row);
    body(row + kLanes);
  }
  if (column < tile.columns) body(row);
}

// Scores of the columns that only fill up the last vector become -inf: of probability 0.
void hide_padding(const TileRows& tile) {
  const int64_t last = (tile.columns - 1) / kLanes * kLanes;
  Vector padding;
  for (int lane = 0; lane < kLanes; ++lane) {
    padding[lane] = lane < tile.columns - last ? 0.0f : -__builtin_inff();
  }
  float* at = tile.data + last / kPanel * tile.panel + last % kPanel;
  for (int64_t i = 0; i < tile.rows; ++i, at += kPanel) store(at, load(at) + padding);
}

// Scores in base 2 -> 2^(score - largest of its row). lse: natural log of the sum of 2^score, per
// row; inverse: 1 / sum of what was written.
void softmax(const TileRows& tile, float* lse, float* inverse) {
  Vector rows[kLanes];
  for (int64_t i = 0; i < tile.rows; ++i) {
    Vector top = broadcast(-__builtin_inff());
    over_row(tile, i, [&](float* at) { top = larger(load(at), top); });
    rows[i] = top;
  }
  for (int64_t i = tile.rows; i < kLanes; ++i) rows[i] = Vector{};
  const Vector largest = fold_rows(rows, larger);
  store(lse, largest);
  for (int64_t i = 0; i < tile.rows; ++i) {
    const Vector offset = broadcast(lse[i]);
    Vector sum = {};
    over_row(tile, i, [&](float* at) {
      const Vector power = power_of_two(load(at) - offset);
      store(at, power);
      sum += power;
    });
    rows[i] = sum;
  }
  for (int64_t i = tile.rows; i < kLanes; ++i) rows[i] = broadcast(1.0f);
  const Vector sum = fold_rows(rows, [](Vector a, Vector b) { return a + b; });
  store(lse, fused(largest, broadcast(kLn2), logarithm(sum)));
  store(inverse, 1.0f / sum);
}

// Scores in base 2 and dP = dO V^T, the latter `distance` floats further on, of the rows of `tile`
// -> probabilities P and slopes P o (dP - rowsum(P o dP)). Every row of P is divided by its sum
// again: then the rounding of lse, which grows with the scores, has no effect.
void differentiate(const TileRows& tile, int64_t distance, const float* lse) {
  Vector rows[kLanes];
  Vector totals[kLanes];
  for (int64_t i = 0; i < tile.rows; ++i) {
    const Vector offset = broadcast(lse[i] * kLog2E);
    Vector sum = {};
    Vector total = {};
    over_row(tile, i, [&](float* at) {
      const Vector power = power_of_two(load(at) - offset);
      store(at, power);
      sum = fused(power, load(at + distance), sum);
      total += power;
    });
    rows[i] = sum;
    totals[i] = total;
  }
  for (int64_t i = tile.rows; i < kLanes; ++i) rows[i] = totals[i] = broadcast(1.0f);
  const auto add = [](Vector a, Vector b) { return a + b; };
  const Vector total = fold_rows(totals, add);
  float deltas[kLanes];
  float inverses[kLanes];
  store(deltas, fold_rows(rows, add) / total);
  store(inverses, 1.0f / total);
  for (int64_t i = 0; i < tile.rows; ++i) {
    const Vector delta = broadcast(deltas[i]);
    const Vector inverse = broadcast(inverses[i]);
    over_row(tile, i, [&](float* at) {
      const Vector probability = load(at) * inverse;
      store(at, probability);
      store(at + distance, probability * (load(at + distance) - delta));
    });
  }
}

int64_t aligned(int64_t floats) { return (floats + 15) / 16 * 16; }

// Hands out consecutive parts of the scratch.
struct Arena {
  float* next;
  float* take(int64_t floats) {
    float* part = next;
    next += aligned(floats);
    return part;
  }
};

int64_t forward_scratch(int64_t queries, int64_t keys, int64_t width) {
  const int64_t rows = smaller(queries, kMaxRows);
  return aligned(panelled(width, keys)) + aligned(panelled(keys, width)) +
         aligned(panelled(rows, keys)) + 2 * aligned(panelled(rows, width));
}

template <typename E>
void forward_unit(const AttentionForward& unit, float* scratch) {
  const int64_t queries = unit.query.count;
  const int64_t keys = unit.key.count;
  const int64_t width = unit.width;
  const int64_t most = smaller(queries, kMaxRows);
  Arena arena{scratch};
  float* key = arena.take(panelled(width, keys));
  float* value = arena.take(panelled(keys, width));
  float* scores = arena.take(panelled(most, keys));
  float* query = arena.take(panelled(most, width));
  float* out = arena.take(panelled(most, width));
  pack_transposed<E>(unit.key, width, key);
  pack<E>(unit.value, 0, keys, width, 1.0f, value);
  in_even_spans(queries, kMaxRows, [&](int64_t first, int64_t rows) {
    const int64_t panel = rows * kPanel;
    pack<E>(unit.query, first, rows, width, unit.scale * kLog2E, query);
    multiply<false>(
        rows, {{query, panel}, {key, width * kPanel}, keys, width, scores, panel, false});
    const TileRows tile{scores, panel, rows, keys};
    float lse[kLanes];
    float factors[kLanes];
    hide_padding(tile);
    softmax(tile, lse, factors);
    for (int64_t i = 0; i < rows; ++i) unit.lse[index_of(unit.out, first + i)] = lse[i];
    multiply<false>(
        rows, {{scores, panel}, {value, keys * kPanel}, width, keys, out, panel, false});
    unpack<E>(out, factors, first, rows, width, unit.out);
  });
}

// Rows of queries that the backward holds probabilities of at a time: what fits half of a
// second-level cache, but one register tile at least.
int64_t backward_rows(int64_t queries, int64_t keys) {
  constexpr int64_t kFloats = 96 * 1024;
  const int64_t fitting = kFloats / (2 * panels(keys) * kPanel);
  return smaller(queries, fitting < kMaxRows ? kMaxRows : fitting);
}

EvenSpans blocks_of(int64_t queries, int64_t keys) {
  return {queries, backward_rows(queries, keys)};
}

int64_t backward_blocks(int64_t queries, int64_t keys) { return blocks_of(queries, keys).count(); }

// What the backward holds of one block of queries.
struct Block {
  float *scores, *slopes, *query, *grad, *grad_query, *factors;

  Block(Arena& arena, int64_t rows, int64_t keys, int64_t width)
      : scores(arena.take(panelled(rows, keys))),
        slopes(arena.take(panelled(rows, keys))),
        query(arena.take(panelled(rows, width))),
        grad(arena.take(panelled(rows, width))),
        grad_query(arena.take(panelled(rows, width))),
        factors(arena.take(rows)) {}

  static int64_t floats(int64_t rows, int64_t keys, int64_t width) {
    return 2 * aligned(panelled(rows, keys)) + 3 * aligned(panelled(rows, width)) + aligned(rows);
  }
};

int64_t backward_scratch(int64_t queries, int64_t keys, int64_t width, int64_t blocks) {
  const int64_t rows = backward_rows(queries, keys);
  return 2 * aligned(panelled(width, keys)) + 3 * aligned(panelled(keys, width)) + aligned(keys) +
         blocks * Block::floats(rows, keys, width);
}

// The rows of panel `i` of c (keys, width) += left (rows, keys)^T right (rows, width).
inline void add_outer(int64_t i, const float* left, const float* right, int64_t rows, int64_t keys,
                      int64_t width, bool accumulate, float* c) {
  const int64_t panel = rows * kPanel;
  const int64_t column = i * kPanel;
  left += i * panel;
  in_even_spans(smaller(kPanel, keys - column), kMaxRows, [&](int64_t first, int64_t count) {
    multiply<true>(count, {{left + first, panel}, {right, panel}, width, rows,
                           c + (column + first) * kPanel, keys * kPanel, accumulate});
  });
}

// The keys and values of one sequence, packed for the products of the backward.
struct PackedKeys {
  const float *key_transposed, *value_transposed, *key;
};

// Probabilities and slopes of the block of `rows` queries from `first` on, and its query gradient.
template <typename E>
void differentiate_block(const AttentionBackward& unit, const PackedKeys& packed, int64_t first,
                         int64_t rows, const Block& block) {
  const int64_t keys = unit.key.count;
  const int64_t width = unit.width;
  const int64_t panel = rows * kPanel;
  pack<E>(unit.query, first, rows, width, unit.scale * kLog2E, block.query);
  pack<E>(unit.grad, first, rows, width, 1.0f, block.grad);
  in_even_spans(rows, kMaxRows, [&](int64_t start, int64_t count) {
    const int64_t at = start * kPanel;
    const auto times = [&](const float* left, const float* right, float* c) {
      multiply<false>(
          count, {{left + at, panel}, {right, width * kPanel}, keys, width, c + at, panel, false});
    };
    times(block.query, packed.key_transposed, block.scores);
    times(block.grad, packed.value_transposed, block.slopes);
    const TileRows tile{block.scores + at, panel, count, keys};
    float lse[kMaxRows];
    for (int64_t i = 0; i < count; ++i) {
      lse[i] = unit.lse[index_of(unit.grad, first + start + i)];
      block.factors[start + i] = unit.scale;
    }
    hide_padding(tile);
    differentiate(tile, block.slopes - block.scores, lse);
    multiply<false>(count, {{block.slopes + at, panel}, {packed.key, keys * kPanel}, width, keys,
                            block.grad_query + at, panel, false});
  });
  unpack<E>(block.grad_query, block.factors, first, rows, width, unit.grad_query);
}

template <typename E>
void backward_unit(const AttentionBackward& unit, float* scratch) {
  const int64_t keys = unit.key.count;
  const int64_t width = unit.width;
  const EvenSpans blocks = blocks_of(unit.query.count, keys);
  Arena arena{scratch};
  float* key_transposed = arena.take(panelled(width, keys));
  float* value_transposed = arena.take(panelled(width, keys));
  float* key = arena.take(panelled(keys, width));
  float* grad_key = arena.take(panelled(keys, width));
  float* grad_value = arena.take(panelled(keys, width));
  float* factors = arena.take(keys);
  pack_transposed<E>(unit.key, width, key_transposed);
  pack_transposed<E>(unit.value, width, value_transposed);
  pack<E>(unit.key, 0, keys, width, 1.0f, key);
  const PackedKeys packed{key_transposed, value_transposed, key};
  const int64_t floats = Block::floats(blocks.most, keys, width);
  const auto held = [&](int64_t i) {
    Arena part{arena.next + i * floats};
    return Block(part, blocks.most, keys, width);
  };
  for (int64_t first = 0; first < blocks.count(); first += unit.blocks) {
    const int64_t number = smaller(unit.blocks, blocks.count() - first);
    run_all(unit.run, number, [&](int64_t i) {
      blocks.visit(first + i, [&](int64_t start, int64_t rows) {
        differentiate_block<E>(unit, packed, start, rows, held(i));
      });
    });
    run_all(unit.run, panels(keys), [&](int64_t panel) {
      for (int64_t i = 0; i < number; ++i) {
        const Block block = held(i);
        blocks.visit(first + i, [&](int64_t start, int64_t rows) {
          add_outer(panel, block.scores, block.grad, rows, keys, width, start > 0, grad_value);
          add_outer(panel, block.slopes, block.query, rows, keys, width, start > 0, grad_key);
        });
      }
    });
  }
  for (int64_t i = 0; i < keys; ++i) factors[i] = 1.0f;
  unpack<E>(grad_value, factors, 0, keys, width, unit.grad_value);
  // The queries were packed with the scale and log2(e) in them.
  for (int64_t i = 0; i < keys; ++i) factors[i] = kLn2;
  unpack<E>(grad_key, factors, 0, keys, width, unit.grad_key);
}

void forward(const AttentionForward& unit, float* scratch) {
  switch (unit.element) {
    case Element::kFloat32:
      return forward_unit<Float32>(unit, scratch);
    case Element::kFloat16:
      return forward_unit<Float16>(unit, scratch);
    case Element::kBFloat16:
      return forward_unit<BFloat16>(unit, scratch);
  }
}

void backward(const AttentionBackward& unit, float* scratch) {
  switch (unit.element) {
    case Element::kFloat32:
      return backward_unit<Float32>(unit, scratch);
    case Element::kFloat16:
      return backward_unit<Float16>(unit, scratch);
    case Element::kBFloat16:
      return backward_unit<BFloat16>(unit, scratch);
  }
}

}  // namespace

const AttentionKernels VIREID_TABLE = {forward_scratch, backward_blocks, backward_scratch,
                                       forward, backward};

}  // namespace vireid_fast
