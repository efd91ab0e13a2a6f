"""The methods at published sizes on random weights, fused and plain, on the same parameters."""

from typing import NamedTuple

import torch

from vireid_fast.clip import build_clip
from vireid_fast.clip.architectures import ARCHITECTURES
from vireid_fast.config import config_from_dict
from vireid_fast.engine.clip_setup import Backbone
from vireid_fast.engine.distributed import World
from vireid_fast.engine.methods import METHODS, Method
from vireid_fast.engine.precision import Precision
from vireid_fast.engine.runtime import Runtime

IDENTITIES = 64
SIZE = (288, 144)
FRAMES = 6
# As in configs/<method>/.
BACKBONES = {
    "csdn": "RN50", "clip4vi_reid": "RN50", "clip_mc": "ViT-B/16", "lsmrl": "ViT-B/16",
}  # fmt: skip
NAMES = {
    "csdn": "CSDN", "clip4vi_reid": "CLIP4VI-ReID", "clip_mc": "CLIP-MC", "lsmrl": "LSMRL",
}  # fmt: skip


class MethodPair(NamedTuple):
    """One method on the kernels and on plain torch; the models share every parameter."""

    fused: Method
    reference: Method


def method_pair(
    name: str, device: torch.device, *, settings: dict | None = None, depth: int | None = None
) -> MethodPair:
    """Both forms of a method with its published configuration.

    Args:
        name: Key of `METHODS`.
        device: Where the models go.
        settings: Sections of the configuration that differ.
        depth: Blocks of both towers; None: all that the architecture has.
    """
    fused, reference = (
        _method(name, backend, device, settings or {}, depth) for backend in ("fused", "reference")
    )
    # Twice the weights and the optimiser's state would take gigabytes.
    reference.model.load_state_dict(fused.model.state_dict(keep_vars=True), assign=True)
    return MethodPair(fused, reference)


def _method(
    name: str, backend: str, device: torch.device, settings: dict, depth: int | None
) -> Method:
    torch.manual_seed(0)
    architecture = BACKBONES[name]
    config = config_from_dict(
        {
            "method": name, "backend": backend, "device": device.type, "precision": "float32",
            "data": {"height": SIZE[0], "width": SIZE[1]}, "video": {"frames": FRAMES},
            "clip": {"architecture": architecture, "layer4_stride": 1}, **settings,
        }
    )  # fmt: skip
    resnet = ARCHITECTURES[architecture].family == "resnet"
    sizes = {"layer4_stride": 1} if resnet else {}
    if depth is not None:
        sizes |= {"visual_layers": depth, "text_layers": depth}
    clip = build_clip(architecture, image_size=SIZE, **sizes)
    backbone = Backbone(clip.to(memory_format=torch.channels_last), None)
    runtime = Runtime(config, World.single(device.type), Precision("float32", device.type))
    return METHODS[name](runtime, backbone, IDENTITIES)
