"""What is damaged: for every kind of file how to write a whole one and how to read it.

A reader returns a digest of all that it read. Where a checksum protects the file (`exact`), only
the digest of the whole file is right; elsewhere the reader asserts that what it read fits together.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from data_kinds import layout, write_images, write_parquet, write_permutations
from digests import digest
from torch import Tensor, nn

from vireid_fast.data.synthetic import write_layout


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        write: Writes whole files into an empty folder.
        read: "module:function" that reads the folder.
        targets: Patterns of the files to damage.
        text: Whether these are texts.
        exact: Whether only the content of the whole file is a right result.
        cost: How much longer a file takes than others; so many fewer are tried.
    """

    write: Callable[[Path], None]
    read: str
    targets: tuple[str, ...]
    text: bool = False
    exact: bool = False
    cost: int = 1


# Checkpoints.


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def write_checkpoint(folder: Path) -> None:
    from vireid_fast.engine.checkpoint import Checkpoint, point_to, save_checkpoint

    model = _model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in (1, 2):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        best = {"rank": [0.5, 0.25], "stage": "visual", "epoch": 1}
        card = {
            "method": "csdn", "num_identities": 4,
            "position": {"stage": 0, "epoch": epoch, "lines": epoch, "best": best},
        }  # fmt: skip
        place = folder / "checkpoints" / f"0-visual-{epoch:04d}"
        save_checkpoint(place, Checkpoint(model.state_dict(), card, optimizer.state_dict()))
        point_to(folder / "checkpoints" / ("best.json" if epoch == 1 else "latest.json"), place,
                 **(best if epoch == 1 else {}))  # fmt: skip


def read_checkpoint(folder: Path) -> str:
    """What a resumed run has, and the best checkpoint."""
    from vireid_fast.engine.checkpoint import follow, load_checkpoint, load_into
    from vireid_fast.engine.distributed import World
    from vireid_fast.engine.run_folder import RunFolder
    from vireid_fast.engine.trainer import Trainer

    run, model = RunFolder(folder), _model()
    trainer = Trainer(model, [None], run, seed=0, facts={"method": "csdn", "num_identities": 4},
                      world=World.single(), validate=None)  # fmt: skip
    trainer.restore()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    optimizer.load_state_dict(trainer._optimizer_state)
    state = optimizer.state_dict()
    tensors = [value for own in state["state"].values() for value in own.values()]
    best = load_checkpoint(follow(run.best)[0])
    chosen = _model()
    load_into(chosen, best.model, str(folder))
    return digest(trainer._position, state["param_groups"], *tensors,
                  *model.state_dict().values(), *chosen.state_dict().values())  # fmt: skip


# Feature files.


def _arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "features": generator.standard_normal((12, 8)).astype(np.float32),
        "person_ids": np.arange(12) % 3 + 1,
        "camera_ids": np.resize([3, 6, 1, 2], 12),
    }


def write_npz(folder: Path) -> None:
    from vireid_fast.data.feature_files import write_features

    write_features(folder / "features.npz", _arrays(), {"protocol": "sysu/agw"})


def write_feature_tensors(folder: Path) -> None:
    from vireid_fast.data.feature_files import write_features

    write_features(folder / "features.safetensors", _arrays(), {"protocol": "sysu/agw"})


def read_feature_file(folder: Path) -> str:
    from vireid_fast.data.feature_files import read_features, read_metadata

    (file,) = folder.iterdir()
    metadata, arrays = read_metadata(file), read_features(file)
    assert all(isinstance(n, str) and isinstance(v, str) for n, v in metadata.items())
    assert all(array.dtype.kind in "iufbc" for array in arrays.values())
    return digest(sorted(metadata.items()), *(arrays[name] for name in sorted(arrays)))


# Configurations.


def write_config(folder: Path) -> None:
    from vireid_fast.config import load_config

    load_config("csdn/sysu_mm01_small").save(folder / "config.yaml")


def read_config(folder: Path) -> str:
    from vireid_fast.config import config_from_dict, load_config

    config = load_config(folder / "config.yaml")
    assert config_from_dict(config.to_dict()) == config
    return digest(config)


