"""The examples of docs/large_galleries.md run, with one and with two processes."""

import contextlib
import io
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run_like_torchrun
from torch.distributed.run import get_args_parser

from vireid_fast.retrieval import (
    OutsideNeighbors,
    RerankedRows,
    evaluate_rows,
    rerank_sharded,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "large_galleries.md"
# The first one is a script, which tests/docs runs.
_, *EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def _run(code, names):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, PAGE.name, "exec"), names)
    return output.getvalue()


def _script(folder):
    os.chdir(folder)
    return _run(EXAMPLES[1], {})


@pytest.fixture
def gallery(tmp_path, monkeypatch):
    """Files as the examples name them, in the current folder; and their contents."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    ids = np.arange(400) % 25
    features = generator.standard_normal((25, 16))[ids] + 0.7 * generator.standard_normal((400, 16))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    cameras = np.arange(400) % 6 + 1
    np.save("query.npy", features[:50])
    np.save("gallery.npy", features[50:])
    labels = {
        "query_ids": ids[:50], "gallery_ids": ids[50:],
        "query_cameras": cameras[:50], "gallery_cameras": cameras[50:],
    }  # fmt: skip
    np.savez("labels.npz", **labels)
    names = {name: torch.from_numpy(values) for name, values in labels.items()}
    return {"query": features[:50], "gallery": features[50:], **names}


def _expected(gallery):
    rows = RerankedRows(gallery["query"], gallery["gallery"], 20, 6, 0.3)
    names = ("query_ids", "gallery_ids", "query_cameras", "gallery_cameras")
    return evaluate_rows(rows, *(gallery[name] for name in names), "market1501")


def test_a_memory_mapped_file(gallery):
    names = {}
    expected = _expected(gallery)
    assert _run(EXAMPLES[0], names) == f"{expected.R1} {expected.mAP}\n"
    assert names["nearest"].indices.shape == (50, 10)
    assert 0.5 < names["plain"].mAP < 1


def test_a_script_for_torchrun(gallery, tmp_path):
    expected = _expected(gallery)
    printed = run_like_torchrun(_script, 2, tmp_path / "results", tmp_path)
    assert printed == [f"{expected.R1} {expected.mAP}\n", ""]


def test_torchrun_takes_the_documented_commands():
    commands = re.findall(r"^torchrun (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    script, module = (get_args_parser().parse_args(shlex.split(each)) for each in commands)
    assert script.training_script == EXAMPLES[1].splitlines()[0].removeprefix("# ")
    assert module.module and module.training_script == "vireid_fast"
    assert module.training_script_args[0] == "eval" and "--rerank" in module.training_script_args


def test_neighbours_of_faiss(gallery):
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    printed = _run(EXAMPLES[2], gallery)
    recall, approximate, exact = map(float, re.findall(r"[\d.]+", printed))
    # The lists of so few items are nearly complete.
    assert 0.9 < recall <= 1 and abs(approximate - exact) < 0.01
    assert exact == pytest.approx(_expected(gallery).mAP, abs=1e-4)
    names = gallery | {"gallery_shard": gallery["gallery"]}
    names |= {"OutsideNeighbors": OutsideNeighbors, "rerank_sharded": rerank_sharded}
    _run(EXAMPLES[3], names)
    assert torch.equal(names["ranked"].gather(), names["approximate"].block(0, 50))
