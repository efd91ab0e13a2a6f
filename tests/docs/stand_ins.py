"""Small stand-ins for the data sets, weights, runs and feature files that the pages name.

A stand-in is made when a command first names a path that is not there, so a page that makes the
file itself works on its own. `shrink` cuts the sizes of what commands train and draw; methods,
stages, data sets and protocols stay those of the page.
"""

import csv
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from published_checkpoints import write_published
from torch import nn

from vireid_fast.clip import openai_state_dict
from vireid_fast.config import ClipConfig, load_config
from vireid_fast.data.synthetic import write_layout
from vireid_fast.engine import workflow
from vireid_fast.engine.clip_setup import build_backbone

SIZE = (64, 32)
SMALL = (
    "device=cpu", "threads=1", "data.height=64", "data.width=32", "sampler.instances=2",
    "evaluation.rerank=[4, 2, 0.3]", "evaluation.every=5",
    "video.frames=2", "video.min_frames=1", "pretrain.epochs=1", "pretrain.steps=1",
    "pretrain.identities=3", "pretrain.views=1",
)  # fmt: skip
STAGES = {
    "csdn": ("prompts", "fusion", "visual"),
    "clip4vi_reid": ("tsg", "ife", "hsa"),
    "clip_mc": ("train",),
    "lsmrl": ("train",),
}
LSMRL = ("lsmrl.steps=1", "lsmrl.groups=2", "lsmrl.grouped_blocks=1", "lsmrl.shift_blocks=1")
_VIDEO = ("hitsz_vcm", "bupt_campus")


def shrink(arguments: list[str]) -> list[str]:
    """The arguments of `vireid` with what makes the command small."""
    command, name = arguments[0], _option(arguments, "--config", "-c")
    if command in ("train", "pretrain") and name is not None:
        return [*arguments, *_overrides(name)]
    if command == "synth":
        layout = _option(arguments, "--layout") or "sysu_mm01"
        walks = layout in _VIDEO or "--tracklets" in arguments
        more = ["--tracklets", "1", "--tracklet-frames", "4"] if walks else ["--views", "1"]
        return [*arguments, "--identities", "8", "--height", "64", "--width", "32", *more]
    return arguments


def provide(text: str, cache: Path) -> None:
    """Put every stand-in that `text` names and that is not there into the current folder."""
    text = re.sub(r'open\("[^"]+", "w', "", text)
    for name, make in STAND_INS.items():
        named = re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w-]|\.\w)", text)
        if named is None or Path(name).exists():
            continue
        kept = cache / name
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            make(kept)
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        beside = kept.with_name(f"{kept.stem}-images")
        for source in (kept, beside) if beside.exists() else (kept,):
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, Path(name).with_name(source.name))


def _option(arguments: list[str], *names: str) -> str | None:
    given = dict(zip(arguments, arguments[1:], strict=False))
    return next((given[name] for name in names if name in given), None)


def _overrides(name: str) -> list[str]:
    config = load_config(name)
    method, stages = config.method, STAGES[config.method]
    family = "ViT-small" if config.clip.architecture.startswith("ViT") else "RN-small"
    epochs = [f"{method}.{stage}.epochs=1" for stage in stages]
    # An identity for each process of torchrun.
    persons = f"sampler.identities={max(2, int(os.environ.get('WORLD_SIZE', '1')))}"
    own = LSMRL if method == "lsmrl" else ()
    return [*SMALL, persons, *epochs, f"clip.architecture={family}", *own]


def _layout(layout: str) -> Callable[[Path], None]:
    walks = {"tracklets": 1, "tracklet_frames": 4} if layout in _VIDEO else {"views": 1}

    def make(path: Path) -> None:
        write_layout(layout, path, identities=8, size=SIZE, seed=3, **walks)

    return make


class _Holder(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _archive(architecture: str) -> Callable[[Path], None]:
    """A TorchScript archive with OpenAI's names, as openai/CLIP distributes its weights."""

    def make(path: Path) -> None:
        clip = build_backbone(ClipConfig(architecture=architecture), SIZE).clip
        root = _Holder()
        for name, value in openai_state_dict(clip).items():
            *parents, leaf = name.split(".")
            module: nn.Module = root
            for parent in parents:
                if not hasattr(module, parent):
                    module.add_module(parent, _Holder())
                module = getattr(module, parent)
            module.register_buffer(leaf, value.detach().clone().contiguous())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(root), path)

    return make


