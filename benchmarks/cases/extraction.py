"""Test-time features of the methods, in images or clips per second.

`Method.encode` on random weights and 288x144 images: the image methods encode each image and its
mirror image, CLIP-MC also writes the description of each, LSMRL encodes clips of 6 frames and
diffuses the texts of 64 identities into them. References are `backend: reference`.
"""

from functools import partial

import torch
from method_pairs import BACKBONES, FRAMES, NAMES, SIZE, method_pair
from timing import Budget, Provider
from torch import Tensor

from cases.case import Case, Workload

_REFERENCE = "references"


def _features(name: str, batch: int, device: torch.device) -> Workload:
    pair = method_pair(name, device)
    generator = torch.Generator().manual_seed(0)
    frames = batch * FRAMES if pair.fused.video else batch
    images = torch.randn(frames, 3, *SIZE, generator=generator)
    images = images.to(device, memory_format=torch.channels_last)
    if pair.fused.video:
        images = images.unflatten(0, (batch, FRAMES))
    for method in pair:
        method.model.eval()
    providers = (
        Provider("fused", "fused", partial(pair.fused.encode, images, "infrared")),
        Provider(_REFERENCE, "reference", partial(pair.reference.encode, images, "infrared")),
    )

    def check(outputs: dict[str, Tensor]) -> None:
        found, plain = outputs["fused"], outputs[_REFERENCE]
        assert torch.isfinite(found).all()
        # Parts of a row have length one; rounding through all layers moves them less than this.
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-4)

    return Workload(providers, check)


def _case(name: str, batch: int) -> Case:
    unit = "clips" if name == "lsmrl" else "images"
    frames = f"{FRAMES} x " if name == "lsmrl" else ""
    return Case(
        "extraction", NAMES[name], f"{batch} {unit}, {BACKBONES[name]}",
        f"{batch} x {frames}3 x {SIZE[0]} x {SIZE[1]}", partial(_features, name, batch),
        budget=Budget(seconds=15.0), graphs=False, items=batch, unit=unit,
    )  # fmt: skip


CASES = (
    _case("csdn", 8), _case("clip4vi_reid", 8), _case("clip_mc", 4), _case("lsmrl", 2),
)  # fmt: skip
