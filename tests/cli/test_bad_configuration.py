"""Configurations, run folders and checkpoints that cannot be used."""

import errno
import json
from pathlib import Path

import pytest
from command_line import PRESET, train_arguments


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sed=1", "unknown key sed. The nearest key is seed."),
        ("csdn.visual.epoch=1", "unknown key csdn.visual.epoch. The nearest key is "
         "csdn.visual.epochs."),
        ("seed=one", "seed must be a whole number, got 'one'"),
        ("csdn.visual.lr=fast", "csdn.visual.lr must be a number, got 'fast'"),
        ("csdn.text_terms=1", "csdn.text_terms must be true or false, got 1"),
        ("data.height=-5", "data.height must be positive, got -5"),
        ("data=3", "data must be a section of keys, got 3"),
        ("evaluation.rerank=20", "evaluation.rerank must be a list, got 20"),
        ("evaluation.rerank=[20, 6, 2]", "evaluation.rerank must have k1 and k2 of at least 1 and "
         "lambda in [0, 1], got [20.0, 6.0, 2.0]"),
        ("evaluation.shots=0", "evaluation.shots must be positive, got 0"),
        ("csdn.visual.epochs=-1", "csdn.visual.epochs must be 0 or more, got -1"),
        ("method=agw",
         "method must be one of ['clip4vi_reid', 'clip_mc', 'csdn', 'lsmrl'], got 'agw'"),
        ("seed", "override must look like section.key=value, got 'seed'"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["train", "pretrain"])
def test_bad_overrides_name_the_key(vireid, pristine_root, tmp_path, command, override, expected):
    arguments = train_arguments(pristine_root, tmp_path / "run", override)[1:]
    assert expected in vireid.error(command, *arguments)
    assert not (tmp_path / "run").exists()


def test_bad_configuration_files(vireid, tmp_path):
    file = tmp_path / "list.yaml"
    file.write_text("[1, 2]")
    message = vireid.error("train", "--config", file, "--run", tmp_path / "run")
    assert f"{file} must hold a mapping of keys, got list" in message
    file.write_text("a: [1")
    done = vireid("train", "--config", file, "--run", tmp_path / "run")
    assert done.code == 1 and f"{file} must be YAML" in done.err and "Traceback" not in done.err
    for absent in (tmp_path / "absent.yaml", tmp_path):
        message = vireid.error("train", "--config", absent, "--run", tmp_path / "run")
        assert str(absent) in message and "csdn/sysu_mm01_small" in message
    message = vireid.error("train", "--config", "csdn/sysu_mm1", "--run", tmp_path / "run")
    assert "Did you mean 'csdn/sysu_mm01'?" in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "--config must be given, or --method with --data, got neither"),
        (("--method", "csdn"), "--config must come alone, or --method together with --data"),
        (("--data", "sysu_mm01"), "--config must come alone, or --method together with --data"),
        (("--config", PRESET, "--method", "csdn", "--data", "sysu_mm01"), "must come alone"),
        (("--method", "csdn", "--data", "market"), "got 'csdn/market'"),
        (("--resume",), "must hold config.yaml, got no such file"),
    ],
)
def test_train_says_which_configuration_it_needs(vireid, tmp_path, options, expected):
    assert expected in vireid.error("train", "--run", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_a_run_is_neither_overwritten_nor_resumed_with_other_settings(vireid, pristine_run, run):
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    arguments = train_arguments(pristine_run.root, run)
    assert f"{run} must be a new folder, got one that holds a run" in vireid.error(*arguments)
    message = vireid.error(*arguments, "--resume", "seed=9", "csdn.loss.msel=2")
    assert "csdn.loss.msel, seed must stay as in" in message
    assert {path: path.read_bytes() for path in files} == files
    # The same settings, or none at all, continue; here there is nothing left to do.
    vireid.ok(*arguments, "--resume")
    vireid.ok("train", "--run", run, "--resume")


@pytest.mark.parametrize("command", ["extract", "eval"])
def test_a_run_that_does_not_exist(vireid, tmp_path, command):
    message = vireid.error(command, "--run", tmp_path / "absent")
    assert f"{tmp_path / 'absent'} must hold config.yaml" in message
    assert not (tmp_path / "absent").exists()


def test_a_run_without_a_checkpoint(vireid, run):
    for pointer in ("best.json", "latest.json"):
        (run / "checkpoints" / pointer).unlink()
    message = vireid.error("extract", "--run", run)
    assert "best.json must exist" in message and "saved a checkpoint" in message


def _card(run):
    name = json.loads((run / "checkpoints" / "best.json").read_text())["checkpoint"]
    return run / "checkpoints" / name / "card.json"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"method": "lsmrl"}, "must be 'csdn', got 'lsmrl'"),
        ({"num_identities": 395}, "must fit the configured model, got num_identities 395, which"),
        ({"architecture": "RN50"}, "must be 'RN-small', got 'RN50'"),
    ],
)
def test_a_checkpoint_of_something_else(vireid, run, facts, expected):
    card = _card(run)
    card.write_text(json.dumps(json.loads(card.read_text()) | facts))
    message = vireid.error("extract", "--run", run)
    assert expected in message and str(card.parent) in message


