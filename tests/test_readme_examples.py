"""The Python examples of README.md run and do what they say."""

import contextlib
import importlib.util
import io
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from vireid_fast import attention_plan, cross_modal_attention, nn
from vireid_fast.testing import make_features

ROOT = Path(__file__).resolve().parents[1]
# What needs a run is run by tests/docs.
EXAMPLES = [
    text
    for text in re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    if "from_pretrained" not in text
]


@pytest.fixture(scope="module")
def foreign() -> ModuleType:
    """The models that a user would bring."""
    path = ROOT / "tests" / "dropin" / "foreign_models.py"
    spec = importlib.util.spec_from_file_location("readme_foreign_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(code: str, names: dict[str, Any]) -> str:
    """Run an example on the given names; returns what it prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "README.md", "exec"), names)
    return output.getvalue()


def test_every_example_is_tested():
    assert len(EXAMPLES) == 2


def test_retrieval():
    persons = torch.arange(6).repeat_interleave(12)
    # Two images an identity and camera.
    cameras = torch.arange(1, 7).repeat_interleave(2).repeat(6)
    features = make_features(len(persons), 16) + 3 * make_features(6, 16, seed=1)[persons]
    names = {
        "query_features": features[:20], "gallery_features": features[20:],
        "features": features, "person_ids": persons, "camera_ids": cameras,
    }  # fmt: skip
    rank1, mean_precision, spread = map(float, _run(EXAMPLES[0], names).split())
    assert names["distances"].shape == (20, 52)
    assert 0.5 < rank1 <= 1 and 0.5 < mean_precision <= 1 and 0 <= spread < 0.5


def test_fast_layers(foreign):
    torch.manual_seed(0)
    clip_model = foreign.CLIP().requires_grad_(False)
    ids = torch.tensor(foreign.TEMPLATE)
    embedded = clip_model.token_embedding(ids)
    learner = nn.PromptLearner(embedded, clip_model.positional_embedding[: len(ids)], 5, 5, 4)
    labels = torch.tensor([3, 0, 3])
    query, key, value = make_features(3 * 381 * 2, 32).view(3, 381, 2, 32)
    names = {
        "model": foreign.ReIdModel(), "clip_model": clip_model, "learner": learner,
        "labels": labels, "token_ids": foreign.make_ids(4),
        "visible": torch.randn(2, 9, 768), "infrared": torch.randn(2, 5, 768),
        "query": query, "key": key, "value": value,
    }  # fmt: skip
    printed = _run(EXAMPLES[1], names)

    assert len(re.findall("^replaced", printed, re.MULTILINE)) >= 3
    assert printed.endswith(attention_plan((4, 12, 163, 64), "float32", "cpu").reason + "\n")
    plain = foreign.TextEncoder(clip_model)
    without_positions = learner(labels) - learner.positions
    padded = torch.nn.functional.pad(without_positions, (0, 0, 0, foreign.CONTEXT - len(ids)))
    torch.testing.assert_close(names["texts"], plain(padded, ids.expand(3, -1)))
    found = names["encoder"].encode_tokens(names["token_ids"])
    torch.testing.assert_close(found, clip_model.encode_text(names["token_ids"]))
    assert names["visible"].shape == (2, 9, 768) and names["infrared"].shape == (2, 5, 768)
    expected = cross_modal_attention(query, key, value, names["index"], backend="reference")
    torch.testing.assert_close(names["out"], expected)
