"""Training and extraction with encoders in bfloat16."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from method_cases import CASES, tiny_config
from processes import run_like_torchrun
from recorded_training import record
from torch import Tensor

from vireid_fast import losses
from vireid_fast.engine.checkpoint import follow, load_checkpoint
from vireid_fast.engine.methods import clip4vi_reid, clip_mc, csdn, lsmrl
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.engine.stages import stored_features, visual_terms
from vireid_fast.engine.workflow import extract_run

STAGE_MODULES = (csdn, clip4vi_reid, clip_mc, lsmrl, stored_features, visual_terms)


def _watch(patch, module, name, seen):
    """Note the dtypes of the features that enter a loss, which autocast must not reach."""
    function = getattr(module, name)

    def watched(*args, **options):
        given = [x for x in (*args, *options.values()) if isinstance(x, Tensor)]
        assert not torch.is_autocast_enabled("cpu"), name
        seen.setdefault(name, set()).update(x.dtype for x in given if x.is_floating_point())
        return function(*args, **options)

    patch.setattr(module, name, watched)


def _watch_losses(patch, seen):
    for module in STAGE_MODULES:
        # Scaling for scores is what turns texts into float32.
        for name in vars(module).keys() & set(losses.__all__) - {"scale_for_scores"}:
            _watch(patch, module, name, seen)
    for name in ("cross_entropy", "mse_loss"):
        _watch(patch, F, name, seen)


@pytest.fixture(scope="module", params=CASES)
def trained(request, tiny_sets, tmp_path_factory):
    """A run in bfloat16, what passed in it, and dtypes that enter losses and leave convolutions."""
    path = tmp_path_factory.mktemp(request.param) / "run"
    config = tiny_config(request.param, tiny_sets, "precision=bfloat16")
    entered, convolved = {}, set()
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda layer, _, out: convolved.add(out.dtype) if "Conv" in type(layer).__name__ else None
    )

    def change(patch):
        _watch_losses(patch, entered)

    try:
        seen = record(config, path, change=change)
    finally:
        handle.remove()
    return RunFolder(path), seen, entered, convolved


def test_encoders_compute_in_bfloat16_and_losses_in_float32(trained):
    run, seen, entered, convolved = trained
    assert len(seen.losses) >= 2
    for terms in seen.losses:
        assert all(value.dtype == torch.float32 for value in terms.values())
        assert all(math.isfinite(value) for value in terms.values())
    assert convolved == {torch.bfloat16}
    assert len(entered) >= 3 and set().union(*entered.values()) == {torch.float32}, entered
    saved = load_checkpoint(follow(run.latest)[0])
    moments = [v for state in saved.optimizer["state"].values() for v in state.values()]
    values = [*saved.model.values(), *moments, *seen.gradients[-1].values()]
    assert {v.dtype for v in values if v.is_floating_point()} == {torch.float32}


def test_features_extracted_in_bfloat16_are_float32_and_near(trained):
    run = trained[0]
    half = extract_run(run)[1].features.features
    replace(run.config(), precision="float32").save(run.config_file)
    full = extract_run(run)[1].features.features
    assert half.dtype == full.dtype == torch.float32 and not torch.equal(half, full)
    # bfloat16 rounds by 2^-9 at most; some ten layers make a few percent of it, and 1 - cos is half
    # the square.
    assert F.cosine_similarity(half, full).min() > 0.999


def test_two_processes_share_batches_in_bfloat16(tiny_sets, tmp_path):
    config = tiny_config("csdn", tiny_sets, "precision=bfloat16")
    one = record(config, tmp_path / "one")
    two = run_like_torchrun(record, 2, tmp_path / "results", config, tmp_path / "two")
    for rank in two:
        torch.testing.assert_close(rank.states, two[0].states, rtol=0, atol=0)
        for own, other in zip(rank.losses, one.losses, strict=True):
            # Sums over images round otherwise where a process has half of them.
            assert own["loss"].item() == pytest.approx(other["loss"].item(), rel=0.01)
