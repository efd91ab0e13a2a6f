"""Settings, modules and functions that the pages name exist."""

import dataclasses
import importlib
import re

import pages
import pytest

from vireid_fast.config import load_config, presets

PACKAGES = ("clip", "config", "data", "dropin", "engine", "losses", "models", "nn", "ops",
            "report", "retrieval")  # fmt: skip


def _keys(value: object, prefix: str = "") -> set[str]:
    found = set()
    for field in dataclasses.fields(value):
        key, inner = f"{prefix}{field.name}", getattr(value, field.name)
        found |= {key} | (_keys(inner, f"{key}.") if dataclasses.is_dataclass(inner) else set())
    return found


KEYS = set().union(*(_keys(load_config(name)) for name in presets()))
SECTIONS = {key.partition(".")[0] for key in KEYS}


def _exists(dotted: str) -> bool:
    """Whether a name below `vireid_fast` leads to something."""
    found, *rest = importlib.import_module("vireid_fast"), *dotted.split(".")
    for place, name in enumerate(rest):
        if not hasattr(found, name):
            try:
                importlib.import_module("vireid_fast." + ".".join(rest[: place + 1]))
            except ImportError:
                return False
        found = getattr(found, name)
    return True


@pytest.mark.parametrize("page", pages.PAGES)
def test_settings_and_names_exist(page):
    for written in re.findall(r"`([^`\n]+)`", pages.prose(page)):
        match = re.match(r"([a-z_0-9]+(?:\.\w+)+)(?:[=:( ].*)?$", written)
        if match is None or match[1].endswith((".py", ".md", ".npz", ".yaml", ".json", ".csv")):
            continue
        name = match[1]
        first = name.partition(".")[0]
        if first in SECTIONS or first in PACKAGES:
            assert name in KEYS or _exists(name), written
        elif first == "vireid_fast":
            assert _exists(name.removeprefix("vireid_fast.")), written
