// The instructions that csrc/cuda/device.cuh writes in assembly, inside its namespace.

inline unsigned char* dynamic_shared() { return emulation::block->shared.data(); }

// Nothing is copied before it is waited for.
inline std::deque<std::vector<emulation::Copy>>& pending_copies() {
  return emulation::block->fibers[emulation::block->current].copies;
}

inline void copy_async(void* shared, const void* global, bool valid) {
  pending_copies().back().push_back({shared, valid ? global : nullptr});
}

inline void copy_async_commit() { pending_copies().push_back({}); }

template <int kPending>
void copy_async_wait() {
  auto& groups = pending_copies();
  while (groups.size() > kPending + 1) {
    for (const emulation::Copy& copy : groups.front()) {
      if (copy.source != nullptr) {
        std::memcpy(copy.target, copy.source, 16);
      } else {
        std::memset(copy.target, 0, 16);
      }
    }
    groups.pop_front();
  }
}

inline void load_matrices(uint32_t (&values)[4], const void* row) {
  const uint64_t mine[4] = {reinterpret_cast<uint64_t>(row)};
  uint64_t result[4];
  emulation::exchange_values(kWholeWarp, mine, result, [](emulation::Exchange& exchange) {
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        const uint64_t address = exchange.values[matrix * 8 + lane / 4][0];
        uint32_t pair;
        std::memcpy(&pair, reinterpret_cast<const char*>(address) + lane % 4 * 4, 4);
        exchange.results[lane][matrix] = pair;
      }
    }
  });
  for (int matrix = 0; matrix < 4; ++matrix) values[matrix] = static_cast<uint32_t>(result[matrix]);
}

inline float emulated_bfloat16(uint32_t pair, int half) {
  return emulation::value_of<float>(half ? pair & 0xffff0000u : uint64_t{pair} << 16 & 0xffffffffu);
}

// Rounds towards zero after every product, as the hardware at its worst.
inline float emulated_truncated_sum(float sum, double product) {
  const double exact = static_cast<double>(sum) + product;
  const float nearest = static_cast<float>(exact);
  return std::fabs(nearest) > std::fabs(exact) ? std::nextafter(nearest, 0.0f) : nearest;
}

inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  uint64_t mine[4] = {uint64_t{a[0]} << 32 | a[1], uint64_t{a[2]} << 32 | a[3],
                      uint64_t{b[0]} << 32 | b[1], 0};
  uint64_t result[4];
  emulation::exchange_values(kWholeWarp, mine, result, [](emulation::Exchange& exchange) {
    static float left[16][16], right[16][8];
    for (int lane = 0; lane < kWarp; ++lane) {
      const int group = lane / 4;
      const int column = lane % 4 * 2;
      const auto& value = exchange.values[lane];
      const uint32_t fragment[6] = {
          static_cast<uint32_t>(value[0] >> 32), static_cast<uint32_t>(value[0]),
          static_cast<uint32_t>(value[1] >> 32), static_cast<uint32_t>(value[1]),
          static_cast<uint32_t>(value[2] >> 32), static_cast<uint32_t>(value[2])};
      for (int half = 0; half < 2; ++half) {
        left[group][column + half] = emulated_bfloat16(fragment[0], half);
        left[group + 8][column + half] = emulated_bfloat16(fragment[1], half);
        left[group][column + 8 + half] = emulated_bfloat16(fragment[2], half);
        left[group + 8][column + 8 + half] = emulated_bfloat16(fragment[3], half);
        right[column + half][group] = emulated_bfloat16(fragment[4], half);
        right[column + 8 + half][group] = emulated_bfloat16(fragment[5], half);
      }
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + (i / 2) * 8;
        const int column = lane % 4 * 2 + i % 2;
        double products[16];
        for (int d = 0; d < 16; ++d) {
          products[d] = static_cast<double>(left[row][d]) * right[d][column];
        }
        float total = 0;
        for (const double product : products) total = emulated_truncated_sum(total, product);
        exchange.results[lane][i] = emulation::bits_of(total);
      }
    }
  });
  for (int i = 0; i < 4; ++i) {
    sums[i] = emulated_truncated_sum(sums[i], emulation::value_of<float>(result[i]));
  }
}
