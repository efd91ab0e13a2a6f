"""The code of docs/dropin.md runs and prints what the page shows."""

import contextlib
import io
import re
import sys
from pathlib import Path

import foreign_models
import torch
from torch import nn

PAGE = Path(__file__).resolve().parents[2] / "docs" / "dropin.md"


def test_the_worked_example(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_reid", foreign_models)
    blocks = re.findall(r"```(python|text)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    printed = ""
    for language, text in blocks:
        if language == "text":
            assert printed == text
            continue
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(text, str(PAGE), "exec"), names)
        printed = output.getvalue()
    assert isinstance(names["model"], nn.Module)
    assert names["loss"].item() > 0
    learner, plain = names["learner"], foreign_models.TextEncoder(names["clip_model"])
    expected = plain(learner(torch.arange(100)), learner.tokenized_prompts)
    torch.testing.assert_close(names["texts"], expected)
