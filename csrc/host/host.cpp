// The module _host: work on the host that is no tensor op. Knows numpy, not torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "../isa.h"

namespace py = pybind11;

namespace vireid_fast {
namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#else
constexpr const char* kCompiler = "g++ " __VERSION__;
#endif

// No forcecast: labels of another kind must not be truncated to integers.
using Int64Array = py::array_t<int64_t, py::array::c_style>;

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (int i = 0; i <= static_cast<int>(widest_instruction_set()); ++i) {
    names.emplace_back(kInstructionSetNames[i]);
  }
  return names;
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = kCompiler;
  info["cpp_standard"] = static_cast<int64_t>(__cplusplus);
  info["torch"] = VIREID_BUILD_TORCH;
  info["cuda"] = std::string(VIREID_BUILD_CUDA) != "";
  info["cuda_version"] = VIREID_BUILD_CUDA;
  info["cuda_architectures"] = VIREID_CUDA_ARCHITECTURES;
  return info;
}

void check_labels(const int64_t* labels, int64_t count, int64_t segments) {
  for (int64_t i = 0; i < count; ++i) {
    if (labels[i] < 0 || labels[i] >= segments) {
      throw py::value_error("segment_plan: labels must be in [0, " + std::to_string(segments) +
                            "), got " + std::to_string(labels[i]) + " at position " +
                            std::to_string(i) + ".");
    }
  }
}

// Stable counting sort: the members of segment s are order[offsets[s]:offsets[s + 1]].
py::tuple segment_plan(const Int64Array& labels, int64_t segments) {
  if (labels.ndim() != 1) {
    throw py::value_error("segment_plan: labels must have 1 dimension, got " +
                          std::to_string(labels.ndim()) + ".");
  }
  if (segments < 0) {
    throw py::value_error("segment_plan: segments must be >= 0, got " + std::to_string(segments) +
                          ".");
  }
  const int64_t count = labels.size();
  py::array_t<int64_t> order(count);
  py::array_t<int64_t> offsets(segments + 1);
  const int64_t* label = labels.data();
  int64_t* position = order.mutable_data();
  int64_t* offset = offsets.mutable_data();
  {
    py::gil_scoped_release release;
    check_labels(label, count, segments);
    for (int64_t s = 0; s <= segments; ++s) offset[s] = 0;
    for (int64_t i = 0; i < count; ++i) ++offset[label[i] + 1];
    for (int64_t s = 0; s < segments; ++s) offset[s + 1] += offset[s];
    std::vector<int64_t> next(offset, offset + segments);
    for (int64_t i = 0; i < count; ++i) position[next[label[i]]++] = i;
  }
  return py::make_tuple(order, offsets);
}

}  // namespace
}  // namespace vireid_fast

PYBIND11_MODULE(_host, m) {
  m.doc() = "Host-side work of vireid_fast that is no tensor op.";
  m.def("instruction_sets", &vireid_fast::instruction_sets,
        "Instruction sets that this machine and this build have, narrowest first.");
  m.def("build_info", &vireid_fast::build_info, "What the extensions were built with.");
  m.def("segment_plan", &vireid_fast::segment_plan, py::arg("labels"), py::arg("segments"),
        "Stable counting sort of labels (n,) int64 in [0, segments): returns order (n,) and\n"
        "offsets (segments + 1,); segment s is order[offsets[s]:offsets[s + 1]].");
}
