"""A loss or gradient that is not finite stops a run before the weights change, and is placed."""

import functools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from method_cases import CASES, STAGES, tiny_config
from recorded_training import Recorded, poison, record

from vireid_fast.engine.checkpoint import follow, load_checkpoint
from vireid_fast.engine.methods.clip_mc import JointStage
from vireid_fast.engine.pretrain import PretrainStage
from vireid_fast.engine.run_folder import RunFolder

TWO_EPOCHS = {
    "csdn": ("csdn.visual.epochs=2", "csdn.text_terms=false"),
    "clip4vi_reid": (
        "clip4vi_reid.ife.epochs=0", "clip4vi_reid.context_length=0", "clip4vi_reid.hsa.epochs=2",
    ),
    "clip_mc": ("clip_mc.train.epochs=2",),
    "lsmrl": ("lsmrl.train.epochs=2",),
}  # fmt: skip
IDENTITIES = r"\(identities \d+(, \d+)*\)"


def _weights(path):
    return load_checkpoint(follow(RunFolder(path).latest)[0]).model


@pytest.mark.parametrize("method", CASES)
def test_an_image_with_nan_stops_the_run_before_the_weights_change(method, tiny_sets, tmp_path):
    config = tiny_config(method, tiny_sets, *TWO_EPOCHS[method])
    seen, stage = Recorded(), STAGES[method][-1]
    place = f"the loss of {stage} epoch 2, batch 2 {IDENTITIES} must be finite, got nan from "
    with pytest.raises(RuntimeError, match=place) as caught:
        record(config, tmp_path / "run", seen=seen,
               change=functools.partial(poison, epoch=1, index=1))  # fmt: skip
    assert "the last checkpoint is intact" in str(caught.value)
    assert re.search(IDENTITIES, str(caught.value))[0].count(",") == 3
    # Every batch but the last was stepped with, and the first epoch is safe.
    assert len(seen.states) == len(seen.losses) - 1
    saved = _weights(tmp_path / "run")
    last = seen.states[-2]
    assert all(torch.equal(saved[name], last[name]) for name in saved if name != "bank")
    if method == "csdn":
        record(config, tmp_path / "run", resume=True)
        record(config, tmp_path / "whole")
        whole, resumed = _weights(tmp_path / "whole"), _weights(tmp_path / "run")
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def _break_gradient(patch):
    """From the second batch on: a root of 0, whose value is fine."""
    step, calls = JointStage.step, []

    def broken(self, batch):
        losses = step(self, batch)
        calls.append(1)
        if len(calls) > 1:
            weight = self._model.pooled_neck.classifier.weight
            losses["loss"] = losses["loss"] + (0 * weight).square().sum().sqrt()
        return losses

    patch.setattr(JointStage, "step", broken)


@pytest.mark.parametrize(
    ("accumulate", "place"),
    [
        (1, f"batch 2 {IDENTITIES}"),
        (2, r"batches 1 to 2 \(identities [\d, ]+; identities [\d, ]+\)"),
    ],
)
def test_a_gradient_that_is_not_finite_stops_the_run(tiny_sets, tmp_path, accumulate, place):
    config = tiny_config("clip_mc", tiny_sets, f"accumulate={accumulate}")
    seen = Recorded()
    want = f"the gradient of joint epoch 1, {place} must be finite, got nan from pooled_neck"
    with pytest.raises(RuntimeError, match=want):
        record(config, tmp_path / "run", seen=seen, change=_break_gradient)
    assert len(seen.states) == 2 - accumulate and len(seen.losses) == 2
    assert not RunFolder(tmp_path / "run").latest.exists()


def test_pretraining_names_its_batches_too(tiny_config):
    sources = [SimpleNamespace(identities=np.array(ids)) for ids in ((4, 7, 9), (20, 30, 41))]
    stage = PretrainStage(SimpleNamespace(clip=None), sources[0], None, sources[1], tiny_config)
    batch = tuple(SimpleNamespace(labels=torch.tensor(labels)) for labels in ((2, 0), (1,)))
    assert stage.describe(batch) == "captioned identities 4, 9; paired identities 30"
