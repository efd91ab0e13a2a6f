"""Schedules of the published codes, groups, optimisers."""

import math

import pytest
import torch
from torch import nn

from vireid_fast.engine.optim import (
    Schedule,
    build_optimizer,
    parameter_groups,
    set_learning_rate,
)


def test_cosine_counts_from_the_beginning_of_the_run():
    schedule = Schedule("cosine", 3e-4, 60, warmup_epochs=5, warmup_lr=1e-5, min_lr=1e-6)
    assert schedule.rate(0) == pytest.approx(1e-5)
    assert schedule.rate(4) == pytest.approx(1e-5 + 4 * (3e-4 - 1e-5) / 5)
    expected = 1e-6 + (3e-4 - 1e-6) * 0.5 * (1 + math.cos(math.pi * 30 / 60))
    assert schedule.rate(30) == pytest.approx(expected)
    assert schedule.rate(60) == pytest.approx(1e-6) == schedule.rate(99)


def test_steps_follow_the_milestones():
    schedule = Schedule("steps", 3e-4, 120, warmup_epochs=10, warmup_lr=3e-6, milestones=(40, 70))
    rates = [schedule.rate(t) for t in (0, 10, 39, 40, 69, 70, 119)]
    assert rates == pytest.approx([3e-6, 3e-4, 3e-4, 3e-5, 3e-5, 3e-6, 3e-6])


def test_groups_split_heads_and_vectors_and_leave_frozen_out():
    module = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("neck", "trunk", "text")})
    module["text"].requires_grad_(False)
    groups = parameter_groups(
        module.named_parameters(), weight_decay=0.1, factors={"neck": 2.0}, decay_vectors=False
    )  # fmt: skip
    found = {(g["lr_factor"], g["weight_decay"]): len(g["params"]) for g in groups}
    assert found == {(2.0, 0.1): 1, (2.0, 0.0): 1, (1.0, 0.1): 1, (1.0, 0.0): 1}
    optimizer = build_optimizer("adam", groups, 1e-3)
    set_learning_rate(optimizer, 1e-4)
    assert sorted({g["lr"] for g in optimizer.param_groups}) == [1e-4, 2e-4]
    assert isinstance(build_optimizer("adamw", groups, 1e-3), torch.optim.AdamW)


def test_the_first_part_of_a_name_counts_and_biases_have_a_factor_of_their_own():
    module = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("neck", "trunk")})
    groups = parameter_groups(
        module.named_parameters(), weight_decay=0.1, factors={"neck.weight": 5.0, "neck": 3.0},
        bias_factor=4.0,
    )  # fmt: skip
    found = {group["lr_factor"]: len(group["params"]) for group in groups}
    assert found == {5.0: 1, 4.0: 2, 1.0: 1}
