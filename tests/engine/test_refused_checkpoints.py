"""Checkpoints that are damaged, hostile or of something else are refused in one sentence."""

import dataclasses
import os
import pickle
import zipfile

import pytest
import torch
from published_checkpoints import (
    agw_state,
    clip_reid_resnet_state,
    clip_reid_vit_state,
    csdn_state,
    write_published,
)
from safetensors.torch import save_file

from vireid_fast.engine.checkpoint import CheckpointError
from vireid_fast.engine.imports import FORMATS, ImportOptions
from vireid_fast.engine.imports.conversion import (
    convert_checkpoint,
    describe_import,
    import_checkpoint,
)

SIZE = (64, 32)
SMALL = ImportOptions(size=SIZE)


class _Hostile:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, zipped):
    path, mark = tmp_path / "evil.pth", tmp_path / "was-run"
    torch.save({**csdn_state(), "extra": _Hostile(str(mark))}, path,
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    with pytest.raises(CheckpointError, match=r"asks for code .*system.*nothing of it was run"):
        import_checkpoint(path)
    assert not mark.exists()


def test_code_in_place_of_a_score_is_refused_and_not_run(tmp_path):
    path, mark = tmp_path / "evil.t", tmp_path / "was-run"
    torch.save({"net": agw_state(), "mAP": _Hostile(str(mark)), "cmc": torch.ones(2).numpy()}, path)
    with pytest.raises(CheckpointError, match="asks for code"):
        import_checkpoint(path, "agw")
    assert not mark.exists()


def test_what_a_pickle_asks_for_is_told_in_one_printable_line(tmp_path):
    path = tmp_path / "odd.pth"
    torch.save(csdn_state(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"ctorch\n", b"ctor\x1bh\n"))
    with pytest.raises(CheckpointError, match="asks for code") as error:
        import_checkpoint(path)
    assert str(error.value).isprintable()


def test_a_bare_pickle_is_refused_and_not_run(tmp_path):
    path, mark = tmp_path / "evil.pkl", tmp_path / "was-run"
    path.write_bytes(pickle.dumps(_Hostile(str(mark)), protocol=2))
    with pytest.raises(CheckpointError, match=r"evil\.pkl must"):
        import_checkpoint(path)
    assert not mark.exists()


def test_a_pickled_model_names_what_to_save(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(CheckpointError, match=r"Linear.*Save model\.state_dict\(\)"):
        import_checkpoint(tmp_path / "whole.pth")


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_files_are_named(tmp_path, share, suffix):
    path = tmp_path / f"cut{suffix}"
    state = clip_reid_resnet_state(text=False)
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=rf"cut\{suffix} must be an intact .*Fetch it again"):
        import_checkpoint(path)


def _write(tmp_path, state):
    path = tmp_path / "checkpoint.pth"
    torch.save(state, path)
    return path


def test_an_image_is_no_checkpoint(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    with pytest.raises(CheckpointError, match=r"photo\.jpg must hold tensors .* got no checkpoint"):
        import_checkpoint(path)


def test_missing_unknown_misshaped_and_nan_tensors_are_named(tmp_path):
    state = csdn_state()
    del state["classifier2.BN.weight"]
    state["classifier.BN.bias"] = torch.zeros(3)
    state["attnpool.q_proj.bias"][0] = torch.nan
    with pytest.raises(CheckpointError, match="hold the weights of csdn, got missing") as error:
        import_checkpoint(_write(tmp_path, state))
    for part in ("missing classifier2.BN.weight", "misshaped classifier.BN.bias (3,) instead of "
                 "(128,)", "not finite attnpool.q_proj.bias"):  # fmt: skip
        assert part in str(error.value)

    state = agw_state()
    state["attention.0.weight"] = torch.zeros(2)
    path = _write(tmp_path, state)
    with pytest.raises(CheckpointError, match=r"1 unknown tensors: attention\.0\.weight.*--drop"):
        import_checkpoint(path, "auto", SMALL)
    kept = import_checkpoint(path, "auto", dataclasses.replace(SMALL, drop_unknown=True))
    assert kept.unknown == ("attention.0.weight",)
    assert "left out, unknown: attention.0.weight" in describe_import(kept)[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("image_encoder.proj"), "image_encoder.proj must be in the checkpoint"),
        (lambda s: s.update({"image_encoder.proj": torch.zeros(3)}), "proj must have 2 axes"),
        (lambda s: s.update({"image_encoder.transformer.resblocks.9.x": torch.zeros(1)}),
         "numbered from 0 without a gap"),
        (lambda s: s.update({"image_encoder.positional_embedding": torch.zeros(12, 64)}),
         "11 places.*--size HEIGHT,WIDTH"),
    ],
)  # fmt: skip
def test_shapes_that_describe_no_network_are_named(tmp_path, change, message):
    state = clip_reid_vit_state()
    change(state)
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(_write(tmp_path, state))


