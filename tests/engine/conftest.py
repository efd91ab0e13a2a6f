"""A tiny synthetic data set and a configuration that trains on it in seconds."""

from pathlib import Path

import pytest
from method_cases import write_tiny_sets

from vireid_fast.config import Config, load_config
from vireid_fast.data.synthetic import write_sysu_layout

TINY = (
    "data.height=64", "data.width=32", "sampler.identities=2", "sampler.instances=2",
    "csdn.prompts.epochs=2", "csdn.fusion.epochs=2", "csdn.visual.epochs=2",
    "evaluation.rerank=[4, 2, 0.3]", "pretrain.epochs=2", "pretrain.steps=2",
    "pretrain.identities=6", "pretrain.captioned_per_batch=4", "threads=1",
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny") / "data"
    write_sysu_layout(
        root, identities=12, views=2, size=(64, 32), splits=(0.5, 0.25, 0.25), seed=3
    )
    return root


@pytest.fixture(scope="session")
def tiny_config(tiny_root: Path) -> Config:
    return load_config("csdn/sysu_mm01_small", [f"data.root={tiny_root}", *TINY])


@pytest.fixture(scope="session")
def tiny_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sets of `method_cases`."""
    return write_tiny_sets(tmp_path_factory.mktemp("sets"))
