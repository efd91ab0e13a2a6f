# `make demo` and `make test` set everything up on a fresh machine (python3 with venv, g++).

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# Further arguments of pip for torch alone, such as --index-url of a CPU-only index.
TORCH_PIP ?=
# Tests run in so many processes of one thread each; a file of tests stays in one process.
JOBS ?= 2
BIN := $(VENV)/bin
NATIVE := setup.py pyproject.toml $(wildcard csrc/*.* csrc/*/*.*)

.PHONY: help setup demo test faults sanitize lint types kernels-check wheel wheel-check licences \
	bench results clean

help:  ## Say what each target does.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1|/' | \
	while IFS='|' read -r name text; do printf '%-16s%s\n' "$$name" "$$text"; done

setup: $(VENV)/.built  ## Make a virtual environment with torch, everything for development, and the kernels.

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "setuptools>=80" wheel
	$(BIN)/pip install --quiet $(TORCH_PIP) "$(TORCH)"
	touch $@

$(VENV)/.built: $(VENV)/.torch $(NATIVE)
	$(BIN)/pip install --quiet "setuptools>=80" wheel ninja "pybind11>=2.13"
	$(BIN)/pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $@

demo: setup  ## Draw people, train a small CSDN, evaluate it (DEMO= further arguments).
	$(BIN)/vireid demo $(DEMO)

test: setup  ## All tests, faults in their short form (PYTEST= further arguments, or which tests).
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST)

faults: setup  ## The whole fault suite (kills, full disks, mutated files, ...) and its counts.
	$(BIN)/python tests/faults/run.py $(PYTEST)

sanitize: setup  ## Native code under AddressSanitizer, UndefinedBehaviorSanitizer, ThreadSanitizer.
	$(BIN)/python tests/sanitizers/run.py address
	$(BIN)/python tests/sanitizers/run.py undefined
	$(BIN)/python tests/sanitizers/run.py thread

lint: setup  ## Style of all Python files.
	$(BIN)/ruff check .

types: setup  ## Type hints of the package, and of a user's script against the public names.
	$(BIN)/mypy

kernels-check: setup  ## Compile every GPU kernel and hold it to its budget (nvcc, triton).
	$(BIN)/python tests/kernels_check.py

wheel: setup  ## Build the sdist and, from it, the wheel, into dist/.
	rm -rf dist
	$(BIN)/python -m build --no-isolation

wheel-check: setup  ## Audit dist/ and use the wheel in a clean environment.
	$(BIN)/python -m pytest tests/packaging --artifacts dist --torch "$(TORCH_PIP) $(TORCH)" $(PYTEST)

licences: setup  ## Write docs/licences.md anew from pyproject.toml and what is installed.
	$(BIN)/python tests/packaging/licences.py

bench: setup  ## Measure everything, then write the tables into README and docs/performance.md.
	$(BIN)/python benchmarks/run.py $(PYTEST); status=$$?; \
	$(BIN)/python benchmarks/report.py && exit $$status

results: setup  ## Train and judge what docs/results.md shows.
	$(BIN)/python benchmarks/results.py

clean:  ## Remove what was built; the environment stays.
	rm -rf build dist *.egg-info vireid_fast/*.so
