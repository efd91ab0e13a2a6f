"""Loading weights: every format, what is reported, and what is refused."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vireid_fast.clip import WeightsError, load_weights, openai_state_dict, resize_positions
from vireid_fast.clip.weights import openai_name

FAMILIES = ["ViT-small", "RN-small"]
MARKERS = {
    "input_resolution": torch.tensor(32),
    "context_length": torch.tensor(12),
    "vocab_size": torch.tensor(50),
}


def contiguous(state):
    return {name: value.clone().contiguous() for name, value in state.items()}


def open_clip_config(quick_gelu: bool | None) -> str:
    model = {"embed_dim": 16} | ({} if quick_gelu is None else {"quick_gelu": quick_gelu})
    return json.dumps({"model_cfg": model, "preprocess_cfg": {}})


def assert_equal_models(a, b) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def torchscript_archive(state) -> torch.jit.ScriptModule:
    """A scripted module whose state dict is `state`."""
    return torch.jit.script(_nest(state))


class Holder(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _nest(state) -> nn.Module:
    root = Holder()
    for name, value in state.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, Holder())
            module = getattr(module, part)
        module.register_buffer(leaf, value.clone())
    return root


@pytest.fixture
def pair(tiny_clip):
    """A model with weights, and an equal one with others."""
    return tiny_clip(seed=1), tiny_clip(seed=2)


def test_names_are_those_of_openai(tiny_clip):
    vit = set(openai_state_dict(tiny_clip("ViT-small", visual_layers=1, text_layers=1)))
    block = {
        f"resblocks.0.{name}"
        for name in (
            "attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight",
            "attn.out_proj.bias", "ln_1.weight", "ln_1.bias", "mlp.c_fc.weight", "mlp.c_fc.bias",
            "mlp.c_proj.weight", "mlp.c_proj.bias", "ln_2.weight", "ln_2.bias",
        )
    }  # fmt: skip
    text = {
        "positional_embedding", "text_projection", "logit_scale", "token_embedding.weight",
        "ln_final.weight", "ln_final.bias",
    } | {f"transformer.{name}" for name in block}  # fmt: skip
    assert vit == text | {
        "visual.class_embedding", "visual.positional_embedding", "visual.proj",
        "visual.conv1.weight", "visual.ln_pre.weight", "visual.ln_pre.bias",
        "visual.ln_post.weight", "visual.ln_post.bias",
    } | {f"visual.transformer.{name}" for name in block}  # fmt: skip
    resnet = set(openai_state_dict(tiny_clip("RN-small", text_layers=1))) - text
    norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    convolutions = {f"visual.conv{i}.weight" for i in (1, 2, 3)}
    norms = {f"visual.bn{i}.{part}" for i in (1, 2, 3) for part in norm}
    for layer in (1, 2, 3, 4):
        prefix = f"visual.layer{layer}.0."
        convolutions |= {f"{prefix}conv{i}.weight" for i in (1, 2, 3)}
        convolutions.add(f"{prefix}downsample.0.weight")
        norms |= {f"{prefix}bn{i}.{part}" for i in (1, 2, 3) for part in norm}
        norms |= {f"{prefix}downsample.1.{part}" for part in norm}
    pool = {"visual.attnpool.positional_embedding"} | {
        f"visual.attnpool.{letter}_proj.{part}" for letter in "qkvc" for part in ("weight", "bias")
    }
    assert resnet == convolutions | norms | pool


@pytest.mark.parametrize("name", FAMILIES)
def test_names_do_not_meet(name, tiny_clip):
    names = list(tiny_clip(name).state_dict())
    assert any(n.startswith("visual.stem.") for n in names)
    assert len({openai_name(n) for n in names}) == len(names)


@pytest.mark.parametrize("name", FAMILIES)
def test_openai_state_dict_with_its_markers(name, tiny_clip, tmp_path):
    source, model = tiny_clip(name, seed=1), tiny_clip(name, seed=2)
    torch.save({**openai_state_dict(source), **MARKERS}, tmp_path / "clip.pt")
    report = load_weights(model, tmp_path / "clip.pt")
    assert (report.format, report.activation) == ("openai", "quick_gelu")
    assert report.path == tmp_path / "clip.pt"
    assert report.missing == report.unexpected == ()
    assert report.mismatched == report.resized == {}
    assert_equal_models(model, source)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_torchscript_archive_needs_trust(name, tiny_clip, tmp_path):
    source, model = tiny_clip(name, seed=1), tiny_clip(name, seed=2)
    path = tmp_path / "RN50.pt"
    torch.jit.save(torchscript_archive({**openai_state_dict(source), **MARKERS}), path)
    with pytest.raises(WeightsError, match=r"RN50\.pt must be trusted .* Pass trust=True"):
        load_weights(model, path)
    report = load_weights(model, path, trust=True)
    assert (report.format, report.activation) == ("openai-torchscript", "quick_gelu")
    assert report.missing == report.unexpected == ()
    assert_equal_models(model, source)


def test_huggingface_file_folder_and_missing_config(tiny_clip, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers writes the file")
    config = transformers.CLIPConfig(
        text_config={
            "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "vocab_size": 50, "max_position_embeddings": 12,
            "hidden_act": "gelu",
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "image_size": 32, "patch_size": 8, "hidden_act": "gelu",
        },
        projection_dim=16,
    )  # fmt: skip
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    file, config_file = tmp_path / "model.safetensors", tmp_path / "config.json"
    models = [tiny_clip(activation="gelu", seed=seed) for seed in (1, 2)]
    reports = [load_weights(models[0], tmp_path), load_weights(models[1], file)]
    assert reports[0] == reports[1] and reports[0].activation == "gelu"
    assert_equal_models(*models)
    with pytest.raises(WeightsError, match=r"model's activation 'quick_gelu', got 'gelu'.*Build"):
        load_weights(tiny_clip(), file)
    with pytest.raises(WeightsError, match=r"declared activation 'quick_gelu', got 'gelu' from"):
        load_weights(models[0], file, activation="quick_gelu")
    with pytest.raises(WeightsError, match=r"heads \(visual, text\) \(8, 2\), got \(4, 2\)"):
        load_weights(tiny_clip(activation="gelu", visual_heads=8), file)
    edited = json.loads(config_file.read_text(encoding="utf-8"))
    edited["text_config"]["hidden_act"] = "gelu_new"
    config_file.write_text(json.dumps(edited), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"config\.json must name .* got \['gelu', 'gelu_new'\]"):
        load_weights(models[0], file)
    config_file.write_text("[", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"config\.json must be JSON"):
        load_weights(models[0], file)
    config_file.write_text('{"vision_config": 3}', encoding="utf-8")
    with pytest.raises(WeightsError, match="must hold an object under 'vision_config', got 3"):
        load_weights(models[0], file)
    config_file.unlink()
    with pytest.raises(WeightsError, match=r"must tell the activation .* activation='quick_gelu'"):
        load_weights(models[0], file)
    assert load_weights(models[0], file, activation="gelu").format == "huggingface"


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("quick_gelu", [None, True])
def test_open_clip(suffix, custom_text, quick_gelu, tiny_clip, tmp_path):
    activation = "quick_gelu" if quick_gelu else "gelu"
    source, model = (tiny_clip(seed=seed, activation=activation) for seed in (1, 2))
    state = contiguous(openai_state_dict(source))
    if custom_text:
        state = {
            name if name.startswith(("visual.", "logit_scale")) else f"text.{name}": value
            for name, value in state.items()
        }
        state["text.attn_mask"] = torch.zeros(12, 12)
    state = {f"module.{name}": value for name, value in state.items()}
    path = tmp_path / f"epoch_32{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"epoch": 32, "state_dict": state}, path)
    with pytest.raises(WeightsError, match="must tell the activation its model was trained with"):
        load_weights(model, path)
    declared = load_weights(model, path, activation=activation)
    assert declared.format == ("open_clip" if custom_text else "openai")
    (tmp_path / "open_clip_config.json").write_text(open_clip_config(quick_gelu), encoding="utf-8")
    report = load_weights(model, path)
    assert (report.format, report.activation) == ("open_clip", activation)
    assert report.unexpected == ()
    assert_equal_models(model, source)


def test_open_clip_folder(pair, tmp_path):
    source, model = pair
    (tmp_path / "open_clip_config.json").write_text(open_clip_config(True), encoding="utf-8")
    save_file(contiguous(openai_state_dict(source)), tmp_path / "open_clip_model.safetensors")
    assert load_weights(model, tmp_path).path.name == "open_clip_model.safetensors"
    assert_equal_models(model, source)


def test_half_precision_becomes_float32(pair, tmp_path):
    source, model = pair
    state = {name: value.half() for name, value in openai_state_dict(source).items()}
    torch.save({**state, **MARKERS}, tmp_path / "clip.pt")
    load_weights(model, tmp_path / "clip.pt")
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(
        model.visual.trunk.proj, source.visual.trunk.proj, rtol=1e-3, atol=1e-3
    )
    assert torch.equal(model.text.text_projection.half(), source.text.text_projection.half())


@pytest.mark.parametrize(
    ("name", "key", "source_grid", "image_size", "grid"),
    [
        ("ViT-small", "visual.positional_embedding", (4, 4), (80, 40), (10, 5)),
        # As many positions as the pre-training grid has, in another shape.
        ("ViT-small", "visual.positional_embedding", (4, 4), (64, 16), (8, 2)),
        ("RN-small", "visual.attnpool.positional_embedding", (2, 2), (96, 32), (3, 1)),
        ("RN-small", "visual.attnpool.positional_embedding", (2, 2), (128, 32), (4, 1)),
    ],
)
def test_positions_are_resized_and_reported(
    name, key, source_grid, image_size, grid, tiny_clip, tmp_path
):
    source, model = tiny_clip(name, seed=1), tiny_clip(name, seed=2, image_size=image_size)
    torch.save({**openai_state_dict(source), **MARKERS}, tmp_path / "clip.pt")
    report = load_weights(model, tmp_path / "clip.pt")
    assert report.resized == {key: (source_grid, grid)}
    loaded, original = openai_state_dict(model), openai_state_dict(source)
    assert torch.equal(loaded[key], resize_positions(original[key], grid))
    assert all(torch.equal(loaded[k], original[k]) for k in original if k != key)


def test_positions_of_the_models_own_grid_are_kept(tiny_clip, tmp_path):
    source, model = (tiny_clip(seed=seed, image_size=(64, 24)) for seed in (1, 2))
    torch.save({**openai_state_dict(source), **MARKERS}, tmp_path / "clip.pt")
    assert load_weights(model, tmp_path / "clip.pt").resized == {}
    assert_equal_models(model, source)
    with pytest.raises(WeightsError, match=r"square grid or the model's grid \(4, 4\) in visual"):
        load_weights(tiny_clip(), tmp_path / "clip.pt")


def test_missing_and_mismatched_weights_are_named(pair, tmp_path):
    source, model = pair
    state = {**openai_state_dict(source), **MARKERS}
    del state["ln_final.bias"], state["visual.proj"]
    state["text_projection"] = torch.zeros(32, 17)
    state["extra.weight"] = torch.zeros(3)
    path = tmp_path / "clip.pt"
    torch.save(state, path)
    before = contiguous(model.state_dict())
    with pytest.raises(
        WeightsError,
        match=r"clip\.pt must hold every weight .* missing visual\.proj, ln_final\.bias; "
        r"of another shape text_projection \(32, 17\) for \(32, 16\)",
    ):
        load_weights(model, path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    report = load_weights(model, path, strict=False)
    assert report.missing == ("visual.proj", "ln_final.bias")
    assert report.mismatched == {"text_projection": ((32, 17), (32, 16))}
    assert report.unexpected == ("extra.weight",)
    assert torch.equal(model.visual.trunk.proj, before["visual.trunk.proj"])
    assert torch.equal(model.text.text_projection, before["text.text_projection"])
    assert torch.equal(model.text.ln_final.weight, source.text.ln_final.weight)


def test_incomplete_huggingface_projection_is_missing(pair, tmp_path):
    _, model = pair
    mark = "vision_model.embeddings.class_embedding"
    half = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    save_file({mark: torch.ones(32), half: torch.ones(32, 32)}, tmp_path / "model.safetensors")
    report = load_weights(model, tmp_path, activation="quick_gelu", strict=False)
    assert "transformer.resblocks.0.attn.in_proj_weight" in report.missing
    assert torch.equal(model.visual.trunk.class_embedding, torch.ones(32))


def test_batch_counters_may_be_absent(tiny_clip, tmp_path):
    source, model = tiny_clip("RN-small", seed=1), tiny_clip("RN-small", seed=2)
    state = {
        name: value
        for name, value in openai_state_dict(source).items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save({**state, **MARKERS}, tmp_path / "clip.pt")
    assert load_weights(model, tmp_path / "clip.pt").missing == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((32, 16), float("nan")), "finite weights, got NaN or infinity in text_proj"),
        (torch.ones(32, 16, dtype=torch.int8), r"floating-point weights, got torch\.int8 text_p"),
    ],
)
def test_unusable_values_are_refused(value, message, pair, tmp_path):
    source, model = pair
    torch.save(
        {**openai_state_dict(source), "text_projection": value, **MARKERS}, tmp_path / "c.pt"
    )
    before = contiguous(model.state_dict())
    with pytest.raises(WeightsError, match=message):
        load_weights(model, tmp_path / "c.pt")
    assert all(torch.equal(before[name], kept) for name, kept in model.state_dict().items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "must hold a state dict, got list"),
        ({}, "must hold tensors, got an empty state dict"),
        ({"visual.proj": 3}, "must hold names and tensors only, got int at 'visual.proj'"),
        ({"conv1.weight": torch.zeros(2)}, "must hold CLIP weights, .* such as 'conv1.weight'"),
    ],
)
def test_other_contents_are_refused(content, message, pair, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=rf"other\.pt {message}"):
        load_weights(pair[1], tmp_path / "other.pt", activation="quick_gelu")


def test_absent_files_and_folders(pair, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got .*absent\.pt\. Weights are not fetched"):
        load_weights(pair[1], tmp_path / "absent.pt")
    with pytest.raises(FileNotFoundError, match=r"must hold a weight file, got none of model\.saf"):
        load_weights(pair[1], tmp_path)
    with pytest.raises(ValueError, match=r"activation must be one of .* got 'relu'"):
        load_weights(pair[1], tmp_path, activation="relu")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.98])
def test_truncated_files_are_named(suffix, share, pair, tmp_path):
    source, model = pair
    path = tmp_path / f"clip{suffix}"
    if suffix == ".pt":
        torch.save({**openai_state_dict(source), **MARKERS}, path)
    else:
        save_file(contiguous(openai_state_dict(source)), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=rf"clip\{suffix} must be an intact file .*unreadable"):
        load_weights(model, path, activation="quick_gelu")


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("trust", [False, True])
def test_hostile_pickle_is_not_executed(legacy, trust, pair, tmp_path):
    mark, path = tmp_path / "executed", tmp_path / "hostile.pt"
    if legacy:
        path.write_bytes(pickle.dumps(Payload(mark), protocol=2))
    else:
        torch.save({"visual.proj": Payload(mark)}, path)
    with pytest.raises(WeightsError, match=r"hostile\.pt must be an intact file of weights alone"):
        load_weights(pair[1], path, trust=trust, activation="quick_gelu")
    assert not mark.exists()
