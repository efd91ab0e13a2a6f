"""Model cards: what a checkpoint says of its model, and hostile, old and foreign cards."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_runs import made_run
from method_cases import write_tiny_sets
from torch import nn

import vireid_fast
from vireid_fast._files import sha256_of
from vireid_fast.engine import networks
from vireid_fast.engine.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_into,
    load_optimizer,
    save_checkpoint,
    save_tensors,
)
from vireid_fast.engine.method_setup import load_method
from vireid_fast.engine.model_card import (
    ROW_NORMALISED,
    ModelCard,
    Preprocessing,
    card_from_json,
    save_model,
)
from vireid_fast.engine.networks import open_network
from vireid_fast.engine.run_folder import RunFolder


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    return write_tiny_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def pristine(sets, tmp_path_factory) -> Path:
    return made_run("csdn", sets, tmp_path_factory.mktemp("runs") / "csdn").path


@pytest.fixture
def run(pristine, tmp_path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(pristine, tmp_path / "run")))


@pytest.fixture
def model(run) -> Path:
    return run.checkpoints / "0-made-0001"


def change(folder: Path, **values) -> None:
    """Change keys of a card, `outer__inner` for those inside; None removes one."""
    file = folder / "card.json"
    card = json.loads(file.read_text())
    # As someone does who changes a card on purpose.
    card.pop("seal", None)
    for name, value in values.items():
        *parents, last = name.split("__")
        inner = card
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
        if value is None:
            del inner[last]
    file.write_text(json.dumps(card))


def test_a_checkpoint_describes_its_model(sets, model):
    card = json.loads((model / "card.json").read_text())
    expected = {
        "format": 1, "method": "csdn", "architecture": "RN-small", "activation": "quick_gelu",
        "feature_width": 1536, "dtype": "float32", "normalisation": "L2 of each part",
        "metric": "dot", "num_identities": 4, "data": "sysu_mm01", "protocol": "sysu/agw",
        "stage": "made", "epoch": 1, "validation": {"mAP": 0.25},
        "version": vireid_fast.__version__,
    }  # fmt: skip
    assert {name: card[name] for name in expected} == expected
    assert card["preprocessing"] == {
        "height": 64, "width": 32, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
        "interpolation": "lanczos",
    }  # fmt: skip
    assert card["config"]["method"] == "csdn" and card["sha256"].keys() == {"model.safetensors"}
    # A model that is passed on does not tell where its data lay.
    assert card["config"]["data"]["root"] == "" and str(sets) not in json.dumps(card)


def test_a_card_comes_back_as_it_was(model):
    opened = open_network(model)
    again = card_from_json(opened.card.to_json(), model / "card.json")
    assert again == opened.card and again.digest == opened.card.sha256["model.safetensors"]
    assert opened.size == (64, 32) and opened.source == model and opened.card.split is None


def test_a_run_of_an_older_version_opens_by_its_configuration(run, model):
    keep = {"method", "architecture", "data", "num_identities", "sha256", "version"}
    card = json.loads((model / "card.json").read_text())
    wanted = vireid_fast.Extractor.from_run(run.path)
    (model / "card.json").write_text(json.dumps({k: v for k, v in card.items() if k in keep}))
    opened = vireid_fast.from_pretrained(run.path)
    assert replace(wanted.card, stage="", epoch=None, validation={}) == opened.card
    load_method(run)
    with pytest.raises(CheckpointError, match="format must be there, got a card of an older"):
        vireid_fast.from_pretrained(model)


GIANT = 10**30
DEEP = json.loads("[" * 300 + "]" * 300)
HOSTILE = {
    "format": (99, "format must be at most 1, got 99. Update vireid_fast"),
    "method": (["csdn"], r"method of .* must be 'csdn'|method must be text"),
    "preprocessing": ([], "preprocessing must be an object, got list"),
    "preprocessing__height": (10**9, r"preprocessing.height must be a whole number in 1\.\.4096"),
    "preprocessing__width": (True, "preprocessing.width must be a whole number .* got True"),
    "preprocessing__std": ([1, 0, 1], "preprocessing.std must be three positive numbers"),
    "preprocessing__mean": ([1, 2, float("nan")], "preprocessing.mean must be three finite num"),
    "preprocessing__interpolation": ("cubic", "interpolation must be one of .* got 'cubic'"),
    "feature_width": (GIANT, "feature_width must be a whole number .* got 1000000000000000"),
    "processing": ({"features": 1}, "processing must be an object of text"),
    "normalisation": (None, "normalisation must be text, got None"),
    "metric": ("manhattan", "metric must be one of .* got 'manhattan'"),
    "num_identities": (GIANT, r"num_identities (must be|1000000)"),
    "validation": ({"mAP": "high"}, "validation must be an object of finite numbers"),
    "epoch": (-1, r"epoch must be a whole number in 0\.\.1000000, got -1"),
    "source": (DEEP, "source must be text, got a value of type list"),
    "licence": ("x" * 30_000, "licence must have at most 20000 characters, got 30000"),
    "network": ({"blocks": 3}, "config or network must be given, got both"),
    "config": ([], "config must be an object, got list"),
    "config__method": ("agw", "must hold a valid configuration: config: method must be one of"),
    "config__clip__architecture": ("RN1", "clip.architecture must be one of|architecture of"),
    "config__data__height": (10**7, "config.data.height must be at most 4096, got 10000000"),
    "config__csdn__context_length": (10**9, "config.csdn.context_length must be at most 1024"),
    "config__evaluation__protocol": ("own", "config.evaluation.protocol must be one of"),
    "config__augment__jitter": (3.5, "0-made-0001 must describe a network that can be built, got"),
    "config__unknown": (1, "unknown key unknown. The nearest key is"),
    "config__data": (DEEP, "config: data must be a section of keys"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_are_named_with_the_file(model, name):
    value, expected = HOSTILE[name]
    change(model, **{name: value})
    with pytest.raises(ValueError, match=expected) as error:
        vireid_fast.from_pretrained(model)
    text = str(error.value)
    assert "card.json" in text or str(model) in text
    assert len(text) < 1500


CONTRADICTIONS = {
    "feature_width": (7, "feature_width must be 1536, as its csdn network has it, got 7"),
    "metric": ("cosine", "metric must be 'dot', as its csdn network has it, got 'cosine'"),
    "preprocessing__height": (128, "preprocessing must be Preprocessing"),
    "activation": ("gelu", "activation of .* must be 'quick_gelu', got 'gelu'"),
    "data": ("regdb", "data of .* must be 'sysu_mm01', got 'regdb'"),
    "num_identities": (5, "must fit the configured model, got num_identities 5, which no class"),
    "config__clip__activation": ("gelu", "activation of .* must be 'gelu', got 'quick_gelu'"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_card_that_contradicts_its_network_is_refused(model, name):
    value, expected = CONTRADICTIONS[name]
    change(model, **{name: value})
    with pytest.raises(CheckpointError, match=expected):
        vireid_fast.from_pretrained(model)


def test_features_are_described_in_the_words_of_this_version(model):
    wanted = vireid_fast.from_pretrained(model).processing
    change(model, processing={"features": "as an earlier version worded it"}, normalisation="L2")
    assert vireid_fast.from_pretrained(model).processing == wanted


def test_another_activation_is_no_continuation(run, model):
    change(model, activation="gelu")
    with pytest.raises(CheckpointError, match=r"activation of .* must be 'quick_gelu', got 'gelu'"):
        load_method(run)
    with pytest.raises(CheckpointError, match="activation of"):
        vireid_fast.Extractor.from_run(run.path)


def test_split_of_regdb_is_in_the_card(sets, tmp_path, monkeypatch):
    run = made_run("csdn", sets, tmp_path / "run", "data.name=regdb", "data.split=3",
                   "evaluation.protocol=regdb/agw", "evaluation.mode=each")  # fmt: skip
    folder = run.checkpoints / "0-made-0001"
    assert vireid_fast.from_pretrained(folder).card.split == 3
    change(folder, split=4)
    with pytest.raises(CheckpointError, match=r"split of .* must be 3, got 4"):
        vireid_fast.from_pretrained(folder)


def test_damaged_model_folders_are_named(model):
    text = (model / "card.json").read_text()
    (model / "card.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"card\.json must be JSON"):
        vireid_fast.from_pretrained(model)
    (model / "card.json").write_text('{"method": "csdn"}')
    with pytest.raises(CheckpointError, match=r"must list its files .* got the keys method"):
        vireid_fast.from_pretrained(model)
    (model / "card.json").write_text(text)
    (model / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"model\.safetensors must have SHA-256 .* damaged"):
        vireid_fast.from_pretrained(model)


def test_a_giant_card_is_not_read(model, monkeypatch):
    monkeypatch.setattr("vireid_fast.engine.checkpoint.LARGEST_JSON", 100)
    with pytest.raises(CheckpointError, match=r"card\.json must have at most 100 bytes, got"):
        vireid_fast.from_pretrained(model)


class Averages(nn.Module):
    """A network of another program: mean colours, weighted."""

    feature_width = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def test_features(self, images, modality):
        return images.mean((2, 3)) * self.weight + (modality == "infrared")


@pytest.fixture
def imported(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(networks.NETWORK_BUILDERS, "averages", lambda card: Averages())
    card = ModelCard(
        method="averages", feature_width=3, normalisation=ROW_NORMALISED, metric="cosine",
        preprocessing=Preprocessing(height=4, width=2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
                                    interpolation="bilinear"),
        network={"kind": "toy"}, source="nowhere", licence="MIT",
    )  # fmt: skip
    save_model(tmp_path / "m", card, {"weight": torch.tensor([1.0, 2.0, 4.0])})
    return tmp_path / "m"


def test_an_imported_network_is_opened_by_its_builder(imported):
    opened = vireid_fast.from_pretrained(imported)
    image = torch.full((8, 4, 3), 51, dtype=torch.uint8)
    found = opened([image, image], modality=["visible", "infrared"])
    assert torch.allclose(found, torch.tensor([[0.2, 0.4, 0.8], [1.2, 1.4, 1.8]]))
    assert (opened.metric, opened.card.licence, opened.card.config) == ("cosine", "MIT", None)
    change(imported, feature_width=5)
    with pytest.raises(CheckpointError, match="feature_width must be 3, as its averages network"):
        vireid_fast.from_pretrained(imported)
    change(imported, method="unknown", feature_width=3)
    with pytest.raises(CheckpointError, match=r"method must be one of \[.*'averages'.*\] for an"):
        vireid_fast.from_pretrained(imported)
    change(imported, network=None)
    with pytest.raises(CheckpointError, match="config or network must be given, got neither"):
        vireid_fast.from_pretrained(imported)
    change(imported, network=[1])
    with pytest.raises(CheckpointError, match="network must be an object, got list"):
        vireid_fast.from_pretrained(imported)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_wrappers_are_dropped(imported, wrapper):
    checkpoint = load_checkpoint(imported)
    wrapped = {f"{wrapper}{name}": value for name, value in checkpoint.model.items()}
    save_checkpoint(imported, Checkpoint(wrapped, checkpoint.card))
    state = vireid_fast.from_pretrained(imported).network.module.state_dict()
    assert torch.equal(state["weight"], checkpoint.model["weight"])
    # Names that are not all wrapped are of something else.
    with pytest.raises(CheckpointError, match=r"unexpected module\.x"):
        load_into(Averages(), {"weight": torch.zeros(3), "module.x": torch.zeros(1)}, "file")


def _trained(width: int = 4):
    model = nn.Linear(3, width)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def stopped(tmp_path) -> Path:
    model, optimizer = _trained()
    save_checkpoint(tmp_path / "a", Checkpoint(model.state_dict(), {}, optimizer.state_dict()))
    return tmp_path / "a"


@pytest.mark.parametrize(("values", "expected"), [
    ({"optimizer": None}, r"card\.json must hold the optimiser's groups, got none"),
    ({"optimizer": {"param_groups": 3}}, "must hold the optimiser's groups"),
    ({"optimizer__param_groups": [1]}, "must hold the optimiser's groups"),
])  # fmt: skip
def test_hostile_optimiser_settings_are_named(stopped, values, expected):
    change(stopped, **values)
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(stopped)
    assert load_checkpoint(stopped, resume=False).optimizer == {}


def test_state_of_other_parameters_is_refused(stopped):
    read = load_checkpoint(stopped).optimizer
    load_optimizer(_trained()[1], read, "file")
    groups = [dict(group) for group in read["param_groups"]]
    for state in (
        {**read, "param_groups": groups * 2},
        {**read, "param_groups": [{**groups[0], "lr": "fast"}]},
        {**read, "param_groups": [{**groups[0], "betas": [0.9]}]},
        {**read, "param_groups": [{**groups[0], "params": [0]}]},
        {**read, "state": {9: read["state"][0]}},
        {**read, "state": {0: {"exp_avg": torch.zeros(2)}}},
    ):
        with pytest.raises(CheckpointError, match="file must hold the optimiser's state of the"):
            load_optimizer(_trained()[1], state, "file")
    # Another version of torch has other settings; those that both have are taken.
    fewer = {name: value for name, value in groups[0].items() if name != "weight_decay"}
    other = _trained()[1]
    load_optimizer(other, {**read, "param_groups": [{**fewer, "lr": 5.0, "new": 1}]}, "file")
    assert other.param_groups[0]["lr"] == 5.0 and "new" not in other.param_groups[0]


def test_tensors_of_the_optimiser_without_a_number_are_named(stopped):
    save_tensors(stopped / "optimizer.safetensors", {"first.exp_avg": torch.zeros(2)})
    digest = sha256_of(stopped / "optimizer.safetensors")
    change(stopped, **{"sha256__optimizer.safetensors": digest})
    with pytest.raises(CheckpointError, match=r"must name tensors NUMBER\.NAME, got 'first"):
        load_checkpoint(stopped)
