"""`vireid convert` and `vireid export` as a stranger uses them."""

import json
import os
import pickle

import pytest
import torch
from published_checkpoints import write_published

from vireid_fast.data.feature_files import read_features, read_metadata, read_paths
from vireid_fast.data.images import load_image
from vireid_fast.engine import onnx_export
from vireid_fast.engine.networks import open_network


def test_convert_tells_what_it_read(vireid, tmp_path):
    write_published("agw", tmp_path / "best.t")
    out = tmp_path / "models" / "agw"
    told = vireid.ok(
        "convert", tmp_path / "best.t", "--out", out, "--size", "64,32", "--neck", "before",
        "--data", "sysu_mm01", "--origin", "an archive", "--licence", "unknown",
    ).out  # fmt: skip
    for part in ("format: agw", "images of 64 x 32, 5 identities", "features norm(f)",
                 "generalised-mean pooling", "never run", f"written: {out}"):  # fmt: skip
        assert part in told
    card = json.loads((out / "card.json").read_text())
    assert card["data"] == "sysu_mm01" and card["licence"] == "unknown"
    assert card["source"].startswith("an archive, best.t with SHA-256 ")
    assert card["network"]["neck"] == "before"


def test_convert_asks_for_the_camera(vireid, tmp_path):
    write_published("clip-reid-vit", tmp_path / "ViT.pth", cameras=4, places=210)
    told = vireid.error("convert", tmp_path / "ViT.pth", "--out", tmp_path / "model")
    assert "4 camera embeddings" in told and "--camera mean" in told
    assert not (tmp_path / "model").exists()
    for camera in ("mean", "2"):
        out = vireid.ok(
            "convert", tmp_path / "ViT.pth", "--out", tmp_path / "model", "--camera", camera,
            "--sie-coefficient", "3",
        ).out  # fmt: skip
        assert f"camera embedding {camera}" in out and "stride 12, images of 256 x 128" in out
    assert json.loads((tmp_path / "model" / "card.json").read_text())["network"]["camera"] == 2


def test_convert_slims_runs_and_corrects_cards(vireid, run, tmp_path):
    told = vireid.ok("convert", run, "--out", tmp_path / "slim").out
    assert "model: csdn" in told
    assert sorted(os.listdir(tmp_path / "slim")) == ["card.json", "model.safetensors"]
    vireid.ok("convert", tmp_path / "slim", "--out", tmp_path / "copy", "--licence", "CC0")
    assert json.loads((tmp_path / "copy" / "card.json").read_text())["licence"] == "CC0"
    for model in ("slim", "copy"):
        vireid.ok("convert", tmp_path / model, "--out", tmp_path / "again")
    told = vireid.error("convert", run, "--out", run)
    assert "must differ from the source" in told
    told = vireid.error("convert", tmp_path / "slim", "--out", run)
    assert "must be new or a model folder" in told


def test_convert_features(vireid, write, tmp_path):
    source = write("features.npz")
    vireid.ok("convert", source, "--out", tmp_path / "features.safetensors")
    vireid.ok("convert", tmp_path / "features.safetensors", "--out", tmp_path / "back.npz")
    before, after = read_features(source), read_features(tmp_path / "back.npz")
    assert before.keys() == after.keys()
    assert all((before[key] == after[key]).all() for key in before)
    assert read_metadata(source) == read_metadata(tmp_path / "back.npz")
    write_published("csdn", tmp_path / "model.pth")
    told = vireid.error("convert", tmp_path / "model.pth", "--out", tmp_path / "x.npz")
    assert "must be a feature file" in told
    told = vireid.error("convert", source, "--out", tmp_path / "features.txt")
    assert "path suffix must be one of ['.npz', '.safetensors', '.h5'], got '.txt'" in told


class _Hostile:
    def __reduce__(self):
        return os.system, ("echo was run",)


