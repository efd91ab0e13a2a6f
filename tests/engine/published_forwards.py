"""The test-time forward passes of published networks as plain functions of their state dicts.

Oracles in float64, one step after the other, written from the public repositories without the
package: nengdong96/CSDN@4ceb172 `network/` and @dd6e953 `core/test.py`, Syliz517/CLIP-ReID@4c0eb20
`model/`, mangye16/Cross-Modal-Re-ID-baseline@32d881c `model.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class Weights:
    """A state dict in float64, read by names below a prefix."""

    def __init__(self, state: dict[str, Tensor], prefix: str = "") -> None:
        self.state, self.prefix = state, prefix

    def __call__(self, name: str) -> Tensor:
        return self.state[self.prefix + name].double()

    def has(self, name: str) -> bool:
        return any(key.startswith(self.prefix + name) for key in self.state)

    def below(self, name: str) -> "Weights":
        return Weights(self.state, f"{self.prefix}{name}.")


def batch_norm(x: Tensor, w: Weights) -> Tensor:
    shape = (1, -1) + (1,) * (x.dim() - 2)
    mean, var, weight, bias = (
        w(name).view(shape) for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def layer_norm(x: Tensor, w: Weights) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w("weight") + w(
        "bias"
    )


def linear(x: Tensor, w: Weights) -> Tensor:
    return x @ w("weight").T + w("bias")


def conv(x: Tensor, w: Weights, stride: int = 1, padding: int = 0) -> Tensor:
    bias = w("bias") if w.has("bias") else None
    return F.conv2d(x, w("weight"), bias, stride=stride, padding=padding)


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(1, keepdim=True).sqrt()


def attention(x: Tensor, heads: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, L, W) of ready projections, head by head."""
    parts = []
    for query, key, value in zip(
        q.chunk(heads, 2), k.chunk(heads, 2), v.chunk(heads, 2), strict=True
    ):
        scores = query @ key.transpose(1, 2) / query.shape[2] ** 0.5
        parts.append(scores.softmax(2) @ value)
    assert parts[0].shape[:2] == x.shape[:2]
    return torch.cat(parts, 2)


# CLIP's modified ResNet.


def clip_bottleneck(x: Tensor, w: Weights, stride: int) -> Tensor:
    out = batch_norm(conv(x, w.below("conv1")), w.below("bn1")).relu()
    out = batch_norm(conv(out, w.below("conv2"), padding=1), w.below("bn2")).relu()
    if stride > 1:
        out = F.avg_pool2d(out, stride)
    out = batch_norm(conv(out, w.below("conv3")), w.below("bn3"))
    if w.has("downsample"):
        x = F.avg_pool2d(x, stride) if stride > 1 else x
        x = batch_norm(conv(x, w.below("downsample.0")), w.below("downsample.1"))
    return (out + x).relu()


def clip_layers(x: Tensor, layers: list[Weights]) -> Tensor:
    for w, stride in zip(layers, (1, 2, 2, 1), strict=True):
        block = 0
        while w.has(f"{block}."):
            x = clip_bottleneck(x, w.below(str(block)), stride if block == 0 else 1)
            block += 1
    return x


