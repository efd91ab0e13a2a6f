"""Semantic diffusion: tokens of clips over the texts of all training identities.

LSMRL on ViT-B/16: 32 sequences of 163 tokens of width 768, texts of width 512, 12 heads. 395
identities train on SYSU-MM01, 500 on HITSZ-VCM, 1074 on BUPTCampus. Gradients are those of tokens,
texts and all weights.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from baselines.diffusion import diffuse_with_a_bank_per_item
from timing import Provider
from torch import Tensor

from cases.case import Case, Workload, gemm_floor, in_turn, input_sets
from vireid_fast.nn import SemanticDiffusion
from vireid_fast.testing import assert_error_budget

_ITEMS, _LENGTH = 32, 163
_WIDTH, _TEXT_WIDTH, _HEADS = 768, 512, 12
_GATE_ITEMS = 2
_PEER = "SDPA, bank copied for each item"
Outputs = tuple[Tensor, ...]
Apply = Callable[[SemanticDiffusion, Tensor, Tensor], Tensor]


def _diffusion(texts: int, backward: bool, device: torch.device) -> Workload:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    layer = SemanticDiffusion(_WIDTH, _TEXT_WIDTH, _HEADS)
    # As after training: at the start the texts are scaled by a hundredth.
    torch.nn.init.ones_(layer.gamma)
    layer = layer.to(device, dtype)
    plain = copy.copy(layer)
    plain.backend = "reference"
    sets = [
        tuple(
            torch.randn(shape).to(device, dtype).requires_grad_(backward)
            for shape in ((_ITEMS, _LENGTH, _WIDTH), (texts, _TEXT_WIDTH))
        )
        for _ in range(input_sets(device))
    ]
    grad = torch.randn(_ITEMS, _LENGTH, _WIDTH).to(device, dtype) if backward else None

    def provide(apply: Apply, own: SemanticDiffusion) -> Callable[[], Outputs]:
        return in_turn([partial(_directed, apply, own, *inputs, grad) for inputs in sets])

    rows = _ITEMS * _LENGTH
    # Queries and outputs, keys and values, scores and their mean of values.
    flops = 2 * _WIDTH * (2 * rows * _WIDTH + 2 * texts * _TEXT_WIDTH + 2 * rows * texts)
    providers = (
        Provider("fused", "fused", provide(_call, layer)),
        Provider(_PEER, "peer", provide(diffuse_with_a_bank_per_item, layer)),
        Provider("reference", "reference", provide(_call, plain)),
        gemm_floor(flops * (3 if backward else 1), rows, _WIDTH, _WIDTH, device, dtype),
    )

    def check(outputs: dict[str, Outputs]) -> None:
        _check(outputs, plain, sets[0], grad)

    return Workload(providers, check)


def _check(
    outputs: dict[str, Outputs], plain: SemanticDiffusion, inputs: Outputs, grad: Tensor | None
) -> None:
    """Hold a few items to float64; gradients of texts and weights are sums over all items."""
    wide = copy.deepcopy(plain).double()
    tokens, bank = (x.detach().double() for x in inputs)
    if grad is None:
        exact = _directed(_call, wide, tokens[:_GATE_ITEMS], bank, None)
    else:
        leaves = tokens.requires_grad_(), bank.requires_grad_()
        exact = _directed(_call, wide, *leaves, grad.double())
    for name in ("fused", _PEER):
        parts = zip(outputs[name], outputs["reference"], exact, strict=True)
        for found, reference, value in parts:
            few = len(value)
            assert_error_budget(found[:few], reference[:few], value)


def _call(layer: SemanticDiffusion, tokens: Tensor, bank: Tensor) -> Tensor:
    return layer(tokens, bank)


def _directed(
    apply: Apply, layer: SemanticDiffusion, tokens: Tensor, bank: Tensor, grad: Tensor | None
) -> Outputs:
    if grad is None:
        with torch.no_grad():
            return (apply(layer, tokens, bank),)
    out = apply(layer, tokens, bank)
    wanted = [tokens, bank, *layer.parameters()]
    return (out.detach(), *torch.autograd.grad(out, wanted, grad))


def _case(texts: int, backward: bool, device: str) -> Case:
    direction = "forward + backward" if backward else "forward"
    return Case(
        "diffusion", "SemanticDiffusion", f"{texts} texts, {direction}",
        f"{_ITEMS} x {_LENGTH} x {_WIDTH}, {texts} x {_TEXT_WIDTH}",
        partial(_diffusion, texts, backward),
        dtype="bfloat16" if device == "cuda" else "float32", devices=(device,),
        memory=("fused", _PEER, "reference") if texts == 500 else (),
    )  # fmt: skip


CASES = tuple(
    _case(texts, backward, device)
    for device in ("cpu", "cuda")
    for texts in (395, 500, 1074)
    for backward in (False, True)
)
