"""Every ablation switch leaves out what it names, and the method still trains."""

import json

import pytest
import torch
from method_cases import tiny_config

from vireid_fast.engine import workflow
from vireid_fast.engine.checkpoint import follow, load_checkpoint
from vireid_fast.engine.data_setup import read_table, training_data
from vireid_fast.engine.method_setup import new_method


def _lines(run):
    return [json.loads(line) for line in run.metrics_file.read_text().splitlines()]


def _weights(run):
    return load_checkpoint(follow(run.latest)[0]).model


def _train(method, tiny_sets, tmp_path, *overrides):
    config = tiny_config(method, tiny_sets, *overrides)
    return config, workflow.train(config, tmp_path / "run")


def _start(config):
    """Weights that training starts from."""
    data = training_data(config, read_table(config))
    return new_method(config, len(data.identities), load=True).model.state_dict()


BRIDGE = {
    "full": ((), ("tsg", "ife", "hsa")),
    "from both": (("clip4vi_reid.text_from=both",), ("tsg", "ife", "hsa")),
    "no IFE": (("clip4vi_reid.ife.epochs=0",), ("tsg", "hsa")),
    "no text tuning": (("clip4vi_reid.text_tuning=false",), ("tsg", "ife", "hsa")),
    "fixed prompt": (("clip4vi_reid.learned_prompts=false",), ("ife", "hsa")),
    "M = 0": (("clip4vi_reid.context_length=0",), ("ife", "hsa")),
    "M = 2": (("clip4vi_reid.context_length=2",), ("tsg", "ife", "hsa")),
    "M = 8": (("clip4vi_reid.context_length=8",), ("tsg", "ife", "hsa")),
    "ViT": (("clip.architecture=ViT-small",), ("tsg", "ife", "hsa")),
}


@pytest.mark.parametrize("name", BRIDGE)
def test_clip4vi_reid(name, tiny_sets, tmp_path):
    overrides, stages = BRIDGE[name]
    config, run = _train("clip4vi_reid", tiny_sets, tmp_path, *overrides)
    lines = {line["stage"]: line for line in _lines(run)}
    assert tuple(lines) == stages
    assert all(line["loss"] == line["loss"] for line in lines.values())
    tuned = name not in ("no text tuning", "fixed prompt", "M = 0")
    assert ("refinement" in lines["hsa"]) == tuned
    context = _weights(run).get("prompts.context")
    if name == "M = 0":
        assert context is None
    elif name == "fixed prompt":
        assert torch.equal(context, _start(config)["prompts.context"])
    else:
        assert context.shape[1] == config.clip4vi_reid.context_length
        assert not torch.equal(context, _start(config)["prompts.context"])


def test_clip4vi_reid_learns_texts_from_visible_images_alone(tiny_sets):
    """Stage 1 does not change when the infrared images do."""
    config = tiny_config("clip4vi_reid", tiny_sets)
    data = training_data(config, read_table(config))

    def first_loss(change, *overrides):
        own = tiny_config("clip4vi_reid", tiny_sets, *overrides)
        method = new_method(own, len(data.identities), load=True)
        with torch.no_grad():
            for parameter in method.model.encoder.infrared_stem.parameters():
                parameter.mul_(change)
        stage = method.stages(data)[0]
        stage.prepare()
        return stage.step(next(iter(stage.batches(0))))["loss"].item()

    assert first_loss(1.0) == first_loss(2.0)
    both = "clip4vi_reid.text_from=both"
    assert first_loss(1.0, both) != first_loss(2.0, both)


