"""RN50's attention pool on the maps of 288x144 images: 18x9 places, 2048 channels, 32 heads."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from baselines.pooling import stock_attention_pool
from timing import Budget, Provider
from torch import Tensor, nn

from cases.case import Case, Workload, gemm_floor, in_turn, input_sets, peers_of
from vireid_fast.nn import AttentionPool2d
from vireid_fast.testing import assert_error_budget, make_features

_GRID, _WIDTH, _HEADS, _PROJECTED = (18, 9), 2048, 32, 1024
_TARGET = 8.0
_GATE_IMAGES = 2


def _pool(batch: int, backward: bool, device: torch.device) -> Workload:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    pool = AttentionPool2d(_GRID, _WIDTH, _HEADS, _PROJECTED).to(device, dtype)
    plain = AttentionPool2d(_GRID, _WIDTH, _HEADS, _PROJECTED, backend="reference")
    plain.to(device, dtype).load_state_dict(pool.state_dict())
    sets = [
        make_features(batch * _WIDTH, _GRID[0] * _GRID[1], dtype=dtype, device=device, seed=seed)
        .view(batch, _WIDTH, *_GRID).requires_grad_(backward)
        for seed in range(input_sets(device))
    ]  # fmt: skip
    grad = make_features(batch, _PROJECTED, dtype=dtype, device=device)

    def provide(
        run: Callable[[Tensor], Tensor], owner: nn.Module = pool
    ) -> Callable[[], tuple[Tensor, ...]]:
        return in_turn([partial(_directed, run, owner, x, grad, backward) for x in sets])

    stock = partial(stock_attention_pool, pool)
    providers = (
        Provider("fused", "fused", provide(pool)),
        Provider("stock call, all tokens", "peer", provide(stock), target=_TARGET),
        Provider("stock call, one query", "peer", provide(partial(stock, queries=1))),
        Provider("reference", "reference", provide(plain, plain)),
        gemm_floor(_flops(batch) * (3 if backward else 1), batch, _WIDTH, _WIDTH, device, dtype),
    )

    def check(outputs: dict[str, tuple[Tensor, ...]]) -> None:
        wide, few = copy.deepcopy(plain).double(), sets[0].detach()[:_GATE_IMAGES]
        exact, reference = (
            _first_images(owner, x.clone().requires_grad_(backward), grad, backward)
            for owner, x in ((wide, few.double()), (plain, few))
        )
        for name in ("fused", *peers_of(providers, outputs)):
            parts = [part.detach()[:_GATE_IMAGES] for part in outputs[name][:2]]
            for found, rough, value in zip(parts, reference, exact, strict=True):
                assert_error_budget(found, rough, value)
        if backward:
            # They sum over the batch, and float64 of the whole batch would take minutes.
            found, rough = (
                torch.cat([part.flatten() for part in outputs[name][2:]])
                for name in ("fused", "reference")
            )
            off, most = (found - rough).abs().max(), rough.abs().max()
            assert off <= 32 * torch.finfo(dtype).eps * most, f"off by {off:.3g} of {most:.3g}"

    return Workload(providers, check)


def _directed(
    run: Callable[[Tensor], Tensor], owner: nn.Module, x: Tensor, grad: Tensor, backward: bool
) -> tuple[Tensor, ...]:
    """The pooled features and, where asked for, the gradients of map and parameters."""
    if not backward:
        with torch.no_grad():
            return (run(x),)
    out = run(x)
    return (out, *torch.autograd.grad(out, (x, *owner.parameters()), grad))


def _first_images(
    owner: nn.Module, x: Tensor, grad: Tensor, backward: bool
) -> tuple[Tensor, ...]:
    parts = _directed(owner, owner, x, grad[: len(x)].to(x.dtype), backward)
    return tuple(part.detach() for part in parts[:2])


def _flops(batch: int) -> float:
    """Query, absorbed key, absorbed value: 2 C^2 each; scores and mix of all heads; projection."""
    tokens = 1 + _GRID[0] * _GRID[1]
    return batch * 2 * (3 * _WIDTH**2 + 2 * tokens * _HEADS * _WIDTH + _WIDTH * _PROJECTED)


CASES = tuple(
    Case(
        "attention_pool", "AttentionPool2d",
        f"batch {batch}, {'forward + backward' if backward else 'forward'}",
        f"{batch} x {_WIDTH} x {_GRID[0]} x {_GRID[1]}, {_HEADS} heads",
        partial(_pool, batch, backward), dtype=dtype, devices=(device,),
        budget=Budget(seconds=8.0),
    )
    for device, dtype in (("cpu", "float32"), ("cuda", "bfloat16"))
    for batch in (8, 64)
    for backward in (False, True)
)  # fmt: skip
