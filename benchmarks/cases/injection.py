"""Injection in one pass: the text tower's inputs, and semantic tokens in visual streams.

Prompts: template "person" of 12 tokens of which 4 are learned, width 512, 395 classes. Streams: the
129 tokens of a ViT-B on 256x128 images and 4 semantic tokens of their class behind the class
token, plus a residual, with the LayerNorm that reads the sum.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from baselines.prompts import cat_add_and_cast, cat_and_add, insert_add_and_normalize
from timing import Budget, Provider
from torch import Tensor

from cases.case import Case, Workload, copy_floor, in_turn, input_sets
from vireid_fast import inject_tokens, prompt_injection
from vireid_fast.ops import TokenNorm, TokenSource
from vireid_fast.testing import (
    PromptInputs,
    assert_error_budget,
    make_features,
    make_prompt_inputs,
)

_LENGTH, _WIDTH, _TOKENS, _START = 12, 512, 4, 5  # "A photo of a X X X X person."
_CLASSES = 395
_TARGET = 2.0
_PEER = "torch cat + add"
_STREAM_LENGTH, _STREAM_WIDTH, _STREAM_START = 129, 768, 1


def _prompts(
    prompts: int, classes: int, length: int, backward: bool, cast: bool, device: torch.device
) -> Workload:
    out_dtype = torch.bfloat16 if cast else torch.float32
    sets = [
        _inputs(prompts, classes, length, backward, seed, device)
        for seed in range(input_sets(device))
    ]
    grad = make_features(prompts * length, _WIDTH, device=device, dtype=out_dtype)
    grad = grad.view(prompts, length, _WIDTH)

    def provide(inject: Callable[..., Tensor]) -> Callable[[], Sequence[Tensor]]:
        def run(inputs: PromptInputs) -> Sequence[Tensor]:
            out = inject(*inputs)
            return (out, *torch.autograd.grad(out, inputs.context, grad)) if backward else (out,)

        return in_turn([partial(run, inputs) for inputs in sets])

    options = {"out_dtype": out_dtype} if cast else {}
    fused, reference = (
        provide(partial(prompt_injection, backend=backend, **options))
        for backend in ("fused", "reference")
    )
    peer, by_hand = (
        (f"{_PEER} + cast", partial(cat_add_and_cast, dtype=out_dtype))
        if cast else (_PEER, cat_and_add)
    )  # fmt: skip
    # Forward: writes the prompts, reads the context of each, the template and the positions.
    # Backward: reads the context's window of the gradient, writes the gradient of all contexts.
    written, window = grad.numel() * grad.element_size(), prompts * _TOKENS * _WIDTH
    moved = written + 4 * (window + 2 * length * _WIDTH)
    moved += window * grad.element_size() + 4 * classes * _TOKENS * _WIDTH if backward else 0
    providers = (
        Provider("fused", "fused", fused),
        Provider(peer, "peer", provide(by_hand), target=_TARGET),
        Provider("reference", "reference", reference),
        copy_floor(moved, grad),
    )

    def check(outputs: dict[str, Sequence[Tensor]]) -> None:
        wide = sets[0]._replace(
            template=sets[0].template.double(), positions=sets[0].positions.double(),
            context=sets[0].context.detach().double().requires_grad_(backward),
        )  # fmt: skip
        exact = [prompt_injection(*wide, backend="reference")]
        if backward:
            exact += torch.autograd.grad(exact[0], wide.context, grad.double())
        for name in ("fused", peer):
            parts = zip(outputs[name], outputs["reference"], exact, strict=True)
            for found, plain, value in parts:
                assert_error_budget(found.detach(), plain.detach(), value.detach())

    return Workload(providers, check)


def _inputs(
    prompts: int, classes: int, length: int, backward: bool, seed: int, device: torch.device
) -> PromptInputs:
    inputs = make_prompt_inputs(
        prompts, length, _WIDTH, classes, _TOKENS, _START, device=device, seed=seed
    )
    inputs.context.requires_grad_(backward)
    return inputs


class _StreamInputs(NamedTuple):
    stream: Tensor
    tokens: Tensor
    residual: Tensor
    weight: Tensor
    bias: Tensor

    def cast(self, dtype: torch.dtype) -> "_StreamInputs":
        """Leaves of their own in another dtype."""
        return _StreamInputs(*(x.detach().to(dtype).requires_grad_(x.requires_grad) for x in self))


def _streams(batch: int, inserted: int, backward: bool, device: torch.device) -> Workload:
    """Semantic tokens, residual and LayerNorm; without inserted tokens the latter two."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    sets = [
        _stream_inputs(batch, inserted, backward, dtype, device, seed)
        for seed in range(input_sets(device))
    ]
    labels = torch.arange(batch, device=device) * 7 % _CLASSES
    like = sets[0].residual.detach()
    grads = [make_features(batch * like.shape[1], _STREAM_WIDTH, seed=seed).view(like.shape)
             .to(like) for seed in (8, 9)]  # fmt: skip

    def run(inject: Callable[..., Any], inputs: _StreamInputs) -> tuple[Tensor, ...]:
        out = tuple(inject(*inputs))
        if not backward:
            return out
        own = [grad.to(out[0].dtype) for grad in grads]
        return (*out, *torch.autograd.grad(out, inputs, own))

    def ours(backend: str, stream: Tensor, tokens: Tensor, residual: Tensor, weight: Tensor,
             bias: Tensor) -> Any:  # fmt: skip
        insert = [TokenSource(tokens, _STREAM_START, labels, "insert")] if inserted else []
        sources = [*insert, TokenSource(residual, 0, mode="add")]
        return inject_tokens(stream, sources, norm=TokenNorm(weight, bias), backend=backend)

    by_hand = partial(insert_add_and_normalize, labels=labels, start=_STREAM_START)
    peer = "torch cat + add + layer_norm" if inserted else "torch add + layer_norm"
    plain = partial(ours, "reference")
    kinds = {"fused": partial(ours, "fused"), peer: by_hand, "reference": plain}
    roles = ("fused", "peer", "reference")
    # Forward: reads streams, tokens and residual, writes the sum and its norm. Backward: reads the
    # sum and both gradients, writes the gradients of all inputs.
    passes = 4 + (5 if backward else 0)
    providers = (
        *(
            Provider(name, role, in_turn([partial(run, inject, inputs) for inputs in sets]))
            for role, (name, inject) in zip(roles, kinds.items(), strict=True)
        ),
        copy_floor(passes * like.numel() * like.element_size(), like),
    )

    def check(outputs: dict[str, Sequence[Tensor]]) -> None:
        exact = run(plain, sets[0].cast(torch.float64))
        # torch adds up the gradients of weight and bias row after row.
        for name, rounding in (("fused", 4.0), (peer, 64.0)):
            parts = zip(outputs[name], outputs["reference"], exact, strict=True)
            for found, rough, value in parts:
                found, rough, value = found.detach(), rough.detach(), value.detach()
                assert_error_budget(found, rough, value, rounding=rounding)

    return Workload(providers, check)


