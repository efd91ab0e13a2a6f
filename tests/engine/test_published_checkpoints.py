"""Published checkpoints become model folders whose features are those of the published networks."""

import dataclasses
import json

import pytest
import torch
from published_checkpoints import (
    STAND_INS,
    agw_state,
    clip_reid_resnet_state,
    clip_reid_vit_state,
    csdn_state,
    write_published,
)
from published_forwards import agw_features, clip_reid_features, csdn_features
from safetensors.torch import save_file

from vireid_fast.engine.imports import FORMATS, ImportOptions
from vireid_fast.engine.imports.conversion import (
    convert_checkpoint,
    describe_import,
    import_checkpoint,
)
from vireid_fast.engine.imports.settings import Shapes
from vireid_fast.engine.model_card import ModelCard
from vireid_fast.engine.networks import open_network

SIZE = (64, 32)
SMALL = ImportOptions(size=SIZE)


def _images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def _opened(kind, tmp_path, options=SMALL, **sizes):
    state = write_published(kind, tmp_path / "checkpoint.pth", **sizes)
    convert_checkpoint(tmp_path / "checkpoint.pth", tmp_path / "model", "auto", options)
    return state, open_network(tmp_path / "model")


@pytest.mark.parametrize("modality", ["visible", "infrared"])
@pytest.mark.parametrize("neck", ["after", "before"])
@pytest.mark.parametrize("non_local", [True, False])
def test_agw_gives_the_published_features(tmp_path, modality, neck, non_local):
    options = dataclasses.replace(SMALL, neck=neck)
    state, network = _opened("agw", tmp_path, options, non_local=non_local)
    want = agw_features(
        state, _images(), modality, neck=neck, pooling="gem" if non_local else "average"
    )
    torch.testing.assert_close(
        network.encode(_images(), modality).double(), want, atol=1e-5, rtol=0
    )
    assert network.card.epoch == 42 and network.card.num_identities == 5
    assert network.card.network["non_local"] == ([0, 2, 2, 0] if non_local else [0, 0, 0, 0])