def _run(preset: str, layout: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        root = path.with_name(path.name + "-data")
        _layout(layout)(root)
        workflow.train(load_config(preset, [f"data.root={root}", *_overrides(preset)]), path)

    return make


def _features(cameras: tuple[int, ...], rows: int = 144) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        generator = np.random.default_rng(len(cameras))
        ids = np.arange(rows) // 2 % 12
        centers = np.random.default_rng(0).standard_normal((12, 32))
        features = centers[ids] + 0.7 * generator.standard_normal((rows, 32))
        camera_ids = np.resize(np.repeat(cameras, 24), rows)
        np.savez(path, features=features.astype(np.float32), person_ids=ids + 1,
                 camera_ids=camera_ids, modality=np.isin(camera_ids, (3, 6)).astype(np.int64))

    return make


def _array(kind: str) -> Callable[[Path], None]:
    """query.npy, gallery.npy and labels.npz of one set."""

    def make(path: Path) -> None:
        generator = np.random.default_rng(0)
        ids = np.arange(400) % 25
        rows = generator.standard_normal((25, 16))[ids] + generator.standard_normal((400, 16))
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        cameras = np.arange(400) % 6 + 1
        if kind == "labels":
            np.savez(path, query_ids=ids[:50], gallery_ids=ids[50:], query_cameras=cameras[:50],
                     gallery_cameras=cameras[50:])  # fmt: skip
        else:
            np.save(path, rows[:50] if kind == "query" else rows[50:])

    return make


def _manifest(path: Path) -> None:
    """A manifest and, beside it, the folder of its images."""
    images = path.with_name(f"{path.stem}-images")
    write_layout("manifest", images, identities=8, size=SIZE, seed=3, views=1)
    head, *rows = (images / "manifest.csv").read_text().splitlines()
    path.write_text("\n".join([head, *(f"{images.name}/{row}" for row in rows)]) + "\n")


def _folders(walks: dict[str, int]) -> Callable[[Path], None]:
    """Images in folders PERSON/MODALITY/CAMERA, of walks in one more."""

    def make(path: Path) -> None:
        listed = path.with_name(path.name + "-listed")
        write_layout("manifest", listed, identities=8, size=SIZE, seed=3, **walks)
        with open(listed / "manifest.csv", newline="") as file:
            for number, row in enumerate(csv.DictReader(file)):
                place = path / row["person_id"] / row["modality"] / row["camera_id"]
                image = place / row.get("tracklet", "") / f"{row.get('frame', number)}.jpg"
                image.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(listed / row["path"], image)

    return make


def _image(path: Path) -> None:
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def _published(kind: str, **sizes: int) -> Callable[[Path], None]:
    """A checkpoint as the authors of a method publish it."""

    def make(path: Path) -> None:
        write_published(kind, path, **sizes)

    return make


STAND_INS: dict[str, Callable[[Path], None]] = {
    "SYSU-MM01": _layout("sysu_mm01"),
    "RegDB": _layout("regdb"),
    "LLCM": _layout("llcm"),
    "HITSZ-VCM": _layout("hitsz_vcm"),
    "BUPTCampus/DATA": _layout("bupt_campus"),
    "photos": _folders({"views": 1}),
    "walks": _folders({"tracklets": 1, "tracklet_frames": 4}),
    "sysu_agw_p4_n8_lr_0.1_seed_0_best.t": _published("agw"),
    "model_119.pth": _published("csdn"),
    "ViT-B-16_60.pth": _published("clip-reid-vit"),
    "ViT-B-16_sie_olp.pth": _published("clip-reid-vit", cameras=4, places=210),
    "csdn.pth": _published("csdn"),
    "clip_reid.pth": _published("clip-reid-vit"),
    "photo.jpg": _image,
    "visible.jpg": _image,
    "infrared.jpg": _image,
    "a.jpg": _image,
    "b.jpg": _image,
    "people.csv": _manifest,

    "RN50.pt": _archive("RN-small"),
    "ViT-B-16.pt": _archive("ViT-small"),
    "q.npz": _features((3, 6), 48),
    "g.npz": _features((1, 2, 4, 5), 96),
    "all.npz": _features((1, 2, 3, 4, 5, 6)),
    "query.npy": _array("query"),
    "gallery.npy": _array("gallery"),
    "labels.npz": _array("labels"),
    "runs/small": _run("csdn/sysu_mm01_small", "sysu_mm01"),
}
"""What is made for each path that the pages name."""