def clip_attention_pool(x: Tensor, w: Weights) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + w("positional_embedding")
    heads = max(tokens.shape[2] // 64, 1)
    q, k, v = (linear(tokens, w.below(name)) for name in ("q_proj", "k_proj", "v_proj"))
    return linear(attention(tokens, heads, q, k, v), w.below("c_proj"))[:, 0]


# CSDN.


def csdn_features(state: dict[str, Tensor], images: Tensor, modality: str) -> Tensor:
    """Features of the images and, after them, of their mirror images."""
    w = Weights(state)
    stem = w.below("image_encoder1" if modality == "visible" else "image_encoder2")
    parts = []
    for x in (images.double(), torch.flip(images.double(), [3])):
        # An nn.Sequential of conv, bn, conv, bn, conv, bn, one ReLU, average pool.
        x = batch_norm(conv(x, stem.below("0"), 2, 1), stem.below("1"))
        x = batch_norm(conv(x, stem.below("2"), 1, 1), stem.below("3"))
        x = batch_norm(conv(x, stem.below("4"), 1, 1), stem.below("5")).relu()
        x = F.avg_pool2d(x, 2)
        x = clip_layers(x, [w.below(f"image_encoder.{k}") for k in range(4)])
        exponent = w("classifier.GEM.p")
        pooled = x.clamp(min=1e-6).pow(exponent).mean((2, 3)).pow(1 / exponent)
        parts += [
            unit(batch_norm(pooled, w.below("classifier.BN"))),
            unit(clip_attention_pool(x, w.below("attnpool"))),
        ]
    return torch.cat(parts, 1)


# CLIP-ReID.


def clip_reid_features(
    state: dict[str, Tensor], images: Tensor, *, stride: int = 16, neck: str = "before",
    shift: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Features, divided by their length as its evaluation does (FEAT_NORM)."""
    w = Weights(state)
    if w.has("image_encoder.class_embedding"):
        feature, projected = _vit(w.below("image_encoder"), images.double(), stride, shift)
    else:
        feature, projected = _clip_resnet(w.below("image_encoder"), images.double())
    if neck == "after":
        feature = batch_norm(feature, w.below("bottleneck"))
        projected = batch_norm(projected, w.below("bottleneck_proj"))
    return unit(torch.cat([feature, projected], 1))


def _clip_resnet(w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    for index, stride in ((1, 2), (2, 1), (3, 1)):
        x = batch_norm(conv(x, w.below(f"conv{index}"), stride, 1), w.below(f"bn{index}")).relu()
    x = clip_layers(F.avg_pool2d(x, 2), [w.below(f"layer{k}") for k in range(1, 5)])
    return x.mean((2, 3)), clip_attention_pool(x, w.below("attnpool"))


def _vit(w: Weights, x: Tensor, stride: int, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    patches = conv(x, w.below("conv1"), stride).flatten(2).transpose(1, 2)
    first = w("class_embedding").expand(len(x), 1, -1)
    if shift is not None:
        first = first + shift.double()[:, None]
    x = torch.cat([first, patches], 1) + w("positional_embedding")
    x = layer_norm(x, w.below("ln_pre"))
    heads, index = max(x.shape[2] // 64, 1), 0
    while w.has(f"transformer.resblocks.{index}."):
        block = w.below(f"transformer.resblocks.{index}")
        y = layer_norm(x, block.below("ln_1"))
        packed = y @ block("attn.in_proj_weight").T + block("attn.in_proj_bias")
        x = x + linear(attention(y, heads, *packed.chunk(3, 2)), block.below("attn.out_proj"))
        y = linear(layer_norm(x, block.below("ln_2")), block.below("mlp.c_fc"))
        # QuickGELU.
        x = x + linear(y * torch.sigmoid(1.702 * y), block.below("mlp.c_proj"))
        index += 1
    feature = layer_norm(x, w.below("ln_post"))[:, 0]
    return feature, feature @ w("proj")


# AGW.


def agw_features(
    state: dict[str, Tensor], images: Tensor, modality: str, *, neck: str = "after",
    pooling: str = "gem",
) -> Tensor:  # fmt: skip
    """`feat_fc` with neck "after", `feat_pool` with "before"."""
    w = Weights(state)
    stem = w.below(
        "visible_module.visible" if modality == "visible" else "thermal_module.thermal"
    )
    x = batch_norm(conv(images.double(), stem.below("conv1"), 2, 3), stem.below("bn1")).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for k, stride in ((1, 1), (2, 2), (3, 2), (4, 1)):
        layer = w.below(f"base_resnet.base.layer{k}")
        count = len({name.split(".")[3] for name in state if name.startswith(layer.prefix)})
        attended = len({name.split(".")[1] for name in state if name.startswith(f"NL_{k}.")})
        for index in range(count):
            x = _resnet_bottleneck(x, layer.below(str(index)), stride if index == 0 else 1)
            if index >= count - attended:
                x = _non_local(x, w.below(f"NL_{k}.{index - count + attended}"))
    if pooling == "gem":
        pooled = ((x**3.0).flatten(2).mean(-1) + 1e-12) ** (1 / 3.0)
    else:
        pooled = x.mean((2, 3))
    return unit(batch_norm(pooled, w.below("bottleneck")) if neck == "after" else pooled)


def _resnet_bottleneck(x: Tensor, w: Weights, stride: int) -> Tensor:
    out = batch_norm(conv(x, w.below("conv1")), w.below("bn1")).relu()
    out = batch_norm(conv(out, w.below("conv2"), stride, 1), w.below("bn2")).relu()
    out = batch_norm(conv(out, w.below("conv3")), w.below("bn3"))
    if w.has("downsample"):
        x = batch_norm(conv(x, w.below("downsample.0"), stride), w.below("downsample.1"))
    return (out + x).relu()


def _non_local(x: Tensor, w: Weights) -> Tensor:
    value = conv(x, w.below("g.0")).flatten(2).permute(0, 2, 1)
    theta = conv(x, w.below("theta")).flatten(2).permute(0, 2, 1)
    phi = conv(x, w.below("phi")).flatten(2)
    scores = theta @ phi
    mixed = (scores / scores.shape[2]) @ value
    mixed = mixed.permute(0, 2, 1).reshape(len(x), -1, *x.shape[2:])
    return batch_norm(conv(mixed, w.below("W.0")), w.below("W.1")) + x
