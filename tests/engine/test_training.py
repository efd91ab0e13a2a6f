"""Training through all stages: it runs, it resumes bit for bit, it is deterministic."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vireid_fast.config import ConfigError, load_config
from vireid_fast.data.synthetic import write_sysu_layout
from vireid_fast.engine import method_setup, pretraining, workflow
from vireid_fast.engine.checkpoint import CheckpointError, follow, load_checkpoint
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.engine.trainer import Trainer


class Stop(Exception):
    """Raised in the middle of training, as a kill would end it."""


def _weights(run):
    return load_checkpoint(follow(run.latest)[0]).model


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_config):
    config = tiny_config
    return config, workflow.train(config, tmp_path_factory.mktemp("runs") / "whole")


def test_a_run_trains_all_stages_and_writes_its_folder(finished):
    config, run = finished
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert [(line["stage"], line["epoch"]) for line in lines] == [
        (stage, epoch) for stage in ("prompts", "fusion", "visual") for epoch in (1, 2)
    ]
    assert all(line["loss"] == line["loss"] for line in lines)
    assert {"val_R1", "val_mAP", "val_mINP"} <= lines[-1].keys()
    assert load_config(run.config_file) == config
    folders = {p.name for p in run.checkpoints.iterdir() if p.is_dir()}
    assert folders == {follow(run.latest)[0].name, follow(run.best)[0].name}
    results = workflow.evaluate_run(run)
    saved = json.loads(run.results_file.read_text())
    assert saved["plain"]["mAP"] == results["plain"].mean["mAP"]
    assert saved["reranked"]["rerank"] == {"k1": 4, "k2": 2, "lambda_value": 0.3}
    assert (run.features / "test.npz").is_file()


@pytest.mark.parametrize("stop_after", range(1, 6))
def test_resuming_is_bit_for_bit_in_every_stage(finished, tmp_path, monkeypatch, stop_after):
    config, whole = finished
    original, calls = Trainer._train_epoch, []

    def counted(self, *arguments):
        if len(calls) == stop_after:
            raise Stop
        calls.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, "_train_epoch", counted)
    with pytest.raises(Stop):
        workflow.train(config, tmp_path / "run")
    monkeypatch.undo()
    torch.manual_seed(99)  # A resumed process starts with another global state.
    torch.rand(3)
    run = workflow.train(config, tmp_path / "run", resume=True)
    expected, actual = _weights(whole), _weights(run)
    assert expected.keys() == actual.keys()
    for name in expected:
        assert torch.equal(expected[name], actual[name]), name
    def losses(r):
        return [json.loads(line)["loss"] for line in r.metrics_file.read_text().splitlines()]

    assert losses(run) == losses(whole)


def test_a_killed_process_resumes(finished, tmp_path):
    config, whole = finished
    run = RunFolder(tmp_path / "run")
    config.save(tmp_path / "c.yaml")
    command = [sys.executable, "-m", "vireid_fast", "train", "--config", str(tmp_path / "c.yaml"),
               "--run", str(run.path)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("fusion 1/2"):
                process.kill()
                break
    assert run.latest.exists()
    subprocess.run([*command, "--resume"], env=environment, check=True, capture_output=True)
    expected, actual = _weights(whole), _weights(run)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_a_run_folder_is_not_overwritten_and_settings_stay(finished, tmp_path):
    config, whole = finished
    with pytest.raises(ValueError, match="must be a new folder, got one that holds a run"):
        workflow.train(config, whole.path)
    with pytest.raises(ConfigError, match="seed must stay as in"):
        workflow.train(replace(config, seed=9), whole.path, resume=True)
    with pytest.raises(ConfigError, match=r"evaluation\.mode must stay as in"):
        other = replace(config.evaluation, mode="indoor")
        workflow.train(replace(config, evaluation=other), whole.path, resume=True)
    # Resuming a finished run changes nothing.
    before = _weights(whole)
    after = _weights(workflow.train(config, whole.path, resume=True))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_continuation_may_move_and_rerank_otherwise(finished, tmp_path):
    config, whole = finished
    path = Path(shutil.copytree(whole.path, tmp_path / "run"))
    root = Path(shutil.copytree(config.data.root, tmp_path / "moved"))
    moved = replace(
        config, data=replace(config.data, root=str(root)),
        evaluation=replace(config.evaluation, rerank=(5.0, 3.0, 0.1)),
    )  # fmt: skip
    run = workflow.train(moved, path, resume=True)
    assert run.config() == moved
    assert workflow.evaluate_run(run)["reranked"].rerank == (5, 3, 0.1)
    # A data set of other identities is refused, and the saved configuration stays.
    write_sysu_layout(tmp_path / "other", identities=8, views=2, size=(64, 32), seed=3)
    other = replace(moved, data=replace(config.data, root=str(tmp_path / "other")))
    with pytest.raises(CheckpointError, match="num_identities of"):
        workflow.train(other, path, resume=True)
    assert run.config() == moved


def test_a_folder_without_a_checkpoint_counts_as_new(finished, tmp_path, monkeypatch):
    config, whole = finished
    path = tmp_path / "run"

    def fail(*_):
        raise Stop

    monkeypatch.setattr(Trainer, "_train_epoch", fail)
    with pytest.raises(Stop):
        workflow.train(replace(config, seed=9), path)
    assert RunFolder.open(path).config().seed == 9
    with pytest.raises(Stop):
        workflow.train(config, path)
    assert RunFolder.open(path).config() == config
    # A checkpoint that no pointer names yet is one, too.
    shutil.copytree(follow(whole.latest)[0], path / "checkpoints" / "0-prompts-0001")
    with pytest.raises(ValueError, match="got one that holds a run"):
        workflow.train(config, path)


def test_an_unknown_checkpoint_name(finished):
    with pytest.raises(ValueError, match=r"which must be one of \['best', 'latest'\], got 'last'"):
        method_setup.load_method(finished[1], "last")


def test_a_checkpoint_of_another_method_or_identity_count_is_refused(finished, tmp_path):
    _, whole = finished
    copy = tmp_path / "run"
    shutil.copytree(whole.path, copy)
    run = RunFolder.open(copy)
    card_file = follow(run.best)[0] / "card.json"
    card = json.loads(card_file.read_text())
    card_file.write_text(json.dumps({**card, "method": "agw"}))
    with pytest.raises(CheckpointError, match=r"method of .* must be 'csdn', got 'agw'"):
        method_setup.load_method(run)
    card_file.write_text(json.dumps({**card, "num_identities": 5}))
    with pytest.raises(CheckpointError, match="must fit the configured model"):
        method_setup.load_method(run)


def test_visual_losses_alone_and_quirk_switches(tiny_config, tmp_path):
    own = tiny_config.csdn
    alone = replace(tiny_config, csdn=replace(own, text_terms=False))
    run = workflow.train(alone, tmp_path / "alone")
    stages = [json.loads(line)["stage"] for line in run.metrics_file.read_text().splitlines()]
    assert stages == ["visual", "visual"]
    quirks = replace(
        own, bank_dropout=True, extract_with_batch_statistics=True, integration="published",
        visible_template="visible", infrared_template="infrared",
        loss=replace(own.loss, wrt_parity=True, msel_normalized=False),
    )  # fmt: skip
    config = replace(tiny_config, csdn=quirks, clip=replace(tiny_config.clip, stem_relu="csdn"))
    run = workflow.train(config, tmp_path / "quirks")
    assert len(run.metrics_file.read_text().splitlines()) == 6


def test_pretraining_writes_weights_that_training_starts_from(tiny_config, tmp_path, capsys):
    weights = pretraining.pretrain(tiny_config, tmp_path / "pre")
    assert weights.is_file() and weights.with_suffix(".json").is_file()
    config = replace(tiny_config, clip=replace(tiny_config.clip, weights=str(weights)))
    run = workflow.train(config, tmp_path / "run")
    stored = load_file(weights)
    lines = capsys.readouterr().err.splitlines()
    assert f"weights: {weights}; format openai, quick_gelu" in lines
    # The text tower is frozen, so it is what the run started from.
    text = method_setup.load_method(run).model.text
    assert torch.equal(text.token_embedding.weight, stored["token_embedding.weight"])
    start = workflow.evaluate_start(config)["plain"].to_json()
    assert 0 <= start["R1"] <= 1 and start["gallery_size"] > 0


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(tiny_config, tmp_path):
    config = load_config(
        "csdn/sysu_mm01_small", [f"data.root={tiny_config.data.root}", "data.height=64",
        "data.width=32", "sampler.identities=2", "csdn.text_terms=false",
        "csdn.visual.epochs=3", "csdn.visual.lr=1e30", "csdn.visual.warmup_epochs=0"],
    )  # fmt: skip
    message = r"the loss of visual epoch \d, batch \d \(identities [\d, ]+\) must be finite"
    with pytest.raises(RuntimeError, match=message):
        workflow.train(config, tmp_path / "run")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "tpu"])
def test_a_device_that_is_not_here_is_refused(tiny_config, tmp_path, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"device must be cpu, .* got '{device}'"):
        workflow.train(replace(tiny_config, device=device), tmp_path / "run")


def test_training_starts_from_the_weights_of_another_run(tiny_config, tmp_path):
    alone = replace(tiny_config.csdn, text_terms=False)
    warm = workflow.train(replace(tiny_config, csdn=alone), tmp_path / "warm")
    config = replace(tiny_config, start_from=str(warm.path), seed=5)
    torch.manual_seed(0)
    start = method_setup.new_method(config, 6, load=True).model.state_dict()
    assert all(torch.equal(start[name], value) for name, value in _weights(warm).items())
    assert workflow.evaluate_start(config)["plain"].gallery_size > 0
    run = workflow.train(config, tmp_path / "run")
    assert run.latest.exists()
    with pytest.raises(CheckpointError, match=r"num_identities of .* must be 5, got 6"):
        method_setup.new_method(config, 5, load=True)
    with pytest.raises(ValueError, match=r"must hold config\.yaml"):
        workflow.train(replace(config, start_from=str(tmp_path / "none")), tmp_path / "other")
