"""Commands of the pages that a stage of the continuous integration runs, or that need a GPU.

The pages' tests run every other command. Each entry names a file of this repository and a line
of it that runs the command; a test looks it up there.
"""

COMMANDS = {
    "make demo": (".ci/run", "make demo"),
    "make test": (".ci/run", "make test"),
    "make wheel": (".ci/run", "make wheel wheel-check"),
    # The steps of `make setup`, which begins every run of the integration.
    "python3 -m venv .venv": ("Makefile", "$(PYTHON) -m venv $(VENV)"),
    "pip install torch==2.13.0": ("Makefile", 'pip install --quiet $(TORCH_PIP) "$(TORCH)"'),
    "pip install setuptools>=80 wheel ninja pybind11>=2.13": (
        "Makefile", '"setuptools>=80" wheel ninja "pybind11>=2.13"',
    ),
    "pip install --no-build-isolation -e .": ("Makefile", "--no-build-isolation --editable"),
    # The environment of the tests has every extra.
    "pip install vireid_fast[onnx]": ("pyproject.toml", '"onnxscript>='),
    # Hours; the tests run the same runner with small cases.
    "make bench": ("tests/test_benchmark_runner.py", '"--quick"'),
    "make results": ("Makefile", "$(BIN)/python benchmarks/results.py"),
    "make bench PYTEST=-k attention": ("tests/test_benchmark_runner.py", '"--quick"'),
    "python -m pytest benchmarks --quick --device cpu": (
        "tests/test_benchmark_runner.py", '"--quick", "--device", "cpu"',
    ),
    # A GPU; its commands are parsed by `test_pages.py`.
    "benchmarks/gpu.sh": ("benchmarks/gpu.sh", 'part benchmarks 3000 "$python" benchmarks/run.py'),
}  # fmt: skip
