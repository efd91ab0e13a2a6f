// PyInit__C: importing the module registers the CPU kernels; its methods name and limit what
// they choose at run time. CPython's limited API only, so that one binary serves every Python >= 3.10.
#include <Python.h>

#include <cstring>
#include <string>

#include "cpu/kernels.h"
#include "cpu/neighbour_filter.h"

namespace {

using vireid_fast::InstructionSet;

PyObject* instruction_set(PyObject*, PyObject*) {
  return PyUnicode_FromString(vireid_fast::name_of(vireid_fast::instruction_set()));
}

// Position of the string `argument` among `names`; -1, with a Python error set, if it is not there.
int index_of(const char* method, PyObject* argument, const char* const* names, int count) {
  PyObject* encoded = PyUnicode_AsUTF8String(argument);
  if (encoded == nullptr) return -1;
  const char* name = PyBytes_AsString(encoded);
  int found = -1;
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(name, names[i]) == 0) found = i;
  }
  Py_DecRef(encoded);
  if (found >= 0) return found;
  std::string known = names[0];
  for (int i = 1; i < count; ++i) known.append(", ").append(names[i]);
  PyErr_Format(PyExc_ValueError, "%s: name must be one of %s, got %R.", method, known.c_str(),
               argument);
  return -1;
}

PyObject* limit_instruction_set(PyObject*, PyObject* argument) {
  const int found = index_of("limit_instruction_set", argument, vireid_fast::kInstructionSetNames,
                             vireid_fast::kInstructionSetCount);
  if (found < 0) return nullptr;
  vireid_fast::limit_instruction_set(static_cast<InstructionSet>(found));
  return Py_NewRef(Py_None);
}

PyObject* set_search_plan(PyObject*, PyObject* argument) {
  const int found = index_of("set_search_plan", argument, vireid_fast::kSearchPlanNames,
                             vireid_fast::kSearchPlanCount);
  if (found < 0) return nullptr;
  vireid_fast::set_search_plan(static_cast<vireid_fast::SearchPlan>(found));
  return Py_NewRef(Py_None);
}

PyMethodDef methods[] = {
    {"instruction_set", instruction_set, METH_NOARGS, "Name of the instruction set in use."},
    {"limit_instruction_set", limit_instruction_set, METH_O,
     "Use the named instruction set or a narrower one."},
    {"set_search_plan", set_search_plan, METH_O, "How neighbour searches go about it."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods,
                      nullptr,               nullptr, nullptr, nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() {
  return PyModule_Create(&module);
}
