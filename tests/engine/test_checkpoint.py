"""Checkpoints: round trip, atomicity, damage, wrong models."""

import errno
import json

import pytest
import torch
from torch import nn

from vireid_fast.engine import checkpoint as module
from vireid_fast.engine.checkpoint import (
    Checkpoint,
    CheckpointError,
    follow,
    load_checkpoint,
    load_into,
    point_to,
    save_checkpoint,
)


def _trained():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def test_round_trip_is_exact(tmp_path):
    model, optimizer = _trained()
    state = Checkpoint(model.state_dict(), {"x": 1}, optimizer.state_dict())
    save_checkpoint(tmp_path / "a", state)
    read = load_checkpoint(tmp_path / "a")
    assert read.card["x"] == 1
    for name, value in model.state_dict().items():
        assert torch.equal(read.model[name], value)
    other = torch.optim.AdamW(_trained()[0].parameters(), lr=5.0)
    other.load_state_dict(read.optimizer)
    assert other.param_groups[0]["lr"] == 1e-3
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            assert torch.equal(other.state_dict()["state"][index][name], value)


@pytest.mark.parametrize("place", ["save_tensors", "sha256_of"])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch, place):
    model, _ = _trained()
    folder = tmp_path / "a"
    save_checkpoint(folder, Checkpoint(model.state_dict(), {"old": True}))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, place, full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(folder, Checkpoint(model.state_dict(), {"old": False}))
    monkeypatch.undo()
    assert load_checkpoint(folder).card["old"] is True
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_damage_is_named(tmp_path):
    model, _ = _trained()
    folder = tmp_path / "a"
    save_checkpoint(folder, Checkpoint(model.state_dict(), {}))
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model.safetensors must have SHA-256 .* damaged"):
        load_checkpoint(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors must exist"):
        load_checkpoint(folder)
    (folder / "card.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"card\.json must be JSON"):
        load_checkpoint(folder)
    (folder / "card.json").write_text("[]")
    with pytest.raises(CheckpointError, match="must hold an object, got list"):
        load_checkpoint(folder)
    with pytest.raises(CheckpointError, match=r"card\.json must exist"):
        load_checkpoint(tmp_path / "b")


def test_pointer_cannot_leave_its_folder(tmp_path):
    point_to(tmp_path / "latest.json", tmp_path / "a", epoch=3)
    folder, facts = follow(tmp_path / "latest.json")
    assert folder == tmp_path / "a" and facts["epoch"] == 3
    (tmp_path / "latest.json").write_text(json.dumps({"checkpoint": "../../etc"}))
    with pytest.raises(CheckpointError, match=r"must name a folder beside it, got '\.\./\.\./etc'"):
        follow(tmp_path / "latest.json")


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    model, _ = _trained()
    other = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_into(other, model.state_dict(), "file")
    assert "missing 2.bias, 2.weight (2)" in str(error.value)
    assert "0.weight: (4, 3) instead of (5, 3)" in str(error.value)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())
