// The device of the bindings of csrc/cuda, inside their namespace: the CPU, which has no streams.
#define VIREID_DEVICE CPU

class CurrentDevice {
 public:
  CurrentDevice(const char* op, std::initializer_list<const Tensor*> tensors) {
    for (const Tensor* tensor : tensors) {
      STD_TORCH_CHECK(tensor->is_cpu(), op, ": the emulation takes tensors of the CPU.");
    }
  }

  cudaStream_t stream() const { return nullptr; }
};
