// PyInit__C: importing the module registers the CPU kernels; its two methods name and limit the
// instruction set. CPython's limited API only, so that one binary serves every Python >= 3.10.
#include <Python.h>

#include <cstring>

#include "cpu/kernels.h"

namespace {

using vireid_fast::InstructionSet;

PyObject* instruction_set(PyObject*, PyObject*) {
  return PyUnicode_FromString(vireid_fast::name_of(vireid_fast::instruction_set()));
}

PyObject* limit_instruction_set(PyObject*, PyObject* argument) {
  PyObject* encoded = PyUnicode_AsUTF8String(argument);
  if (encoded == nullptr) return nullptr;
  const char* name = PyBytes_AsString(encoded);
  int found = -1;
  for (int i = 0; i < vireid_fast::kInstructionSetCount; ++i) {
    if (std::strcmp(name, vireid_fast::kInstructionSetNames[i]) == 0) found = i;
  }
  Py_DecRef(encoded);
  if (found < 0) {
    return PyErr_Format(PyExc_ValueError,
                        "limit_instruction_set: name must be \"baseline\", \"avx2\" or "
                        "\"avx512\", got %R.",
                        argument);
  }
  vireid_fast::limit_instruction_set(static_cast<InstructionSet>(found));
  return Py_NewRef(Py_None);
}

PyMethodDef methods[] = {
    {"instruction_set", instruction_set, METH_NOARGS, "Name of the instruction set in use."},
    {"limit_instruction_set", limit_instruction_set, METH_O,
     "Use the named instruction set or a narrower one."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods,
                      nullptr,               nullptr, nullptr, nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() {
  return PyModule_Create(&module);
}
