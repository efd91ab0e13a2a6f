// One fault for each sanitizer, to see that it would be found.
#include <cstdint>
#include <limits>

extern "C" {

int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain,
                           void (*run)(int64_t, int64_t, void*), void* context);

[[gnu::no_sanitize("undefined")]] int overflow_heap(int index) {
  int* values = new int[4];
  const int value = values[index];
  delete[] values;
  return value;
}

int overflow_integer(int value) { return value + std::numeric_limits<int>::max(); }

#ifdef WITH_THREADS
int race(int) {
  int64_t sum = 0;
  torch_parallel_for(0, 1000, 1, [](int64_t begin, int64_t end, void* context) {
    *static_cast<int64_t*>(context) += end - begin;
  }, &sum);
  return static_cast<int>(sum);
}
#endif

}  // extern "C"
