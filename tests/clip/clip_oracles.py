"""Independent oracles: CLIP's ResNet in numpy float64, position resize by loops, and HF models."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from vireid_fast.clip import CLIP, openai_state_dict


def randomise(module: nn.Module, seed: int = 0, scale: float = 0.1) -> None:
    """Give every weight, bias and running statistic a value that no default would hide."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point() or value.dim() == 0:
                continue
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var"):
                noise = 0.5 + noise.abs()
            elif value.dim() == 4:
                noise = noise * (2 / value[0].numel()) ** 0.5
            elif value.dim() == 1 and name.endswith("weight"):
                noise = 1 + scale * noise
            else:
                noise = scale * noise
            value.copy_(noise)


class ResNetOracle:
    """CLIP's ModifiedResNet, from its published description, by explicit loops."""

    def __init__(self, model: CLIP) -> None:
        self.state = {
            name.removeprefix("visual."): value.double().numpy()
            for name, value in openai_state_dict(model).items()
            if name.startswith("visual.")
        }
        self.sizes = model.architecture

    def __call__(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the layer4 map and the projected feature."""
        x = images.double().numpy()
        for index in (1, 2, 3):
            x = self._conv(x, f"conv{index}", stride=2 if index == 1 else 1)
            x = self._norm(x, f"bn{index}")
            if index == 3 or self.sizes.stem_relu == "clip":
                x = np.maximum(x, 0)
        x = _average_pool(x, 2)
        for layer, blocks in enumerate(self.sizes.visual_layers, start=1):
            stride = {1: 1, 2: 2, 3: 2, 4: self.sizes.layer4_stride}[layer]
            for block in range(blocks):
                x = self._bottleneck(x, f"layer{layer}.{block}", stride if block == 0 else 1)
        return x, self._attention_pool(x)

    def _bottleneck(self, x: np.ndarray, name: str, stride: int) -> np.ndarray:
        out = np.maximum(self._norm(self._conv(x, f"{name}.conv1"), f"{name}.bn1"), 0)
        out = np.maximum(self._norm(self._conv(out, f"{name}.conv2"), f"{name}.bn2"), 0)
        out = _average_pool(out, stride)
        out = self._norm(self._conv(out, f"{name}.conv3"), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in self.state:
            x = self._conv(_average_pool(x, stride), f"{name}.downsample.0")
            x = self._norm(x, f"{name}.downsample.1")
        return np.maximum(out + x, 0)

    def _conv(self, x: np.ndarray, name: str, stride: int = 1) -> np.ndarray:
        weight = self.state[f"{name}.weight"]
        size = weight.shape[2]
        pad = size // 2
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        height = (x.shape[2] - size) // stride + 1
        width = (x.shape[3] - size) // stride + 1
        out = np.zeros((x.shape[0], weight.shape[0], height, width))
        for row in range(size):
            for column in range(size):
                window = x[
                    :, :, row : row + stride * height : stride,
                    column : column + stride * width : stride,
                ]  # fmt: skip
                out += np.tensordot(weight[:, :, row, column], window, (1, 1)).swapaxes(0, 1)
        return out

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        weight, bias, mean, variance = (
            self.state[f"{name}.{part}"][None, :, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias

    def _attention_pool(self, x: np.ndarray) -> np.ndarray:
        heads = self.sizes.visual_heads
        features = []
        for item in x:
            tokens = item.reshape(item.shape[0], -1).T
            tokens = np.concatenate([tokens.mean(axis=0, keepdims=True), tokens])
            tokens = tokens + self.state["attnpool.positional_embedding"]
            query, key, value = (self._linear(tokens, part) for part in "qkv")
            size = query.shape[1] // heads
            parts = []
            for head in range(heads):
                columns = slice(head * size, (head + 1) * size)
                scores = query[:, columns] @ key[:, columns].T / math.sqrt(size)
                scores = np.exp(scores - scores.max(axis=1, keepdims=True))
                parts.append(scores / scores.sum(axis=1, keepdims=True) @ value[:, columns])
            features.append(self._linear(np.concatenate(parts, axis=1), "c")[0])
        return np.stack(features)

    def _linear(self, x: np.ndarray, part: str) -> np.ndarray:
        name = f"attnpool.{part}_proj"
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]


def _average_pool(x: np.ndarray, size: int) -> np.ndarray:
    height, width = x.shape[2] // size, x.shape[3] // size
    x = x[:, :, : height * size, : width * size]
    return x.reshape(*x.shape[:2], height, size, width, size).mean(axis=(3, 5))


def resize_grid(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize of (h, w, C) with pixel centres aligned, cell by cell."""
    out = np.zeros((height, width, grid.shape[2]))
    for row in range(height):
        for column in range(width):
            # Positions left of the first centre are clamped to it before the weights are taken.
            y = max((row + 0.5) * grid.shape[0] / height - 0.5, 0)
            x = max((column + 0.5) * grid.shape[1] / width - 0.5, 0)
            top, left = int(y), int(x)
            low, right = min(top + 1, grid.shape[0] - 1), min(left + 1, grid.shape[1] - 1)
            for i, wy in ((top, 1 - (y - top)), (low, y - top)):
                for j, wx in ((left, 1 - (x - left)), (right, x - left)):
                    out[row, column] += wy * wx * grid[i, j]
    return out
