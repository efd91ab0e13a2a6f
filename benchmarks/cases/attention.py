"""Cross-modal attention, both directions, against torch's SDPA pinned to each backend.

12 heads of 64 as in ViT-B, queries, keys and values as views of one packed projection. A pair is
one visible and one infrared sequence of S tokens. 12: frames of a tracklet; 129: 256x128 images in
patches of 16; 163: 288x144; 258: two of 129; 774: six frames of 129; 77: texts.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from baselines.attention import (
    SDPA_BACKENDS,
    Halves,
    Tokens,
    cross_by_xformers,
    cross_on_copies,
    cross_on_views,
    joint_on_copies,
    xformers_obstacle,
)
from timing import Budget, Provider
from torch import Tensor

from cases.case import Case, Workload, copy_floor, gemm_floor, in_turn, input_sets, peers_of
from vireid_fast.ops import AttentionIndex, attention_plan, cross_modal_attention
from vireid_fast.testing import assert_error_budget

_HEADS, _WIDTH = 12, 64
_GATE_PAIRS = 2
Direction = Literal["forward", "backward", "forward + backward"]
Attend = Callable[[Tokens], Tensor | Halves]
# Rows of the result, whole or the halves of both modalities, and gradients.
Outputs = tuple[Tensor | Halves, ...]
# S -> wanted ratio of SDPA's time to that of "auto", forward on a CPU.
_CPU_TARGETS = {12: 1.2, 77: 1.2, 129: 1.1, 163: 1.2, 258: 1.0, 774: 1.0}
_COPIES_TARGET = 1.3


def _attention(
    length: int, pairs: int, mode: Literal["cross", "joint"], direction: Direction,
    device: torch.device,
) -> Workload:  # fmt: skip
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    lengths = [length] * pairs
    index = getattr(AttentionIndex, mode)(lengths, lengths).to(device)
    sets = [
        _tokens(length, pairs, dtype, device, seed, direction) for seed in range(input_sets(device))
    ]
    grad = torch.randn(sets[0].query.shape, generator=torch.Generator().manual_seed(9))
    grad = grad.to(device, dtype)

    def provide(attend: Attend) -> Callable[[], Outputs]:
        return in_turn([_directed(attend, tokens, grad, direction) for tokens in sets])

    def ours(tokens: Tokens, backend: str = "auto") -> Tensor:
        return cross_modal_attention(*tokens, index, backend=backend)

    # "fused" is what a caller gets: the choice of `attention_plan`.
    providers = [Provider("fused", "fused", provide(ours))]
    plan = attention_plan((2 * pairs, _HEADS, length, _WIDTH), dtype, device)
    other = "sdpa" if plan.backend == "kernel" else "kernel"
    providers.append(Provider(other, "variant", provide(partial(ours, backend=other))))
    providers += _peers(length, mode, direction, provide, device)
    providers += _floors(length, pairs, mode, direction, grad)

    def check(outputs: dict[str, Outputs]) -> None:
        first = _first_pairs(sets[0], length)
        exact, plain = (
            _plain(Tokens(*(x.detach().to(t) for x in first)), grad, length, mode, direction)
            for t in (torch.float64, dtype)
        )
        for name in ("fused", *peers_of(providers, outputs)):
            for found, reference, value in zip(outputs[name], plain, exact, strict=True):
                rows = torch.cat(found) if isinstance(found, tuple) else found
                part = torch.cat(_halves(rows.detach(), length))
                assert_error_budget(part, reference, value)

    return Workload(tuple(providers), check)


def _peers(
    length: int, mode: str, direction: Direction, provide: Callable[..., Any], device: torch.device
) -> list[Provider]:
    by_sdpa = cross_on_views if mode == "cross" else joint_on_copies
    aims = direction == "forward" and mode == "cross" and device.type == "cpu"
    peers = [
        Provider(
            f"SDPA {name}", "peer", provide(partial(by_sdpa, length=length, backend=backend)),
            # What torch takes by itself on a CPU.
            target=_CPU_TARGETS[length] if aims and name == "flash" else None,
        )
        for name, backend in SDPA_BACKENDS[device.type].items()
    ]  # fmt: skip
    if mode == "joint":
        return peers
    copies = Provider(
        "two SDPA calls, permuted copies", "peer", provide(partial(cross_on_copies, length=length)),
        target=_COPIES_TARGET if aims else None,
    )  # fmt: skip
    obstacle = xformers_obstacle(device)
    run = None if obstacle else provide(partial(cross_by_xformers, length=length))
    return [*peers, copies, Provider("xformers", "peer", run, absent=obstacle)]


def _floors(
    length: int, pairs: int, mode: str, direction: Direction, like: Tensor
) -> list[Provider]:
    """FLOPs of the two (backward: five) products, and each input read and output written once."""
    keys = length if mode == "cross" else 2 * length
    products = {"forward": 2, "backward": 5, "forward + backward": 7}[direction]
    tensors = {"forward": 4, "backward": 7, "forward + backward": 11}[direction]
    flops = products * 2 * (2 * pairs) * _HEADS * length * keys * _WIDTH
    moved = tensors * like.numel() * like.element_size()
    rows = 2 * pairs * length
    return [
        gemm_floor(flops, rows, _HEADS * _WIDTH, _HEADS * _WIDTH, like.device, like.dtype),
        copy_floor(moved, like),
    ]


def _tokens(
    length: int, pairs: int, dtype: torch.dtype, device: torch.device, seed: int,
    direction: Direction,
) -> Tokens:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    packed = torch.randn(2 * pairs * length, 3, _HEADS, _WIDTH, generator=generator)
    leaves = packed.to(device, dtype).unbind(1)
    # Leaves keep the strides of the packed projection.
    return Tokens(*(leaf.detach().requires_grad_(direction != "forward") for leaf in leaves))


def _directed(
    attend: Attend, tokens: Tokens, grad: Tensor, direction: Direction
) -> Callable[[], Outputs]:
    if direction == "forward":
        return lambda: (attend(tokens),)

    def gradients(out: Tensor | Halves, **options: bool) -> tuple[Tensor, ...]:
        parts = out if isinstance(out, tuple) else (out,)
        return torch.autograd.grad(parts, tokens, grad.chunk(len(parts)), **options)

    if direction == "backward":
        kept = attend(tokens)
        return lambda: gradients(kept, retain_graph=True)

    def both() -> Outputs:
        out = attend(tokens)
        return (out, *gradients(out))

    return both


def _plain(
    tokens: Tokens, grad: Tensor, length: int, mode: str, direction: Direction
) -> tuple[Tensor, ...]:
    """The formula in the dtype of `tokens`, for the pairs that the gate looks at."""
    leaves = Tokens(*(rows.requires_grad_() for rows in tokens))

    def attend(inputs: Tokens) -> Tensor:
        # (2, pairs, H, S, D): modality first.
        query, key, value = (
            rows.unflatten(0, (2, -1, length)).transpose(2, 3) for rows in inputs
        )
        if mode == "cross":
            key, value = key.flip(0), value.flip(0)
        else:
            key, value = (torch.cat(x.unbind(0), dim=2)[None] for x in (key, value))
        weights = torch.softmax(query @ key.mT * _WIDTH**-0.5, dim=-1)
        return (weights @ value).transpose(2, 3).flatten(0, 2)

    own = torch.cat(_halves(grad, length)).to(leaves.query.dtype)
    outputs = _directed(attend, leaves, own, direction)()
    return tuple(output.detach() for output in outputs)


def _halves(rows: Tensor, length: int) -> list[Tensor]:
    """Rows of the first pairs, visible then infrared."""
    return [half[: _GATE_PAIRS * length] for half in rows.chunk(2)]


def _first_pairs(tokens: Tokens, length: int) -> Tokens:
    return Tokens(*(torch.cat(_halves(rows.detach(), length)) for rows in tokens))


def _case(
    device: str, length: int, pairs: int, direction: Direction,
    microseconds: float | None = None, mode: str = "cross",
) -> Case:  # fmt: skip
    rounds = 20 if direction == "forward" and device == "cpu" else 3
    return Case(
        "attention", "cross_modal_attention", f"{mode}, {pairs} pairs of {length}, {direction}",
        f"2 x {pairs} x {length} x {_HEADS} x {_WIDTH}",
        partial(_attention, length, pairs, mode, direction),
        dtype="bfloat16" if device == "cuda" else "float32", devices=(device,),
        budget=Budget(least_rounds=rounds, most_rounds=rounds if rounds > 3 else 60),
        microseconds=microseconds,
    )  # fmt: skip


# Pairs such that a call of the CPU takes milliseconds to a tenth of a second, and that a GPU is
# full; the targets in microseconds are for these sizes on an H200.
_CPU_PAIRS = {12: 64, 77: 32, 129: 16, 163: 16, 258: 8, 774: 2}
_GPU_PAIRS = {12: 16, 77: 64, 129: 64, 163: 64, 258: 64, 774: 16}
_GPU_MICROSECONDS = {(129, "forward"): 32.0, (129, "backward"): 75.0}
CASES = (
    *(
        _case("cpu", length, pairs, direction)
        for length, pairs in _CPU_PAIRS.items()
        for direction in ("forward", "forward + backward")
    ),
    *(
        _case("cuda", length, pairs, direction, _GPU_MICROSECONDS.get((length, direction)))
        for length, pairs in _GPU_PAIRS.items()
        for direction in ("forward", "backward", "forward + backward")
    ),
    _case("cuda", 163, 16, "forward", 10.0),
    _case("cuda", 163, 16, "backward", 25.0),
    _case("cuda", 129, 64, "forward", 48.0, "joint"),
    _case("cuda", 129, 64, "backward", mode="joint"),
)
