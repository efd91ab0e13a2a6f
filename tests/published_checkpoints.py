"""Stand-ins for published checkpoints: their names and shapes, with small widths and random values.

Written from the public repositories, without the package: nengdong96/CSDN@4ceb172,
Syliz517/CLIP-ReID@4c0eb20, mangye16/Cross-Modal-Re-ID-baseline@32d881c.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]


class _Drawer:
    """Draws tensors of a state dict under their names."""

    def __init__(self, seed: int, empty: bool = False) -> None:
        self.state: State = {}
        self._empty = empty
        self._generator = torch.Generator().manual_seed(seed)

    def add(self, name: str, *shape: int, scale: float | None = None, shift: float = 0.0) -> None:
        if self._empty:
            self.state[name] = torch.empty(shape, device="meta")
            return
        fan_in = max(int(np.prod(shape[1:])), 1) if len(shape) > 1 else 1
        factor = fan_in**-0.5 if scale is None else scale
        self.state[name] = torch.randn(shape, generator=self._generator) * factor + shift

    def conv(self, name: str, out: int, inner: int, side: int, bias: bool = False) -> None:
        self.add(f"{name}.weight", out, inner, side, side)
        if bias:
            self.add(f"{name}.bias", out, scale=0.1)

    def linear(self, name: str, out: int, inner: int) -> None:
        self.add(f"{name}.weight", out, inner)
        self.add(f"{name}.bias", out, scale=0.1)

    def norm(self, name: str, width: int, running: bool = True) -> None:
        self.add(f"{name}.weight", width, scale=0.1, shift=1.0)
        self.add(f"{name}.bias", width, scale=0.1)
        if running:
            self.add(f"{name}.running_mean", width, scale=0.1)
            self.add(f"{name}.running_var", width, scale=0.05, shift=1.0)
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(
                7, device="meta" if self._empty else "cpu"
            )

    def bottleneck(self, name: str, inner: int, planes: int, *, shortcut: bool) -> None:
        self.conv(f"{name}.conv1", planes, inner, 1)
        self.conv(f"{name}.conv2", planes, planes, 3)
        self.conv(f"{name}.conv3", 4 * planes, planes, 1)
        for index, width in enumerate((planes, planes, 4 * planes), 1):
            self.norm(f"{name}.bn{index}", width)
        if shortcut:
            self.conv(f"{name}.downsample.0", 4 * planes, inner, 1)
            self.norm(f"{name}.downsample.1", 4 * planes)

    def layers(self, names: list[str], width: int, counts: tuple[int, ...]) -> None:
        inner = width
        for index, (name, count) in enumerate(zip(names, counts, strict=True)):
            planes = width * 2**index
            for block in range(count):
                self.bottleneck(f"{name}.{block}", inner, planes, shortcut=block == 0)
                inner = 4 * planes

    def attention_pool(self, name: str, width: int, joint: int, places: int) -> None:
        self.add(f"{name}.positional_embedding", places + 1, width, scale=width**-0.5)
        for part in ("k_proj", "q_proj", "v_proj"):
            self.linear(f"{name}.{part}", width, width)
        self.linear(f"{name}.c_proj", joint, width)

    def transformer(self, name: str, width: int, layers: int) -> None:
        for index in range(layers):
            block = f"{name}.resblocks.{index}"
            self.add(f"{block}.attn.in_proj_weight", 3 * width, width)
            self.add(f"{block}.attn.in_proj_bias", 3 * width, scale=0.1)
            self.linear(f"{block}.attn.out_proj", width, width)
            self.norm(f"{block}.ln_1", width, running=False)
            self.linear(f"{block}.mlp.c_fc", 4 * width, width)
            self.linear(f"{block}.mlp.c_proj", width, 4 * width)
            self.norm(f"{block}.ln_2", width, running=False)

    def prompts(self, name: str, identities: int, width: int) -> None:
        self.add(f"{name}.cls_ctx", identities, 4, width, scale=0.02)
        self.add(f"{name}.token_prefix", 1, 5, width, scale=0.02)
        self.add(f"{name}.token_suffix", 1, 68, width, scale=0.02)

    def text_encoder(self, width: int, joint: int, layers: int) -> None:
        self.transformer("text_encoder.transformer", width, layers)
        self.add("text_encoder.positional_embedding", 77, width, scale=0.01)
        self.norm("text_encoder.ln_final", width, running=False)
        self.add("text_encoder.text_projection", width, joint)


def agw_state(
    *, width: int = 8, layers: tuple[int, ...] = (1, 2, 2, 1), identities: int = 5,
    non_local: bool = True, seed: int = 0, empty: bool = False,
) -> State:  # fmt: skip
    """`embed_net(...).state_dict()`: three whole ResNets, of which parts are run."""
    draw = _Drawer(seed, empty)
    for name in ("thermal_module.thermal", "visible_module.visible", "base_resnet.base"):
        draw.conv(f"{name}.conv1", width, 3, 7)
        draw.norm(f"{name}.bn1", width)
        draw.layers([f"{name}.layer{k}" for k in range(1, 5)], width, layers)
    if non_local:
        for group, count in ((2, min(2, layers[1])), (3, min(3, layers[2]))):
            channels = 4 * width * 2 ** (group - 1)
            for index in range(count):
                block = f"NL_{group}.{index}"
                draw.conv(f"{block}.g.0", channels // 2, channels, 1, bias=True)
                draw.conv(f"{block}.W.0", channels, channels // 2, 1, bias=True)
                draw.norm(f"{block}.W.1", channels)
                draw.conv(f"{block}.theta", channels // 2, channels, 1, bias=True)
                draw.conv(f"{block}.phi", channels // 2, channels, 1, bias=True)
                # Each block is cubic in its input; unlike trained weights, random ones would let
                # values grow beyond float32.
                draw.state[f"{block}.W.1.weight"] *= 0.002
    draw.norm("bottleneck", 32 * width)
    draw.add("classifier.weight", identities, 32 * width)
    return draw.state


def csdn_state(
    *, width: int = 4, layers: tuple[int, ...] = (1, 2, 1, 1), joint: int = 16,
    places: int = 8, identities: int = 5, text_width: int = 16, text_layers: int = 1,
    seed: int = 0, empty: bool = False,
) -> State:  # fmt: skip
    """`Model(...).state_dict()` of CSDN; 8 places are images of 64 x 32."""
    draw = _Drawer(seed, empty)
    for name in ("image_encoder1", "image_encoder2"):
        draw.conv(f"{name}.0", width // 2, 3, 3)
        draw.norm(f"{name}.1", width // 2)
        draw.conv(f"{name}.2", width // 2, width // 2, 3)
        draw.norm(f"{name}.3", width // 2)
        draw.conv(f"{name}.4", width, width // 2, 3)
        draw.norm(f"{name}.5", width)
    draw.layers([f"image_encoder.{k}" for k in range(4)], width, layers)
    draw.attention_pool("attnpool", 32 * width, joint, places)
    draw.add("classifier.GEM.p", 1, scale=0.0, shift=2.7)
    for name, size in (("classifier", 32 * width), ("classifier2", joint)):
        draw.norm(f"{name}.BN", size)
        draw.add(f"{name}.classifier.weight", identities, size)
    for name in ("prompt_learner1", "prompt_learner2"):
        draw.prompts(name, identities, text_width)
    draw.text_encoder(text_width, joint, text_layers)
    for part in ("q", "k", "v", "common"):
        draw.linear(f"attention_fusion.embedding_{part}.0", joint, joint)
    return draw.state


def _necks(draw: _Drawer, width: int, joint: int, identities: int) -> None:
    draw.add("classifier.weight", identities, width)
    draw.add("classifier_proj.weight", identities, joint)
    draw.norm("bottleneck", width)
    draw.norm("bottleneck_proj", joint)


def clip_reid_vit_state(
    *, width: int = 64, layers: int = 2, patch: int = 16, joint: int = 24, places: int = 8,
    identities: int = 5, cameras: int = 0, text: bool = True, seed: int = 0, empty: bool = False,
) -> State:  # fmt: skip
    """`build_transformer(...).state_dict()` with a ViT; `cameras` embeddings make it SIE."""
    draw = _Drawer(seed, empty)
    if cameras:
        draw.add("cv_embed", cameras, width, scale=0.5)
    _necks(draw, width, joint, identities)
    draw.add("image_encoder.class_embedding", width, scale=width**-0.5)
    draw.add("image_encoder.positional_embedding", places + 1, width, scale=width**-0.5)
    draw.add("image_encoder.proj", width, joint)
    draw.conv("image_encoder.conv1", width, 3, patch)
    draw.norm("image_encoder.ln_pre", width, running=False)
    draw.transformer("image_encoder.transformer", width, layers)
    draw.norm("image_encoder.ln_post", width, running=False)
    if text:
        draw.prompts("prompt_learner", identities, 16)
        draw.text_encoder(16, joint, 1)
    return draw.state


def clip_reid_resnet_state(
    *, width: int = 4, layers: tuple[int, ...] = (1, 1, 2, 1), joint: int = 16, places: int = 8,
    identities: int = 5, text: bool = True, seed: int = 0, empty: bool = False,
) -> State:  # fmt: skip
    """`build_transformer(...).state_dict()` with a ResNet."""
    draw = _Drawer(seed, empty)
    _necks(draw, 32 * width, joint, identities)
    for index, (out, inner) in enumerate(
        ((width // 2, 3), (width // 2, width // 2), (width, width // 2)), 1
    ):
        draw.conv(f"image_encoder.conv{index}", out, inner, 3)
        draw.norm(f"image_encoder.bn{index}", out)
    draw.layers([f"image_encoder.layer{k}" for k in range(1, 5)], width, layers)
    draw.attention_pool("image_encoder.attnpool", 32 * width, joint, places)
    if text:
        draw.prompts("prompt_learner", identities, 16)
        draw.text_encoder(16, joint, 1)
    return draw.state


STAND_INS = {
    "agw": agw_state,
    "csdn": csdn_state,
    "clip-reid-vit": clip_reid_vit_state,
    "clip-reid-resnet": clip_reid_resnet_state,
}


def write_published(kind: str, path: Path, **sizes: object) -> State:
    """Write a stand-in as its authors' programs do; returns its state dict.

    AGW: a dictionary with `net`, numpy scores and the epoch. CSDN: names with `module.`.
    CLIP-ReID: the plain state dict.

    Args:
        kind: A key of `STAND_INS`.
        path: The file.
        sizes: Arguments of the function in `STAND_INS`.
    """
    state = STAND_INS[kind](**sizes)
    content: object = state
    if kind == "agw":
        scores = np.linspace(0.5, 1.0, 20)
        content = {"net": state, "cmc": scores, "mAP": np.float64(0.25), "mINP": np.float64(0.125),
                   "epoch": 42}  # fmt: skip
    elif kind == "csdn":
        content = {f"module.{name}": value for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return state


if __name__ == "__main__":
    # python tests/published_checkpoints.py agw FILE
    write_published(sys.argv[1], Path(sys.argv[2]))