# Weights.


def _clip():
    from vireid_fast.clip import build_clip

    torch.manual_seed(1)
    return build_clip(
        "ViT-small", vocabulary_size=50, context_length=12, joint_width=16, text_width=32,
        text_layers=1, text_heads=2, image_size=(32, 32), patch_size=16, visual_width=32,
        visual_layers=1, visual_heads=4,
    ).eval()  # fmt: skip


def _weights() -> dict[str, Tensor]:
    from vireid_fast.clip import openai_state_dict

    return {name: value.clone().contiguous() for name, value in openai_state_dict(_clip()).items()}


def write_weights_zip(folder: Path) -> None:
    torch.save({"state_dict": _weights()}, folder / "weights.pt")


def write_weights_legacy(folder: Path) -> None:
    torch.save(_weights(), folder / "weights.pt", _use_new_zipfile_serialization=False)


def write_weights_tensors(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(_weights(), folder / "model.safetensors")
    config = {"model_cfg": {"embed_dim": 16, "quick_gelu": True}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")


def read_weights(folder: Path) -> str:
    """The weights in a model; none of them has changed if the load failed."""
    from vireid_fast.clip import load_weights

    model, file = _clip(), folder / "weights.pt"
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    before = digest(*model.state_dict().values())
    try:
        load_weights(model, file if file.is_file() else folder,
                     activation=model.architecture.activation)  # fmt: skip
    except Exception:
        assert digest(*model.state_dict().values()) == before
        raise
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    return digest(*model.state_dict().values())


# Small files.


def write_metrics(folder: Path) -> None:
    lines = [json.dumps({"stage": "visual", "epoch": n, "loss": 1 / n}) for n in range(1, 9)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_metrics(folder: Path) -> str:
    """Training curves of a report, and the log that a continued run keeps."""
    from vireid_fast.engine.report.training import training_curves
    from vireid_fast.engine.run_folder import MetricsLog, RunFolder

    curves, notes = training_curves(folder / "metrics.jsonl")
    for curve in curves:
        assert np.isfinite(curve.values).all() and len(curve.values) == len(curve.epochs)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        shutil.copy(folder / "metrics.jsonl", scratch)
        MetricsLog(RunFolder(Path(scratch)), keep=3)
        kept = (Path(scratch) / "metrics.jsonl").read_bytes()
    assert kept.count(b"\n") <= 3
    return digest(curves, notes, kept)


def write_model_folder(folder: Path) -> None:
    from vireid_fast.engine.model_card import ModelCard, Preprocessing, save_model

    size = Preprocessing(height=8, width=4, mean=(0.5,) * 3, std=(0.5,) * 3)
    card = ModelCard(method="agw", preprocessing=size, feature_width=4, network={"classes": 3},
                     validation={"mAP": 0.5}, processing={"flip": "none"})  # fmt: skip
    save_model(folder / "model", card, _model().state_dict())


def read_model_folder(folder: Path) -> str:
    from vireid_fast.engine.checkpoint import load_checkpoint, load_into, require_intact
    from vireid_fast.engine.model_card import card_from_json

    checkpoint, model = load_checkpoint(folder / "model", resume=False), _model()
    card = card_from_json(checkpoint.card, folder / "model" / "card.json")
    load_into(model, checkpoint.model, str(folder))
    require_intact(checkpoint.card, folder / "model" / "card.json")
    return digest(card, *model.state_dict().values())


def write_published(folder: Path) -> None:
    torch.save({"epoch": 3, "net": {f"module.{n}": v for n, v in _model().state_dict().items()}},
               folder / "published.t")  # fmt: skip


def read_published(folder: Path) -> str:
    from vireid_fast.engine.imports.reading import read_published as read

    found = read(folder / "published.t")
    assert all(isinstance(value, Tensor) for value in found.tensors.values())
    return digest(sorted(found.numbers.items()), sorted(found.tensors), *found.tensors.values())


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<|startoftext|>", "<|endoftext|>", "A", "photo", "of", "a", "X", "person."]
    tokenizer = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="a")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


def read_tokenizer(folder: Path) -> str:
    from vireid_fast.clip.tokenizer import custom_template

    template = custom_template("A photo of a X X X X person.", folder / "tokenizer.json")
    assert template.context_length == 4 and template.eot == len(template.token_ids) - 1
    return digest(template)


def write_h5(folder: Path) -> None:
    from vireid_fast.data.feature_files import write_features

    write_features(folder / "features.h5", _arrays(), {"protocol": "sysu/agw"})


def read_cache(folder: Path) -> str:
    from vireid_fast.data.cache import open_cache
    from vireid_fast.data.datasets import DATASETS

    table = DATASETS["sysu_mm01"].read(folder / "set")
    rows = table.rows("train")
    # A damaged cache may be made anew, so it is a copy that is opened.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        place = Path(scratch) / "cache"
        if (folder / "cache").is_dir():
            shutil.copytree(folder / "cache", place)
        cached = open_cache(table, rows, (16, 8), place)
        read = digest(cached.rows, cached.batch(np.arange(len(rows))))
        if not (folder / "cache").is_dir():
            shutil.copytree(place, folder / "cache")
    return read


def write_cache(folder: Path) -> None:
    write_layout("sysu_mm01", folder / "set", identities=4, size=(32, 16), seed=3)
    read_cache(folder)


KINDS = {
    "checkpoints": Kind(
        write_checkpoint, "kinds:read_checkpoint",
        ("checkpoints/latest.json", "checkpoints/best.json", "checkpoints/*0002/*"), exact=True,
    ),
    "npz features": Kind(write_npz, "kinds:read_feature_file", ("*.npz",), exact=True),
    "safetensors features": Kind(
        write_feature_tensors, "kinds:read_feature_file", ("*.safetensors",), exact=True
    ),
    "HDF5 features": Kind(write_h5, "kinds:read_feature_file", ("*.h5",), cost=20),
    "metrics logs": Kind(write_metrics, "kinds:read_metrics", ("*.jsonl",), text=True),
    "model folders": Kind(write_model_folder, "kinds:read_model_folder", ("model/*",), exact=True),
    "published checkpoints": Kind(write_published, "kinds:read_published", ("*.t",)),
    "tokenizers": Kind(write_tokenizer, "kinds:read_tokenizer", ("*.json",)),
    "manifests in CSV": Kind(layout("manifest"), "data_kinds:read_manifest", ("*.csv",), text=True),
    "manifests in Parquet": Kind(write_parquet, "data_kinds:read_manifest", ("*.parquet",)),
    "configurations": Kind(write_config, "kinds:read_config", ("*.yaml",), text=True),
    "images": Kind(write_images, "data_kinds:read_images", ("*",)),
    "permutations": Kind(write_permutations, "data_kinds:read_permutations", ("*.mat",)),
    "torch weights": Kind(write_weights_zip, "kinds:read_weights", ("*.pt",)),
    "old torch weights": Kind(write_weights_legacy, "kinds:read_weights", ("*.pt",)),
    "safetensors weights": Kind(write_weights_tensors, "kinds:read_weights", ("*.*",)),
    "caches": Kind(write_cache, "kinds:read_cache", ("cache/images*",), exact=True),
    "RegDB lists": Kind(layout("regdb"), "data_kinds:read_regdb", ("idx/*_1.txt",), text=True),
    "LLCM lists": Kind(layout("llcm"), "data_kinds:read_llcm", ("idx/*.txt",), text=True),
    "SYSU-MM01 lists": Kind(
        layout("sysu_mm01"), "data_kinds:read_sysu", ("exp/train_id.txt",), text=True
    ),
    "HITSZ-VCM lists": Kind(layout("hitsz_vcm"), "data_kinds:read_vcm", ("info/*.txt",), text=True),
    "BUPTCampus lists": Kind(
        layout("bupt_campus"), "data_kinds:read_bupt", ("data_paths.json", "*.txt"), text=True
    ),
}  # fmt: skip