def test_convert_refuses_in_one_sentence(vireid, tmp_path):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(_Hostile()))
    (tmp_path / "empty.pth").touch()
    for name, part in (
        ("evil.pth", "evil.pth must"), ("empty.pth", "must be an intact torch"),
        ("absent.pth", "the source must exist"),
    ):  # fmt: skip
        assert part in vireid.error("convert", tmp_path / name, "--out", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_export_prints_what_it_compared(vireid, tmp_path):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    write_published("clip-reid-vit", tmp_path / "ViT.pth")
    vireid.ok("convert", tmp_path / "ViT.pth", "--out", tmp_path / "model")
    out = tmp_path / "onnx" / "vit.onnx"
    told = vireid.ok("export", "--model", tmp_path / "model", "--out", out).out
    for part in (f"written: {out}  both", "RGB in 0..1, resized by bilinear", "1 random: largest",
                 "7 drawn:", "2 black, white:", f"written: {out}.json"):  # fmt: skip
        assert part in told
    assert sorted(os.listdir(out.parent)) == ["vit.onnx", "vit.onnx.json"]


def test_export_fails_where_features_differ(vireid, tmp_path, monkeypatch):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    write_published("clip-reid-resnet", tmp_path / "RN.pth")
    vireid.ok("convert", tmp_path / "RN.pth", "--out", tmp_path / "model")
    rebuilt = onnx_export._rebuilt

    def wrong(network, backend):
        """The traced network differs from the one that it is compared with."""
        module = rebuilt(network, backend)
        if backend == "reference":
            module.visual.stem.conv1.weight.data *= 1.001
        return module

    monkeypatch.setattr(onnx_export, "_rebuilt", wrong)
    out = tmp_path / "out"
    told = vireid.error("export", "--model", tmp_path / "model", "--out", out / "a.onnx",
                        "--tolerance", "1e-6")  # fmt: skip
    assert "a.onnx must give the network's features within 1e-06" in told
    assert os.listdir(out) == []


def test_export_asks_for_one_model(vireid, run, tmp_path):
    told = vireid.error("export", "--out", tmp_path / "a.onnx")
    assert "--run or --model must be given, one of them, got neither" in told
    told = vireid.error("export", "--run", run, "--model", run, "--out", tmp_path / "a.onnx")
    assert "got both" in told
    told = vireid.error("export", "--run", run, "--out", tmp_path / "a.pt")
    assert "--out must end in .onnx" in told
    assert vireid("export", "--run", run, "--out", tmp_path / "a.onnx", "--batch", "x").code == 2


def test_an_imported_model_is_evaluated_like_a_run(vireid, root, tmp_path):
    write_published("clip-reid-vit", tmp_path / "ViT.pth")
    vireid.ok("convert", tmp_path / "ViT.pth", "--out", tmp_path / "model")
    out = tmp_path / "test.npz"
    of_data = ("--data", "sysu_mm01", "--data-root", root)
    told = vireid.ok("extract", "--model", tmp_path / "model", *of_data, "--out", out).out
    assert "images, width 88" in told
    notes = read_metadata(out)
    assert notes["method"] == "clip-reid" and notes["data"] == "sysu_mm01"
    assert notes["processing.features"] == "norm([f; p])" and notes["split"] == "test"
    # Images are resized as the card says.
    network = open_network(tmp_path / "model")
    arrays, paths = read_features(out), read_paths(out)
    pixels = load_image(root / paths[0], (64, 32), "bilinear").astype("float32") / 255
    images = network.augmentation.normalize(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    want = network.encode(images, ("visible", "infrared")[arrays["modality"][0]])[0]
    torch.testing.assert_close(torch.from_numpy(arrays["features"][0]), want)
    assert "mAP" in vireid.ok("eval", "--features", out).out

    for arguments, part in (
        (("--model", tmp_path / "model", *of_data[:2]), "got no --data-root, --out"),
        (("--model", tmp_path / "model", *of_data, "--out", out, "--modality", "visible"),
         "--modality must come with --images"),
        (("--run", root, *of_data), "--data, --data-root must come with --model alone"),
        (("--model", tmp_path / "model", *of_data, "--out", out, "--split", "all"),
         "--split must be one of"),
    ):  # fmt: skip
        assert part in vireid.error("extract", *arguments)
