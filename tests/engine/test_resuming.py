"""A run that is stopped after any epoch and resumed: every bit of an uninterrupted one."""

import re

import pytest
import torch
from method_cases import CASES, tiny_config
from recorded_training import record

from vireid_fast.config import ConfigError
from vireid_fast.engine.checkpoint import follow, load_checkpoint
from vireid_fast.engine.method_setup import load_method
from vireid_fast.engine.run_folder import RunFolder


def _weights(path):
    return load_checkpoint(follow(RunFolder(path).latest)[0]).model


# Running statistics that preparing a stage changes are changed once: CSDN may extract with batch
# statistics, and its second stage has ended, or not, where the run is stopped.
@pytest.mark.parametrize(
    ("method", "stop_after", "further"),
    [
        ("csdn", 2, ("csdn.fusion.epochs=2",)),
        ("csdn", 3, ("csdn.fusion.epochs=2",)),
        ("clip4vi_reid", 2, ()),
    ],
)
def test_weights_and_buffers_are_those_of_the_whole_run(
    tiny_sets, tmp_path, method, stop_after, further
):
    assert method in CASES
    config = tiny_config(method, tiny_sets, *further)
    record(config, tmp_path / "whole")
    record(config, tmp_path / "run", stop_after=stop_after)
    record(config, tmp_path / "run", resume=True)
    found, expected = _weights(tmp_path / "run"), _weights(tmp_path / "whole")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(
    ("line", "other", "key", "opening"),
    [
        ("seed: 1", "seed: 3", "seed", False),
        ("text_temperature: 0.07", "text_temperature: 0.17", "csdn.text_temperature", True),
        ("height: 64", "height: 65", "data.height", True),
    ],
)
def test_a_damaged_configuration_is_told_by_the_card(
    tiny_sets, tmp_path, line, other, key, opening
):
    run = RunFolder(tmp_path)
    record(tiny_config("csdn", tiny_sets), run.path, stop_after=2)
    text = run.config_file.read_text()
    assert line in text
    run.config_file.write_text(text.replace(line, other))
    damaged = rf"{re.escape(key)} must stay as in .*card.json"
    with pytest.raises(ConfigError, match=damaged):
        record(run.config(), run.path, resume=True)
    if opening:
        with pytest.raises(ConfigError, match=damaged):
            load_method(run, "latest")
    else:
        load_method(run, "latest")
