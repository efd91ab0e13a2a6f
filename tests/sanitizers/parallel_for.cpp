// torch's parallel loop with threads that ThreadSanitizer sees, preloaded in front of torch's own:
// those of OpenMP wait for each other by futexes, which it does not know.
#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace {

constexpr uint32_t kThreads = 4;
thread_local uint32_t index_of_thread = 0;
thread_local bool in_parallel_region = false;

}  // namespace

extern "C" {

int32_t torch_get_num_threads(uint32_t* count) {
  *count = kThreads;
  return 0;
}

int32_t torch_get_thread_idx(uint32_t* index) {
  *index = index_of_thread;
  return 0;
}

// As at::parallel_for: at most kThreads equal parts of at least `grain`; serial within a part.
int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain,
                           void (*run)(int64_t, int64_t, void*), void* context) {
  if (begin >= end) return 0;
  const int64_t count = end - begin;
  const int64_t most = (count + std::max<int64_t>(grain, 1) - 1) / std::max<int64_t>(grain, 1);
  const int64_t parts = std::min<int64_t>(kThreads, most);
  if (in_parallel_region || parts < 2) {
    run(begin, end, context);
    return 0;
  }
  const int64_t part = (count + parts - 1) / parts;
  std::vector<std::exception_ptr> errors(parts);
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < parts; ++i) {
    threads.emplace_back([&, i] {
      index_of_thread = static_cast<uint32_t>(i);
      in_parallel_region = true;
      const int64_t first = begin + i * part;
      try {
        if (first < end) run(first, std::min(end, first + part), context);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  return 0;
}

}  // extern "C"
