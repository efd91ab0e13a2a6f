"""Whether an ONNX file gives the features of its network."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vireid_fast.data.synthetic import (
    INFRARED_CAMERAS,
    VISIBLE_CAMERAS,
    render_person,
    sample_identity,
)

_SEED = 20
# Drawn no larger than that, then enlarged: drawing large people takes long and shows no more.
_DRAWN = (128, 64)


@dataclass(frozen=True)
class Parity:
    """Differences between onnxruntime and the network on one batch.

    Attributes:
        images: Number of images.
        kind: "random", "drawn" (people, as a camera of the modality shows them) or "black, white".
        largest: Largest absolute difference of a feature.
        relative: Largest length of the difference of a row, by the length of the row.
        cosine: Lowest cosine of a row.
    """

    images: int
    kind: str
    largest: float
    relative: float
    cosine: float

    @property
    def worst(self) -> float:
        """The largest of the three deviations; infinite where a value is not finite."""
        values = (self.largest, self.relative, 1 - self.cosine)
        return max(values) if np.isfinite(values).all() else float("inf")


def measure(
    path: Path, network: nn.Module, size: tuple[int, int], modality: str,
    names: tuple[str, str], batch: int | None = None,
) -> list[Parity]:  # fmt: skip
    """Compare a file with its network on batches of 1, 3 and 7 images, and of black and white.

    Args:
        path: The ONNX file, run by onnxruntime on the CPU.
        network: (N, 3, H, W) in 0..1 to (N, D).
        size: H and W.
        modality: Of the drawn people.
        names: Of input and output.
        batch: The only number of images that the file takes; None: any.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    rows = []
    for kind, images in _batches(size, modality, batch):
        with torch.no_grad():
            want = network(images).double()
        (got,) = session.run([names[1]], {names[0]: images.numpy()})
        rows.append(compare(kind, torch.from_numpy(got).double(), want))
    return rows


def compare(kind: str, got: Tensor, want: Tensor) -> Parity:
    """Differences of features (N, D)."""
    if got.shape != want.shape:
        infinite = float("inf")
        return Parity(len(want), kind, infinite, infinite, -1.0)
    difference = got - want
    lengths = want.norm(dim=1).clamp_min(1e-12)
    cosine = (got * want).sum(1) / (lengths * got.norm(dim=1).clamp_min(1e-12))
    return Parity(
        len(want), kind, difference.abs().max().item(),
        (difference.norm(dim=1) / lengths).max().item(), cosine.min().item(),
    )  # fmt: skip


def _batches(
    size: tuple[int, int], modality: str, batch: int | None
) -> list[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(_SEED)

    def random(count: int) -> Tensor:
        return torch.rand(count, 3, *size, generator=generator)

    def drawn(count: int) -> Tensor:
        return _people(size, modality, min(count, 7)).repeat(-(-count // 7), 1, 1, 1)[:count]

    def extremes(count: int) -> Tensor:
        return (torch.arange(count) % 2).float().view(-1, 1, 1, 1).expand(-1, 3, *size).contiguous()

    counts = (batch,) * 4 if batch else (1, 3, 7, 2)
    return [
        ("random", random(counts[0])), ("random", random(counts[1])),
        ("drawn", drawn(counts[2])), ("black, white", extremes(counts[3])),
    ]  # fmt: skip


def _people(size: tuple[int, int], modality: str, count: int) -> Tensor:
    """Drawn people as float images (count, 3, H, W) in 0..1."""
    cameras = VISIBLE_CAMERAS if modality == "visible" else INFRARED_CAMERAS
    images = np.stack([
        render_person(
            sample_identity(_SEED, index + 1),
            cameras[index % len(cameras)], index, _DRAWN,
        )
        for index in range(count)
    ])  # fmt: skip
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return torch.nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
