"""`vireid eval` of two files by several processes."""

import json
import os

import numpy as np
import pytest
import torch
from processes import run_like_torchrun
from typer.testing import CliRunner

from vireid_fast.cli import app
from vireid_fast.data.feature_files import write_features

SETTINGS = {
    "plain": ("--protocol", "market1501"),
    "cosine": ("--protocol", "llcm/paper", "--metric", "cosine"),
    "re-ranked": ("--protocol", "llcm/paper", "--metric", "cosine", "--rerank", "5,3,0.3"),
}


def _eval(folder, settings):
    outputs = {}
    for attempt, name in enumerate(settings):
        # A place in torchrun's store is used once; each command has its own, as after a restart.
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(attempt)
        files = ("--query", folder / "query.npz", "--gallery", folder / "gallery.npz")
        result = CliRunner().invoke(
            app, ["eval", *map(str, files), *SETTINGS[name], "--json", str(folder / f"{name}.json")]
        )
        outputs[name] = result.output
        if result.exception is not None:
            raise result.exception
    return outputs


@pytest.fixture
def folder(tmp_path):
    generator = torch.Generator().manual_seed(0)
    ids = np.arange(40) % 5
    features = torch.randn(40, 6, generator=generator).numpy() + 2 * np.eye(5, 6)[ids]
    for name, rows in (("query", slice(0, 9)), ("gallery", slice(9, 40))):
        arrays = {"features": features[rows], "person_ids": ids[rows],
                  "camera_ids": np.arange(40)[rows] % 4 + 1}  # fmt: skip
        write_features(tmp_path / f"{name}.npz", arrays)
    return tmp_path


def test_the_numbers_are_those_of_one_process_and_the_first_one_tells_them(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    _eval(folder, SETTINGS)
    expected = {name: (folder / f"{name}.json").read_text() for name in SETTINGS}
    for name in SETTINGS:
        (folder / f"{name}.json").unlink()
    first, second = run_like_torchrun(_eval, 2, tmp_path / "results", folder, list(SETTINGS))
    for name, text in expected.items():
        assert json.loads((folder / f"{name}.json").read_text()) == json.loads(text)
        assert "mAP" in first[name] and second[name] == ""
