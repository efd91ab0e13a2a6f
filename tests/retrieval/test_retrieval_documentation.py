"""The examples of docs/retrieval.md run, and its tables name functions that exist."""

import re
from pathlib import Path

import numpy as np

from vireid_fast import retrieval

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "retrieval.md").read_text(encoding="utf-8")


def test_examples_run():
    generator = np.random.default_rng(0)
    pids = np.arange(60) % 12
    features = generator.normal(size=(12, 8))[pids] + 0.3 * generator.normal(size=(60, 8))
    names = {
        "qf": features[:20].astype(np.float32), "gf": features[20:].astype(np.float32),
        "q_pids": pids[:20], "g_pids": pids[20:],
        "q_camids": np.full(20, 3), "g_camids": np.full(40, 1),
    }  # fmt: skip
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        exec(compile(example, "retrieval.md", "exec"), names)
    assert names["distmat"].shape == names["distances"].shape == (20, 40)
    assert names["first"].shape == (16, 40)
    assert [trial.shape for trial in names["trials"]] == [(20, 20), (20, 20)]
    assert 0.5 < names["mAP"] <= 1 and 0.3 < names["mINP"] <= 1


def test_tables_name_public_functions():
    named = re.findall(r"^\| `(\w+)", PAGE, re.MULTILINE)
    assert len(named) >= 12
    for name in named:
        assert name in retrieval.__all__ and getattr(retrieval, name).__doc__, name