def _stream_inputs(
    batch: int, inserted: int, backward: bool, dtype: torch.dtype, device: torch.device, seed: int
) -> _StreamInputs:
    """Streams, semantic tokens of every class, residuals, weight and bias of the norm."""
    length, width = _STREAM_LENGTH + inserted, _STREAM_WIDTH

    def rows(*shape: int, offset: int) -> Tensor:
        flat = make_features(math.prod(shape), width, seed=10 * seed + offset)
        return flat.view(*shape, width).to(device, dtype)

    norm = rows(2, offset=4)
    inputs = _StreamInputs(
        rows(batch, _STREAM_LENGTH, offset=1),
        rows(_CLASSES, inserted, offset=2) if inserted else norm.new_empty(0, 0, width),
        rows(batch, length, offset=3), 1 + 0.1 * norm[0], norm[1].clone(),
    )  # fmt: skip
    for tensor in inputs:
        tensor.requires_grad_(backward)
    return inputs


def _stream_case(
    batch: int, backward: bool, *, inserted: int = _TOKENS, device: str,
    microseconds: float | None = None,
) -> Case:  # fmt: skip
    direction = "forward + backward" if backward else "forward"
    what = f"{batch} streams of {_STREAM_LENGTH}"
    what += f" + {inserted} tokens" if inserted else " tokens"
    return Case(
        "injection", "inject_tokens", f"{what}, residual and LayerNorm, {direction}",
        f"{batch} x {_STREAM_LENGTH + inserted} x {_STREAM_WIDTH}",
        partial(_streams, batch, inserted, backward),
        dtype="bfloat16" if device == "cuda" else "float32", devices=(device,),
        microseconds=microseconds, budget=Budget(seconds=4.0),
    )  # fmt: skip


def _case(
    prompts: int, backward: bool, cast: bool, *, classes: int = _CLASSES, length: int = _LENGTH,
    device: str | None = None, microseconds: float | None = None,
) -> Case:  # fmt: skip
    direction = "forward + backward" if backward else "forward"
    into = ", into bfloat16" if cast else ""
    long = f" of {length} tokens" if length != _LENGTH else ""
    return Case(
        "injection", "prompt_injection", f"{prompts} prompts{long}, {direction}{into}",
        f"{prompts} x {length} x {_WIDTH} of {classes} classes",
        partial(_prompts, prompts, classes, length, backward, cast),
        devices=(device,) if device else ("cpu", "cuda"), microseconds=microseconds,
    )  # fmt: skip


CASES = (
    *(
        _case(prompts, backward, cast)
        for cast in (False, True)
        for prompts in (64, 395)
        for backward in (False, True)
    ),
    # The target of a GPU is for prompts padded to the context length.
    _case(500, False, True, classes=500, length=77, device="cuda", microseconds=14.0),
    *(_stream_case(16, backward, device="cpu") for backward in (False, True)),
    *(_stream_case(64, backward, device="cpu") for backward in (False, True)),
    *(_stream_case(64, backward, device="cuda") for backward in (False, True)),
    # The size that the target of a GPU is for.
    _stream_case(128, False, inserted=0, device="cuda", microseconds=27.0),
)