def test_resuming_with_other_identities(vireid, pristine_run, run):
    card = _card(run)
    card.write_text(json.dumps(json.loads(card.read_text()) | {"num_identities": 395}))
    message = vireid.error(*train_arguments(pristine_run.root, run, "--resume"))
    assert "num_identities of" in message and "must be 4, got 395" in message


def test_a_damaged_checkpoint(vireid, run):
    weights = _card(run).with_name("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-7])
    message = vireid.error("eval", "--run", run)
    assert f"{weights} must have SHA-256" in message and "it is damaged" in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--split", "dev"), "split must be one of ['train', 'val', 'test'], got 'dev'"),
        (("--checkpoint", "first"), "--checkpoint must be one of ['best', 'latest'], got 'first'"),
        (("--out", "features.csv"), "path suffix must be one of ['.npz', '.safetensors', '.h5']"),
        (("--out", "/"), "path suffix must be one of"),
    ],
)
def test_bad_options_of_extract(vireid, run, options, expected):
    assert expected in vireid.error("extract", "--run", run, *options)


def test_weights_that_cannot_be_loaded(vireid, pristine_root, tmp_path):
    arguments = train_arguments(pristine_root, tmp_path / "run")
    message = vireid.error(*arguments, f"clip.weights={tmp_path / 'absent.pt'}")
    assert str(tmp_path / "absent.pt") in message and "not fetched from the network" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (b"\xff\xfe{", "must be JSON"),
        (b"[1]", "must hold a JSON object, got list"),
        (b'{"activation": "relu"}', "must name one of ['gelu', 'quick_gelu'] as activation"),
    ],
)
def test_a_weights_card_that_cannot_be_read(vireid, pristine_root, tmp_path, card, expected):
    (tmp_path / "w.json").write_bytes(card)
    arguments = train_arguments(pristine_root, tmp_path / "run")
    message = vireid.error(*arguments, f"clip.weights={tmp_path / 'w.safetensors'}")
    assert f"{tmp_path / 'w.json'} {expected}" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("evaluation.protocol=sysu", "evaluation.protocol must be one of ['bupt/full', "
         "'bupt/official-bs64', "),
        ("evaluation.mode=outdoor", "evaluation.mode must be one of ['all', 'indoor'] or 'each' "
         "for sysu/agw, got 'outdoor'"),
        ("csdn.context_length=5", "context_length must be 4, the number of tokens that the "
         "template 'person' leaves to be learned, got 5"),
        ("csdn.integration=none", "got 'none'"),
        ("device=tpu", "device must be cpu"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_at_the_start(
    vireid, pristine_root, tmp_path, override, expected
):
    arguments = train_arguments(pristine_root, tmp_path / "run", override)
    assert expected in vireid.error(*arguments)
    assert not (tmp_path / "run").exists()


def test_the_official_protocol_needs_its_permutations(vireid, root, tmp_path):
    file = root / "exp" / "rand_perm_cam.mat"
    file.unlink()
    arguments = train_arguments(root, tmp_path / "run", "evaluation.protocol=sysu/official")
    message = vireid.error(*arguments)
    assert f"without stored permutations where {file} is absent" in message
    assert not (tmp_path / "run").exists()


def test_large_models_are_not_pretrained(vireid, pristine_root, tmp_path):
    arguments = train_arguments(pristine_root, tmp_path / "run", "clip.architecture=ViT-B/32",
                                "data.height=64", "data.width=32")[1:]  # fmt: skip
    assert "must be a small one to pre-train" in vireid.error("pretrain", *arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "extract", "eval"])
def test_a_run_that_is_a_file(vireid, pristine_root, tmp_path, command):
    file = tmp_path / "file"
    file.write_text("kept")
    options = train_arguments(pristine_root, file)[1:] if command == "train" else ("--run", file)
    message = vireid.error(command, *options)
    assert f"run: {file} must be a folder, got" in message and file.read_text() == "kept"


def test_an_unknown_architecture(vireid, pristine_root, tmp_path):
    arguments = train_arguments(pristine_root, tmp_path / "run", "clip.architecture=ResNet50")
    message = vireid.error(*arguments)
    assert "clip.architecture must be one of" in message and "'RN50'" in message


def test_a_file_that_the_system_refuses(vireid, tmp_path, monkeypatch):
    path = tmp_path / "own.yaml"
    path.write_text("method: csdn\n")
    read = Path.read_bytes

    def refuse(self):
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    error = vireid.error("train", "--config", path, "--run", tmp_path / "run")
    assert error == (
        f"error: open: {path} must be accessible, got Permission denied. Correct the name, or the "
        "permissions."
    )