def test_other_content_is_refused(tmp_path):
    for content, message in (
        ({"weight": torch.zeros(2)}, "have the names of csdn, clip-reid, agw, got other names"),
        ({}, "hold a state dict, got nothing"),
        ([torch.zeros(1)], "hold a state dict, got list"),
        ({"a": torch.zeros(1), "b": [1, 2]}, r"names and tensors, got 'b' \(list\)"),
        ({"net": {"a": 3}}, r"names and tensors, got 'a' \(int\)"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "hold dense tensors, got a"),
    ):
        with pytest.raises(CheckpointError, match=message):
            import_checkpoint(_write(tmp_path, content))
    with zipfile.ZipFile(tmp_path / "checkpoint.pth", "w") as archive:
        archive.writestr("checkpoint/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="a TorchScript archive, which holds code"):
        import_checkpoint(tmp_path / "checkpoint.pth")
    with pytest.raises(FileNotFoundError, match="Nothing is downloaded"):
        import_checkpoint(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("agw", {"size": (8, 8)}, "--size must be HEIGHT,WIDTH"),
        ("agw", {"neck": "both"}, "--neck must be one of"),
        ("agw", {"pooling": "max"}, "--pooling must be one of"),
        ("clip-reid-vit", {"coefficient": float("inf")}, "--sie-coefficient must"),
        ("clip-reid-vit", {"camera": "mean"}, "Leave --camera out"),
        ("clip-reid-resnet", {"camera": "mean"}, "a ResNet, which has none"),
        ("csdn", {"size": (288, 144)}, "--size HEIGHT,WIDTH"),
    ],
)
def test_options_that_do_not_fit_are_named(tmp_path, kind, options, message):
    write_published(kind, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=message):
        import_checkpoint(tmp_path / "checkpoint.pth", "auto", ImportOptions(**options))


def test_camera_embeddings_ask_for_a_choice(tmp_path):
    write_published("clip-reid-vit", tmp_path / "checkpoint.pth", cameras=4)
    for camera in (None, 4, -1, "some", True):
        with pytest.raises(CheckpointError, match=r"--camera none, or one of 0\.\.3"):
            import_checkpoint(tmp_path / "checkpoint.pth", "auto", ImportOptions(camera=camera))


def test_a_wrong_format_is_refused(tmp_path):
    write_published("csdn", tmp_path / "checkpoint.pth")
    with pytest.raises(CheckpointError, match="Is it a checkpoint of agw"):
        import_checkpoint(tmp_path / "checkpoint.pth", "agw")
    with pytest.raises(ValueError, match="--format must be one of"):
        import_checkpoint(tmp_path / "checkpoint.pth", "torchreid")


def test_the_target_must_be_a_model_folder_or_new(tmp_path):
    write_published("agw", tmp_path / "checkpoint.pth")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    for out, message in (
        (tmp_path / "photos", r"must be new or a model folder.*a\.jpg"),
        (tmp_path / "checkpoint.pth", "must be a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            convert_checkpoint(tmp_path / "checkpoint.pth", out, "agw", SMALL)
    assert (tmp_path / "photos" / "a.jpg").exists()


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        ("agw", "width", 10**9, r"network\.width must be a whole number in 1\.\.512"),
        ("agw", "layers", [3, 4], r"network\.layers must be four whole numbers"),
        ("agw", "non_local", [9, 9, 9, 9], "a network that can be built"),
        ("agw", "pooling", ["gem"], r"network\.pooling must be one of"),
        ("csdn", "heads", 7, "a network that can be built"),
        ("csdn", "joint_width", "16", r"network\.joint_width must be a whole number"),
        ("clip-reid-vit", "layers", None, r"network\.layers must be a whole number"),
        ("clip-reid-vit", "coefficient", "3", r"network\.coefficient must be a number"),
        ("clip-reid-vit", "activation", "relu", r"network\.activation must be one of"),
        ("clip-reid-vit", "layers", 128, "at most 1,000,000,000 parameters"),
    ],
)
def test_a_card_that_asks_for_something_else_is_refused(tmp_path, kind, key, value, message):
    write_published(kind, tmp_path / "checkpoint.pth")
    card = import_checkpoint(tmp_path / "checkpoint.pth", "auto", SMALL).card
    changed = dataclasses.replace(card, network={**card.network, key: value})
    if value == 128:
        changed.network["width"] = 4096
    with pytest.raises(CheckpointError, match=message):
        FORMATS[card.method].build(changed)
