"""The metric losses of one step on one Gram matrix, and images against all texts in blocks.

A step of CSDN has 8 identities with 4 images in 3 views: 96 rows. The text bank has 395 rows on
SYSU-MM01, 1074 on LLCM's scale, and 20000 where the score matrix no longer fits a cache.
"""

from collections.abc import Callable
from functools import partial

import torch
from baselines.losses import separate_losses, whole_cross_entropy
from timing import Budget, Provider
from torch import Tensor

from cases.case import Case, Workload, gemm_floor, in_turn, input_sets, peers_of
from vireid_fast.losses import (
    FeatureGram,
    cross_modal_contrast,
    image_to_text,
    modality_shared_enhancement,
    weighted_regularized_triplet,
)
from vireid_fast.testing import assert_error_budget, make_features

_INSTANCES = 4
_CDIST = "separate torch.cdist calls"
_WHOLE = "whole score matrix"
Loss = Callable[..., Tensor]


def _metric(identities: int, width: int, backward: bool, device: torch.device) -> Workload:
    labels = torch.arange(identities, device=device).repeat_interleave(_INSTANCES)
    rows = 3 * len(labels)
    sets = [
        (_identity_rows(identities, width, seed, device).requires_grad_(backward),)
        for seed in range(input_sets(device))
    ]
    # Distances within one set are symmetric: half of the products.
    flops = rows**2 * width * (3 if backward else 1)
    providers = (
        Provider("fused", "fused", _provide(partial(_gram_losses, labels=labels), sets, backward)),
        Provider(_CDIST, "peer", _provide(partial(separate_losses, labels=labels), sets, backward)),
        Provider(
            "ours on tensors", "reference",
            _provide(partial(_tensor_losses, labels=labels), sets, backward),
        ),
        gemm_floor(flops, rows, width, rows, device),
    )  # fmt: skip
    return Workload(providers, partial(_check, sets[0], _tensor_losses, labels, providers))


def _texts(batch: int, width: int, texts: int, backward: bool, device: torch.device) -> Workload:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(texts, (batch,), generator=generator).to(device)
    sets = [
        tuple(
            # Scores of a few units, as cosines over a temperature have.
            (make_features(rows, width, seed=seed + rows, device=device) / width**0.25)
            .requires_grad_(backward and rows == batch)
            for rows in (batch, texts)
        )
        for seed in range(input_sets(device))
    ]  # fmt: skip
    providers = (
        Provider("fused", "fused", _provide(partial(image_to_text, labels=labels), sets, backward)),
        Provider(
            _WHOLE, "peer", _provide(partial(whole_cross_entropy, labels=labels), sets, backward)
        ),
        # Scores, and the products with the texts for the gradient of the images.
        gemm_floor(2 * batch * texts * width * (2 if backward else 1), batch, width, texts, device),
    )
    return Workload(providers, partial(_check, sets[0], whole_cross_entropy, labels, providers))


def _gram_losses(features: Tensor, labels: Tensor) -> Tensor:
    return _losses(FeatureGram(features), labels)


def _tensor_losses(features: Tensor, labels: Tensor) -> Tensor:
    return _losses(features, labels)


def _losses(features: Tensor | FeatureGram, labels: Tensor) -> Tensor:
    """The metric losses of CSDN's third stage, unweighted."""
    count = len(labels)
    visible, infrared = features[:count], features[2 * count :]
    return (
        weighted_regularized_triplet(features, labels.repeat(3))
        + modality_shared_enhancement(visible, infrared, labels)
        + cross_modal_contrast(features[: 2 * count], infrared, labels.repeat(2), labels)
    )


def _identity_rows(identities: int, width: int, seed: int, device: torch.device) -> Tensor:
    """Rows [visible; exchanged; infrared] scattered around one centre an identity."""
    centres = make_features(identities, width, seed=seed).repeat_interleave(_INSTANCES, 0)
    noise = make_features(3 * len(centres), width, seed=seed + 100)
    return (centres.repeat(3, 1) + noise).to(device)


def _provide(
    loss: Loss, sets: list[tuple[Tensor, ...]], backward: bool
) -> Callable[[], tuple[Tensor, ...]]:
    def run(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        value = loss(*inputs)
        return (value, *torch.autograd.grad(value, inputs[0])) if backward else (value,)

    return in_turn([partial(run, inputs) for inputs in sets])


def _check(
    inputs: tuple[Tensor, ...], plain: Loss, labels: Tensor, providers: tuple[Provider, ...],
    outputs: dict[str, tuple[Tensor, ...]],
) -> None:  # fmt: skip
    backward = inputs[0].requires_grad
    wide = [tuple(x.detach().double().requires_grad_(x.requires_grad) for x in inputs)]
    exact = _provide(partial(plain, labels=labels), wide, backward)()
    rough = outputs[peers_of(providers, outputs)[-1]]
    for found, reference, value in zip(outputs["fused"], rough, exact, strict=True):
        assert_error_budget(found.detach(), reference.detach(), value.detach(), rounding=16)
    for name in peers_of(providers, outputs):
        for found, value in zip(outputs[name], exact, strict=True):
            # cdist's GEMM form cancels, most of all in the gradient at distance 0; this only makes
            # sure that it does the same work.
            off = (found.double() - value).detach().abs().max()
            assert off <= 0.02 * value.detach().abs().max(), f"{name} is off by {off:.3g}"


_BUDGET = Budget(seconds=4.0)
_DIRECTIONS = ((False, "forward"), (True, "forward + backward"))
CASES = (
    *(
        Case(
            "metric_losses", "FeatureGram",
            f"{3 * _INSTANCES * identities} rows of {width}, {name}",
            f"{identities} identities x {_INSTANCES} x 3 x {width}",
            partial(_metric, identities, width, backward),
            memory=("fused", _CDIST) if backward else (), budget=_BUDGET,
        )
        for identities, width in ((8, 2048), (8, 1024), (32, 2048))
        for backward, name in _DIRECTIONS
    ),
    *(
        Case(
            "metric_losses", "image_to_text", f"192 images, {texts} texts, {name}",
            f"192 x 1024, {texts} x 1024", partial(_texts, 192, 1024, texts, backward),
            memory=("fused", _WHOLE) if backward else (), budget=_BUDGET,
        )
        for texts in (395, 1074, 20000)
        for backward, name in _DIRECTIONS
    ),
)  # fmt: skip
