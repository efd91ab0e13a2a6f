"""Writes docs/licences.md: every dependency that pyproject.toml names, its licence, and its use.

python tests/packaging/licences.py

Ranges come from pyproject.toml, licences and uses from the table below; tests hold the table
against pyproject.toml and against the metadata of the packages that are installed.
"""

import re
from importlib.metadata import PackageNotFoundError, metadata

from build_tree import ROOT, project, requirement

PAGE = ROOT / "docs" / "licences.md"

# Name -> licence (SPDX) and what it is for.
DEPENDENCIES = {
    "torch": (
        "Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND BSD-2-Clause AND BSD-3-Clause AND "
        "BSL-1.0 AND MIT", "tensors, autograd, the stable C++ interface of the kernels"),
    "numpy": ("BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0", "arrays, feature files"),
    "scipy": ("BSD-3-Clause", "drawing synthetic people"),
    "safetensors": ("Apache-2.0", "weights and feature files that cannot run code"),
    "pillow": ("MIT-CMU", "reading and drawing images"),
    "pyyaml": ("MIT", "configurations"),
    "typer": ("MIT", "the command line"),
    "rich": ("MIT", "tables and progress in the terminal"),
    "jinja2": ("BSD-3-Clause", "the pages of reports"),
    "markupsafe": ("BSD-3-Clause", "text in these pages is escaped"),
    "triton": ("MIT", "GPU kernels written in Triton"),
    "tensorboard": ("Apache-2.0", "training curves in TensorBoard"),
    "tokenizers": ("Apache-2.0", "text for CLIP models in Hugging Face's form"),
    "pyarrow": ("Apache-2.0", "manifests in Parquet"),
    "onnx": ("Apache-2.0", "`vireid export`"),
    "onnxruntime": ("MIT", "its parity check"),
    "onnxscript": ("MIT", "torch's ONNX exporter needs it"),
    "scikit-learn": ("BSD-3-Clause", "t-SNE map of a report"),
    "xformers": ("BSD-3-Clause", "attention of xFormers as a backend on a GPU"),
    "faiss-cpu": ("MIT", "peer of the neighbour search in benchmarks"),
    "torchmetrics": ("Apache-2.0", "peer of the metrics in benchmarks"),
    "pytest": ("MIT", "tests"),
    "pytest-benchmark": ("BSD-2-Clause", "benchmarks"),
    "pytest-timeout": ("MIT", "a test that hangs fails"),
    "pytest-xdist": ("MIT", "tests in several processes"),
    "hypothesis": ("MPL-2.0", "tests with drawn inputs"),
    "ruff": ("MIT", "style"),
    "selenium": ("Apache-2.0", "tests of the pages in a browser"),
    "h5py": ("BSD-3-Clause", "feature files in HDF5"),
    "transformers": ("Apache-2.0", "tests: Hugging Face's CLIP as the reference"),
    "mypy": ("MIT", "type hints"),
    "types-pyyaml": ("Apache-2.0", "type hints of PyYAML"),
    "build": ("MIT", "`make wheel`"),
    "abi3audit": ("MIT", "audit of the wheel's stable interface"),
    "setuptools": ("MIT", "builds the package"),
    "wheel": ("MIT", "builds the package"),
    "ninja": ("Apache-2.0", "compiles in parallel"),
    "pybind11": ("BSD-3-Clause", "host-side helpers in C++; its headers are compiled in"),
}  # fmt: skip

_CLASSIFIERS = {
    "MIT License": "MIT", "BSD License": "BSD-3-Clause", "Apache Software License": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}  # fmt: skip


def groups() -> dict[str, list[str]]:
    """Requirements of pyproject.toml by what they are needed for, in its order."""
    declared = project()
    return {"required": declared["dependencies"], **declared["optional-dependencies"]}


def declared_licences(name: str) -> set[str] | None:
    """SPDX identifiers in the metadata of an installed package.

    None if it is not installed or states its licence in words alone.
    """
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return None
    if found.get("License-Expression"):
        return identifiers(found["License-Expression"])
    kinds = [c.rsplit(" :: ", 1)[1] for c in found.get_all("Classifier") or [] if "License ::" in c]
    return {_CLASSIFIERS[kind] for kind in kinds if kind in _CLASSIFIERS} or None


def identifiers(expression: str) -> set[str]:
    """Licences of an SPDX expression, exceptions kept with theirs."""
    return {part.strip("() ") for part in re.split(r" (?:AND|OR) ", expression)}


def page() -> str:
    """The text of docs/licences.md."""
    lines = [
        "# Licences of what this package uses",
        "",
        "vireid_fast is under the MIT licence and contains no code of others. Installing it brings",
        "the required packages; others come with an extra (`vireid_fast[onnx]`). What all of these",
        "depend on themselves is not listed.",
        "",
        "Written by `make licences`; tests hold it against pyproject.toml and what is installed.",
    ]
    for group, requirements in groups().items():
        title = "Required" if group == "required" else f"Extra `{group}`"
        lines += ["", f"## {title}", "", "| package | versions | licence | for |",
                  "| --- | --- | --- | --- |"]  # fmt: skip
        for name, versions in map(requirement, requirements):
            licence, use = DEPENDENCIES[name]
            lines.append(f"| {name} | {versions} | {licence} | {use} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