@pytest.mark.parametrize("modality", ["visible", "infrared"])
def test_csdn_gives_the_published_features(tmp_path, modality):
    state, network = _opened("csdn", tmp_path)
    want = csdn_features(state, _images(), modality)
    assert want.shape == (3, network.card.feature_width)
    torch.testing.assert_close(
        network.encode(_images(), modality).double(), want, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("kind", ["clip-reid-vit", "clip-reid-resnet"])
@pytest.mark.parametrize("neck", ["after", "before"])
@pytest.mark.parametrize("text", [True, False], ids=["clip-reid", "baseline"])
def test_clip_reid_gives_the_published_features(tmp_path, kind, neck, text):
    options = ImportOptions(neck=neck)
    state, network = _opened(kind, tmp_path, options, text=text)
    want = clip_reid_features(state, _images(), neck=neck)
    for modality in ("visible", "infrared"):
        torch.testing.assert_close(
            network.encode(_images(), modality).double(), want, atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("camera", ["mean", "none", 2])
def test_clip_reid_with_camera_embeddings_and_overlapping_patches(tmp_path, camera):
    options = ImportOptions(size=SIZE, camera=camera, coefficient=3.0)
    # (64 - 16) // 12 + 1 = 5 rows, 2 columns.
    state, network = _opened("clip-reid-vit", tmp_path, options, cameras=4, places=10)
    rows = state["cv_embed"]
    row = {"mean": rows.mean(0), "none": torch.zeros(64), 2: rows[2]}[camera]
    want = clip_reid_features(state, _images(), stride=12, shift=3.0 * row.expand(3, -1))
    torch.testing.assert_close(
        network.encode(_images(), "infrared").double(), want, atol=1e-5, rtol=0
    )
    cameras = torch.tensor([3, 0, 1])
    told = network.module.test_features(_images(), "visible", cameras)
    want = clip_reid_features(state, _images(), stride=12, shift=3.0 * rows[cameras])
    torch.testing.assert_close(told.double(), want, atol=1e-5, rtol=0)
    assert network.card.network["stride"] == 12
    assert network.card.processing["camera embedding"] == str(camera)


def test_both_backends_agree(tmp_path):
    for kind in ("csdn", "clip-reid-vit", "clip-reid-resnet"):
        _, network = _opened(kind, tmp_path)
        plain = FORMATS[network.card.method].build(network.card, "reference").eval()
        plain.load_state_dict(network.module.state_dict())
        torch.testing.assert_close(
            plain.test_features(_images(), "visible"), network.encode(_images(), "visible"),
            atol=1e-5, rtol=0,
        )  # fmt: skip


PUBLISHED = {
    # name: (state dict at the published sizes, identities, size, feature width, settings)
    "agw": (
        agw_state(width=64, layers=(3, 4, 6, 3), identities=395, empty=True),
        (288, 144), 2048, "ResNet-50", {"non_local": [0, 2, 3, 0], "pooling": "gem"},
    ),
    "csdn": (
        csdn_state(width=64, layers=(3, 4, 6, 3), joint=1024, places=162, identities=395,
                   text_width=512, text_layers=12, empty=True),
        (288, 144), 2 * (2048 + 1024), "RN50", {"heads": 32, "stem_relu": "csdn"},
    ),
    "clip-reid": (
        clip_reid_vit_state(width=768, layers=12, joint=512, places=128, identities=751,
                            empty=True),
        (256, 128), 1280, "ViT-B/16", {"heads": 12, "stride": 16, "activation": "quick_gelu"},
    ),
    "clip-reid SIE OLP": (
        clip_reid_vit_state(width=768, layers=12, joint=512, places=210, identities=1041,
                            cameras=15, empty=True),
        (256, 128), 1280, "ViT-B/16, stride 12", {"stride": 12, "cameras": 15},
    ),
    "clip-reid vehicles": (
        clip_reid_vit_state(width=768, layers=12, joint=512, places=256, identities=576,
                            empty=True),
        (256, 256), 1280, "ViT-B/16", {"stride": 16},
    ),
    "clip-reid RN50": (
        clip_reid_resnet_state(width=64, layers=(3, 4, 6, 3), joint=1024, places=128,
                               identities=751, empty=True),
        (256, 128), 3072, "RN50", {"heads": 32},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_read_from_the_shapes(name, tmp_path):
    state, size, width, architecture, settings = PUBLISHED[name]
    kind = FORMATS[name.split()[0]]
    assert [other.name for other in FORMATS.values() if other.recognises(state)] == [kind.name]
    options = ImportOptions(camera="mean" if "cv_embed" in state else None)
    described = kind.describe(Shapes(tmp_path, state, kind.name), options)
    assert (described.preprocessing.height, described.preprocessing.width) == size
    assert described.architecture == architecture
    assert settings.items() <= described.network.items()
    card = ModelCard(
        method=kind.name, preprocessing=described.preprocessing, feature_width=width,
        network=described.network, num_identities=described.num_identities,
    )  # fmt: skip
    outline = kind.outline(card)
    assert outline.feature_width == width
    ours = {kind.published_name(name): tuple(value.shape)
            for name, value in outline.state_dict().items()}  # fmt: skip
    for theirs, shape in ours.items():
        # The released GeM exponent has one axis.
        found = tuple(state[theirs].shape)
        assert found == (shape or ((1,) if theirs.endswith("GEM.p") else ())), theirs
    rest = set(state) - set(ours)
    assert all(kind.reason_to_drop(name) for name in rest)


def test_wrappers_prefixes_suffixes_and_halves(tmp_path):
    state = agw_state()
    images = _images()
    torch.save(state, tmp_path / "plain.t")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "lr": 0.1},
               tmp_path / "wrapped.tar")  # fmt: skip
    torch.save({"model": {"net": state}}, tmp_path / "twice.pth",
               _use_new_zipfile_serialization=False)  # fmt: skip
    save_file({k: v.contiguous().clone() for k, v in state.items()}, tmp_path / "x.safetensors")
    want = agw_features(state, images, "visible")
    for name in ("plain.t", "wrapped.tar", "twice.pth", "x.safetensors"):
        convert_checkpoint(tmp_path / name, tmp_path / "model", "agw", SMALL)
        got = open_network(tmp_path / "model").encode(images, "visible").double()
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    # A counter may be absent.
    half = {k: v for k, v in half.items() if not k.endswith("num_batches_tracked")}
    torch.save(half, tmp_path / "half.pth")
    imported = import_checkpoint(tmp_path / "half.pth", "auto", SMALL)
    assert imported.tensors["neck.norm.weight"].dtype == torch.float32


def test_numpy_before_version_2_is_read(tmp_path):
    path = tmp_path / "old.t"
    state = write_published("agw", path)
    torch.save({"net": state, "cmc": torch.ones(2).numpy(), "epoch": 3}, path,
               _use_new_zipfile_serialization=False)  # fmt: skip
    old = path.read_bytes().replace(b"numpy._core.", b"numpy.core.")
    assert old != path.read_bytes()
    path.write_bytes(old)
    assert import_checkpoint(path, "agw", SMALL).card.epoch == 3


def test_what_was_read_is_told(tmp_path):
    path = tmp_path / "model_119.pth"
    write_published("csdn", path)
    imported = convert_checkpoint(path, tmp_path / "model", "auto",
                                  ImportOptions(data="sysu_mm01", licence="unknown"))  # fmt: skip
    text = "\n".join(describe_import(imported))
    for part in ("format: csdn", "5 identities", "64 x 32",
                 "learned prompts of both modalities (6)", "of the texts (8)"):  # fmt: skip
        assert part in text
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["data"] == "sysu_mm01" and "model_119.pth with SHA-256" in card["source"]
    # A conversion depends on nothing but the file.
    convert_checkpoint(path, tmp_path / "again", "csdn",
                       ImportOptions(data="sysu_mm01", licence="unknown"))  # fmt: skip
    for name in ("card.json", "model.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_stand_ins_cover_all_formats():
    assert {name.removesuffix("-vit").removesuffix("-resnet") for name in STAND_INS} == set(FORMATS)
