"""ONNX files give the features of their networks, or are not written."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import torch
from method_cases import tiny_config
from published_checkpoints import write_published

from vireid_fast.engine import onnx_export, onnx_graph, onnx_parity
from vireid_fast.engine.imports import ImportOptions
from vireid_fast.engine.imports.conversion import convert_checkpoint
from vireid_fast.engine.method_setup import build_method, card_of
from vireid_fast.engine.model_card import save_model
from vireid_fast.engine.networks import open_network
from vireid_fast.engine.onnx_export import ExportError, card_path, export_onnx
from vireid_fast.ops import pairwise_distance

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

SIZE = (64, 32)
VIT = ("clip.architecture=ViT-small", "clip.stem_relu=clip", "clip.layer4_stride=2")


def _randomise(module: torch.nn.Module) -> None:
    """No parameter stays at a start that would hide what it does, such as zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if value.requires_grad and not name.endswith("exponent"):
                value += 0.02 * torch.randn(value.shape, generator=generator)
        for name, value in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value += 0.1 * torch.rand(value.shape, generator=generator)


def _own(method, folder, *overrides):
    """A model folder of a method of ours, with random weights."""
    config = tiny_config(method, folder, "data.root=nowhere", *overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        built = build_method(config, 5)
    _randomise(built.model)
    save_model(folder / "model", card_of(built, 5), built.model.state_dict())
    return open_network(folder / "model")


def _imported(kind, folder, options=None, **sizes):
    write_published(kind, folder / "checkpoint.pth", **sizes)
    options = options or ImportOptions(size=SIZE)
    convert_checkpoint(folder / "checkpoint.pth", folder / "model", "auto", options)
    return open_network(folder / "model")


def _run(path, images: np.ndarray) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["images"]
    return torch.from_numpy(session.run(["features"], {"images": images})[0])


def _require_equal(path, network, modality, counts=(1, 4)):
    """Pixels of a picture, fed as the documentation says."""
    for count in counts:
        pixels = np.random.default_rng(count).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)
        images = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255
        normal = network.augmentation.normalize(torch.from_numpy(images))
        want = network.encode(normal, modality)
        torch.testing.assert_close(_run(path, images), want, atol=2e-6, rtol=1e-4)


def test_csdn_becomes_two_files(tmp_path):
    network = _own("csdn", tmp_path)
    files = export_onnx(network, tmp_path / "out" / "csdn.onnx")
    assert [(file.path.name, file.modality) for file in files] == [
        ("csdn-visible.onnx", "visible"), ("csdn-infrared.onnx", "infrared"),
    ]  # fmt: skip
    for file in files:
        _require_equal(file.path, network, file.modality)
        assert [(row.images, row.kind) for row in file.parity] == [
            (1, "random"), (3, "random"), (7, "drawn"), (2, "black, white"),
        ]  # fmt: skip
        assert all(row.largest < 1e-5 and row.cosine > 0.99999 for row in file.parity)
        card = json.loads(card_path(file.path).read_text())
        assert card["method"] == "csdn" and card["modality"] == file.modality
        assert card["input"] == "images: float32 (N, 3, 64, 32), RGB in 0..1"
        model = onnx.load(file.path)
        notes = {entry.key: entry.value for entry in model.metadata_props}
        assert notes["interpolation"] == "lanczos" and json.loads(notes["height"]) == 64
        assert json.loads(notes["mean_inside"]) == pytest.approx([0.485, 0.456, 0.406])
        assert notes["model_sha256"] == network.card.digest
        onnx.checker.check_model(model, full_check=True)
        assert {node.domain for node in model.graph.node} == {""}
        # No path of the machine that wrote it.
        assert b"site-packages" not in file.path.read_bytes()
    assert sorted(os.listdir(tmp_path / "out")) == [
        "csdn-infrared.onnx", "csdn-infrared.onnx.json", "csdn-visible.onnx",
        "csdn-visible.onnx.json",
    ]  # fmt: skip


def test_clip4vi_reid_with_a_vit_is_one_file(tmp_path):
    network = _own("clip4vi_reid", tmp_path, *VIT, "backend=fused")
    (file,) = export_onnx(network, tmp_path / "one.onnx")
    assert (file.path, file.modality) == (tmp_path / "one.onnx", "both")
    for modality in ("visible", "infrared"):
        _require_equal(file.path, network, modality)


