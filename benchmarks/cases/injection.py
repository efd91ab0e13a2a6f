"""Prompt injection: the text tower's inputs in one pass, against cat, add and cast.

Template "person" of 12 tokens of which 4 are learned, width 512, 395 classes.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from baselines.prompts import cat_add_and_cast, cat_and_add
from timing import Provider
from torch import Tensor

from cases.case import Case, Workload, copy_floor, in_turn, input_sets
from vireid_fast import prompt_injection
from vireid_fast.testing import (
    PromptInputs,
    assert_error_budget,
    make_features,
    make_prompt_inputs,
)

_LENGTH, _WIDTH, _TOKENS, _START = 12, 512, 4, 5  # "A photo of a X X X X person."
_TARGET = 2.0
_PEER = "torch cat + add"


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


def _case(
    prompts: int, backward: bool, cast: bool, *, classes: int = 395, length: int = _LENGTH,
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
)
