"""Gradients averaged over batches, against a loop by hand; learning rates; resuming."""

import math

import pytest
import torch
from method_cases import tiny_config
from processes import run_like_torchrun
from recorded_training import record

from vireid_fast.engine.checkpoint import follow, load_checkpoint
from vireid_fast.engine.data_setup import read_table, training_data
from vireid_fast.engine.method_setup import new_method
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.engine.seeds import derive_seed

# One stage of 2 epochs of 3 batches: groups of 2 and 1 batches.
VISUAL = ("csdn.text_terms=false", "csdn.visual.epochs=2", "evaluation.every=2")
ACCUMULATE = (*VISUAL, "accumulate=2")

TRAINED = ("encoder.", "pooled_neck.", "projected_neck.")


def _weights(path):
    return load_checkpoint(follow(RunFolder(path).latest)[0]).model


def _by_hand(config, groups, rates):
    """Mean gradients and states when each group of batches is one step of Adam, in float64."""
    data = training_data(config, read_table(config))
    method = new_method(config, len(data.identities), load=True)
    model = method.model.double()
    for stem in (model.encoder.visual.stem, model.encoder.infrared_stem):
        stem.register_forward_pre_hook(lambda _, images: (images[0].double(),))
    (stage,) = method.stages(data)
    torch.manual_seed(derive_seed(config.seed, stage.name, "prepare"))
    plan = stage.prepare()
    named = [(n, p) for n, p in model.named_parameters() if n.startswith(TRAINED)]
    owner = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[plan.optimizer]
    optimizer = owner([dict(group) for group in plan.groups])
    gradients, states = [], []
    for epoch in range(2):
        batches = iter(list(stage.batches(epoch)))
        for size in groups:
            total = {name: torch.zeros_like(p) for name, p in named}
            for _ in range(size):
                loss = stage.step(next(batches))["loss"]
                found = torch.autograd.grad(loss, [p for _, p in named])
                for (name, _), gradient in zip(named, found, strict=True):
                    total[name] += gradient
            for name, parameter in named:
                parameter.grad = total[name] / size
            for group in optimizer.param_groups:
                group["lr"] = rates[len(states)] * group["lr_factor"]
            optimizer.step()
            gradients.append({name: p.grad.clone() for name, p in named})
            states.append({name: value.clone() for name, value in model.state_dict().items()})
    return gradients, states


def _rate(config, time):
    """The cosine from lr to min_lr over two epochs."""
    own = config.csdn.visual
    share = 0.5 * (1 + math.cos(math.pi * time / 2))
    return own.min_lr + (own.lr - own.min_lr) * share


@pytest.mark.parametrize(
    ("accumulate", "groups", "times"),
    [(2, (2, 1), (0, 2 / 3, 1, 5 / 3)), (5, (3,), (0, 1))],
    ids=["a short last group", "more than an epoch has"],
)
def test_a_step_takes_the_mean_gradient_of_its_batches(
    tiny_sets, tmp_path, accumulate, groups, times
):
    smooth = ("csdn.visual.warmup_epochs=0", "csdn.visual.per_step=true")
    config = tiny_config("csdn", tiny_sets, *VISUAL, *smooth, f"accumulate={accumulate}")
    rates = [_rate(config, time) for time in times]
    gradients, states = _by_hand(config, groups, rates)
    seen = record(config, tmp_path / "run", torch.float64)
    # A group is stepped at the time of its first batch.
    assert [step[0] for step in seen.rates] == pytest.approx(rates, rel=1e-12)
    assert len(seen.losses) == 6 and len(seen.gradients) == 2 * len(groups)
    # float64, of which a division before the sum and one after it round differently.
    torch.testing.assert_close(seen.gradients, gradients, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(seen.states, states, rtol=1e-9, atol=1e-9)


def test_a_schedule_by_epochs_keeps_its_rate_within_an_epoch(tiny_sets, tmp_path):
    still = ("csdn.visual.warmup_epochs=0", "csdn.visual.per_step=false")
    config = tiny_config("csdn", tiny_sets, *ACCUMULATE, *still)
    seen = record(config, tmp_path / "run")
    want = [_rate(config, time) for time in (0, 0, 1, 1)]
    assert [step[0] for step in seen.rates] == pytest.approx(want, rel=1e-12)


def test_resuming_with_accumulation_is_bit_for_bit(tiny_sets, tmp_path):
    config = tiny_config("csdn", tiny_sets, *ACCUMULATE)
    record(config, tmp_path / "whole")
    record(config, tmp_path / "run", stop_after=1)
    torch.manual_seed(99)
    seen = record(config, tmp_path / "run", resume=True)
    assert len(seen.gradients) == 2
    for name, value in _weights(tmp_path / "whole").items():
        assert torch.equal(value, _weights(tmp_path / "run")[name]), name


def test_two_processes_accumulate_as_one(tiny_sets, tmp_path):
    config = tiny_config("csdn", tiny_sets, *ACCUMULATE)
    (one,) = run_like_torchrun(record, 1, tmp_path / "1", config, tmp_path / "a", torch.float64)
    for rank in run_like_torchrun(
        record, 2, tmp_path / "2", config, tmp_path / "b", torch.float64
    ):
        assert len(rank.gradients) == len(one.gradients) == 4
        torch.testing.assert_close(rank.gradients, one.gradients, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(rank.states, one.states, rtol=1e-9, atol=1e-9)