def test_clip_mc_with_its_text_tower(tmp_path):
    network = _own("clip_mc", tmp_path, *VIT)
    (file,) = export_onnx(network, tmp_path / "mc.onnx", modality="infrared")
    assert (file.path, file.modality) == (tmp_path / "mc.onnx", "infrared")
    _require_equal(file.path, network, "infrared")
    other = network.encode(torch.zeros(1, 3, *SIZE), "visible")
    assert not torch.allclose(other, network.encode(torch.zeros(1, 3, *SIZE), "infrared"))


def test_clip_reid_with_a_fixed_number_of_images(tmp_path):
    options = ImportOptions(size=SIZE, camera="mean")
    network = _imported("clip-reid-vit", tmp_path, options, cameras=4, places=10)
    (file,) = export_onnx(network, tmp_path / "two.onnx", batch=2, opset=20)
    assert file.card["input"].startswith("images: float32 (2, 3, ")
    _require_equal(file.path, network, "visible", counts=(2,))
    model = onnx.load(file.path)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    assert model.opset_import[0].version == 20
    first = file.path.read_bytes()
    export_onnx(network, tmp_path / "two.onnx", batch=2, opset=20)
    assert file.path.read_bytes() == first


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An imported network and its file, traced once for all that follow."""
    folder = tmp_path_factory.mktemp("agw")
    network = _imported("agw", folder, layers=(1, 1, 1, 1))
    (file,) = export_onnx(network, folder / "agw.onnx", modality="infrared")
    return network, file.path


def test_agw_whose_pooling_adds_a_small_number(exported):
    network, path = exported
    _require_equal(path, network, "infrared")
    card = json.loads(card_path(path).read_text())
    assert "Cross-Modal-Re-ID-baseline" in card["source"] and card["metric"] == "dot"


def _weights(model):
    return max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))


def _scale(model):
    tensor = _weights(model)
    values = np.frombuffer(tensor.raw_data, np.float32) * np.float32(1.01)
    tensor.raw_data = values.tobytes()


def _poison(model):
    tensor = _weights(model)
    tensor.raw_data = np.full(len(tensor.raw_data) // 4, np.nan, np.float32).tobytes()


def _drop_small_numbers(model):
    """What an optimiser did that took 1e-12 for zero."""
    added = {name for node in model.graph.node if node.op_type == "Add" for name in node.input}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in added:
            (attribute,) = node.attribute
            value = onnx.numpy_helper.to_array(attribute.t)
            if value.size == 1 and 0 < value.item() < 1e-10:
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(value)))


@pytest.mark.parametrize("change", [_scale, _poison, _drop_small_numbers])
def test_a_wrong_graph_is_not_written(exported, tmp_path, monkeypatch, change):
    network, path = exported
    wrong = onnx.load(path)
    change(wrong)
    monkeypatch.setattr(onnx_export, "trace", lambda *_: wrong)
    with pytest.raises(ExportError, match=r"agw\.onnx must give .* within 0\.0001, got a differ"):
        export_onnx(network, tmp_path / "agw.onnx", modality="infrared")
    assert os.listdir(tmp_path) == []
    # A previous file and its card stay as they were.
    shutil.copy(path, tmp_path / "agw.onnx")
    card_path(tmp_path / "agw.onnx").write_text("{}")
    with pytest.raises(ExportError, match="Nothing was written"):
        export_onnx(network, tmp_path / "agw.onnx", modality="infrared")
    assert (tmp_path / "agw.onnx").read_bytes() == path.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["agw.onnx", "agw.onnx.json"]


def test_the_second_file_being_wrong_leaves_none(exported, tmp_path, monkeypatch):
    network, path = exported
    # Of infrared images; the first comparison is of visible ones.
    right = {"visible": None, "infrared": onnx.load(path)}
    calls = []

    def measured(file, module, *arguments, **options):
        calls.append(module.modality)
        rows = onnx_parity.measure(file, module, *arguments, **options)
        if module.modality == "visible":
            rows = [dataclasses.replace(row, largest=0.0, relative=0.0, cosine=1.0)
                    for row in rows]  # fmt: skip
        else:
            rows[2] = dataclasses.replace(rows[2], largest=1.0)
        return rows

    monkeypatch.setattr(onnx_export, "trace", lambda *_: right["infrared"])
    monkeypatch.setattr(onnx_export, "measure", measured)
    with pytest.raises(ExportError, match=r"agw-infrared\.onnx .* on 7 drawn images"):
        export_onnx(network, tmp_path / "agw.onnx")
    assert calls == ["visible", "infrared"] and os.listdir(tmp_path) == []


def test_differences_are_measured():
    want = torch.eye(3, dtype=torch.float64)
    row = onnx_parity.compare("random", want + torch.tensor([0.0, 0.3, 0.0]), want)
    assert row.images == 3 and row.largest == pytest.approx(0.3)
    assert row.relative == pytest.approx(0.3) and row.cosine == pytest.approx(1 / 1.09**0.5)
    assert row.worst == pytest.approx(0.3)
    assert onnx_parity.compare("random", want[:, :2], want).worst == float("inf")
    assert onnx_parity.compare("random", want * torch.nan, want).worst == float("inf")


class _Small(torch.nn.Module):
    def forward(self, images):
        return (images.mean((2, 3)) + 1e-12).pow(1 / 3)


class _Counting(torch.nn.Module):
    def forward(self, images):
        return images.mean((2, 3)) * len(images)


class _OwnOperator(torch.nn.Module):
    def forward(self, images):
        return pairwise_distance(images.flatten(1), images.flatten(1))


def test_small_summands_stay():
    model = onnx_graph.trace(_Small(), (4, 4), None, 18, {"b": 1, "a": "x"})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (got,) = session.run(None, {"images": np.zeros((5, 3, 4, 4), np.float32)})
    assert got == pytest.approx(np.full((5, 3), 1e-4), rel=1e-5)
    assert [(e.key, e.value) for e in model.metadata_props] == [("a", "x"), ("b", "1")]


@pytest.mark.parametrize("module", [_Counting, _OwnOperator])
def test_networks_that_cannot_be_written(module):
    with pytest.raises(onnx_graph.GraphError, match="export: the network must be traceable"):
        onnx_graph.trace(module(), (4, 4), None, 18, {})


def test_foreign_operators_are_refused(exported):
    model = onnx.load(exported[1])
    model.graph.node[0].domain = "vireid_fast"
    with pytest.raises(onnx_graph.GraphError, match="standard operators alone, got vireid_fast::"):
        onnx_graph._require_standard(model, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "thermal"}, "--modality must be one of"),
        ({"batch": 0}, "--batch must be dynamic or a number in 1..4096, got 0"),
        ({"opset": 17}, "--opset must lie in 18..23, got 17"),
        ({"tolerance": 0.0}, "--tolerance must lie between 0 and 1"),
        ({"out": "x.pt"}, "--out must end in .onnx"),
        ({"out": "folder.onnx"}, "--out must be a file"),
    ],
)
def test_options_that_do_not_fit(exported, tmp_path, options, message):
    (tmp_path / "folder.onnx").mkdir()
    out = tmp_path / options.pop("out", "a.onnx")
    with pytest.raises(ValueError, match=message):
        export_onnx(exported[0], out, **options)


def test_networks_of_video_are_refused(exported, tmp_path):
    clips = dataclasses.replace(exported[0], sampling=object())
    with pytest.raises(ValueError, match="must be a network of images, got agw, which reads clips"):
        export_onnx(clips, tmp_path / "a.onnx")


def test_absent_packages_are_named(exported, tmp_path, monkeypatch):
    find = onnx_graph.importlib.util.find_spec
    monkeypatch.setattr(
        onnx_graph.importlib.util, "find_spec",
        lambda name: None if name in ("onnxruntime", "onnxscript") else find(name),
    )  # fmt: skip
    message = r'no onnxruntime, onnxscript\. Run pip install "vireid_fast\[onnx\]"'
    with pytest.raises(RuntimeError, match=message):
        export_onnx(exported[0], tmp_path / "a.onnx")


def test_a_file_too_large_for_onnx(tmp_path):
    class Huge:
        def ByteSize(self):
            return 2**31

    with pytest.raises(ExportError, match=r"below 2 GB, the limit of one ONNX file, got 2\.1 GB"):
        onnx_export._write(tmp_path / "x", tmp_path / "a.onnx", Huge())
