"""docs/licences.md names every dependency, with the licence that its own metadata states."""

import ast
import re
import sys

import pytest
from build_tree import ROOT, requirement
from licences import DEPENDENCIES, PAGE, declared_licences, groups, identifiers, page

# Where the module has another name than the distribution.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}


def _named(*names: str) -> set[str]:
    return {requirement(text)[0] for name in names for text in groups()[name]}


def test_every_dependency_is_in_the_table_and_none_else():
    assert set(DEPENDENCIES) == _named(*groups())


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: make licences"
    rows = re.findall(r"^\| ([\w-]*\w) \|", page(), re.MULTILINE)
    assert set(rows) - {"package"} == set(DEPENDENCIES)


@pytest.mark.parametrize("name", sorted(DEPENDENCIES))
def test_the_licence_is_what_the_package_states(name):
    stated = declared_licences(name)
    if stated is None:
        pytest.skip("not installed, or its metadata names no licence")
    assert stated <= identifiers(DEPENDENCIES[name][0])


def test_what_the_package_imports_is_declared():
    imported = set()
    for path in ROOT.glob("vireid_fast/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    imported -= set(sys.stdlib_module_names) | {"vireid_fast"}
    imported = {DISTRIBUTIONS.get(name, name) for name in imported}
    users = [name for name in groups() if name not in ("dev", "benchmarks")]
    assert imported <= _named(*users)
    assert _named("required") <= imported