def test_clip4vi_reid_s_visible_stem_rests_while_infrared_images_are_rectified(tiny_sets, tmp_path):
    overrides = ("clip4vi_reid.tsg.epochs=0", "clip4vi_reid.ife.epochs=1")
    config = tiny_config("clip4vi_reid", tiny_sets, *overrides)
    data = training_data(config, read_table(config))
    method = new_method(config, len(data.identities), load=True)
    before = {k: v.clone() for k, v in method.model.state_dict().items()}
    stage = method.stages(data)[1]
    assert stage.name == "ife"
    plan = stage.prepare()
    optimizer = torch.optim.SGD([p for g in plan.groups for p in g["params"]], lr=0.1)
    for batch in stage.batches(0):
        stage.step(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    after = method.model.state_dict()
    for name, value in before.items():
        rests = name.startswith(("encoder.visual.stem.", "text.", "prompts."))
        if rests:
            assert torch.equal(value, after[name]), name
    changed = [n for n in before if not torch.equal(before[n], after[n])]
    assert any(n.startswith("encoder.infrared_stem.") for n in changed)
    assert any(n.startswith("encoder.visual.trunk.") for n in changed)


MC = {
    "full": ((), {"description", "compensation", "context", "token_alignment"}),
    "no ITPG": (("clip_mc.instance_prompts=false",), {"description", "compensation", "context"}),
    "no MCL": (("clip_mc.learned_context=false",),
               {"description", "compensation", "context", "token_alignment"}),
    "no MC": (("clip_mc.compensation=false",), {"description", "context", "token_alignment"}),
    "meta network": (("clip_mc.meta_network=true",),
                     {"description", "compensation", "context", "token_alignment"}),
    "text tuned": (("clip_mc.tune_text=true",),
                   {"description", "compensation", "context", "token_alignment"}),
    "ViT": (("clip.architecture=ViT-small",),
            {"description", "compensation", "context", "token_alignment"}),
}  # fmt: skip


@pytest.mark.parametrize("name", MC)
def test_clip_mc(name, tiny_sets, tmp_path):
    overrides, terms = MC[name]
    config, run = _train("clip_mc", tiny_sets, tmp_path, *overrides)
    (line,) = _lines(run)
    every = {"description", "compensation", "context", "token_alignment"}
    assert line["stage"] == "joint" and every & line.keys() == terms
    assert ("identity_z" in line) == (name != "no MC")
    start, end = _start(config), _weights(run)
    moved = {key for key in end if not torch.equal(start[key], end[key])}
    assert any(key.startswith("context.") for key in moved) == (name != "no MCL")
    assert any(key.startswith("text.") for key in moved) == (name == "text tuned")


LSMRL = {
    "full": ((), {"identity_h", "keep", "alignment", "discrepancy"}),
    "no grouped encoder": (("lsmrl.grouped_blocks=0",), None),
    "no shift encoder": (("lsmrl.shift_blocks=0",), None),
    "no SD": (("lsmrl.diffusion=false",), None),
    "no CMI": (("lsmrl.interaction=false",), {"alignment", "discrepancy"}),
    "joint CMI": (("lsmrl.interaction_mode=joint",), None),
    "no first modality loss": (("lsmrl.loss.alignment=0",), {"identity_h", "keep", "discrepancy"}),
    "no second modality loss": (
        ("lsmrl.loss.discrepancy=0",), {"identity_h", "keep", "alignment"},
    ),
    "MMA": (("lsmrl.loss.alignment_kind=mma",), None),
    "hetero-centre": (("lsmrl.loss.alignment_kind=hetero_center",), None),
    "bayer4": (("lsmrl.pattern=bayer4",), None),
    "one frame": (("video.frames=1",), None),
    "five frames": (("video.frames=5",), None),
}  # fmt: skip


@pytest.mark.parametrize("name", LSMRL)
def test_lsmrl(name, tiny_sets, tmp_path):
    overrides, terms = LSMRL[name]
    every = {"identity_h", "keep", "alignment", "discrepancy"}
    _, run = _train("lsmrl", tiny_sets, tmp_path, *overrides)
    (line,) = _lines(run)
    assert line["stage"] == "sequence"
    assert every & line.keys() == (every if terms is None else terms)
    assert line["loss"] == line["loss"]
    weights = _weights(run)
    assert any(key.startswith("diffusion.") for key in weights) == (name != "no SD")
    if name != "no SD":
        # The bank of testing is that of the prompts at the end.
        assert bool(weights["bank"].any())
