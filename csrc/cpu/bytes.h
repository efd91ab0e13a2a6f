// Copying and clearing bytes, of which there may be none.
#pragma once

#include <cstdint>
#include <cstring>

namespace vireid_fast {

// An empty tensor has a null pointer, which memcpy and memset may not be given even for no bytes.
inline void copy_bytes(void* target, const void* source, int64_t count) {
  if (count > 0) std::memcpy(target, source, static_cast<size_t>(count));
}

inline void clear_bytes(void* target, int64_t count) {
  if (count > 0) std::memset(target, 0, static_cast<size_t>(count));
}

}  // namespace vireid_fast
