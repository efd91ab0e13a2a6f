# `make demo` and `make test` set everything up on a fresh machine (python3 with venv, g++).

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# Further arguments of pip for torch alone, such as --index-url of a CPU-only index.
TORCH_PIP ?=
BIN := $(VENV)/bin
NATIVE := setup.py pyproject.toml $(wildcard csrc/*.* csrc/*/*.*)

.PHONY: setup demo test bench lint kernels-check results clean

setup: $(VENV)/.built

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "setuptools>=80" wheel
	$(BIN)/pip install --quiet $(TORCH_PIP) "$(TORCH)"
	touch $@

$(VENV)/.built: $(VENV)/.torch $(NATIVE)
	$(BIN)/pip install --quiet "setuptools>=80" wheel ninja "pybind11>=2.13"
	$(BIN)/pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/vireid demo $(DEMO)

test: setup
	$(BIN)/ruff check .
	$(BIN)/python -m pytest $(PYTEST)

lint: setup
	$(BIN)/ruff check .

kernels-check: setup
	$(BIN)/python tests/kernels_check.py

bench: setup
	$(BIN)/python benchmarks/run.py $(PYTEST); status=$$?; \
	$(BIN)/python benchmarks/report.py && exit $$status

results: setup
	$(BIN)/python benchmarks/results.py

clean:
	rm -rf build *.egg-info vireid_fast/*.so
