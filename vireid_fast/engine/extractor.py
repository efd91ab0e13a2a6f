"""Features of images that a program holds: files, folders, arrays; no data set, no training."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vireid_fast._checks import positive_int, require, require_choice
from vireid_fast.data.images import ImageError, image_pixels, load_image
from vireid_fast.data.table import MODALITY_NAMES, name_some
from vireid_fast.engine.extraction import EncodedRows, encode_rows
from vireid_fast.engine.image_folders import folder_clips, folder_images
from vireid_fast.engine.model_card import ModelCard
from vireid_fast.engine.networks import (
    WHICH,
    FeatureNetwork,
    open_network,
    open_run_network,
)
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.engine.training_data import FrameSampling

ImageLike = Union[str, os.PathLike[str], Image.Image, np.ndarray, Tensor]  # noqa: UP007
"""A file, an image of Pillow, or uint8 samples of shape (H, W, 3) or (H, W)."""


@dataclass(frozen=True)
class FolderFeatures:
    """Features of the images of a folder.

    Attributes:
        features: Shape (N, D), float32, on the CPU.
        paths: Files relative to the folder, with forward slashes; of a clip its middle frame. N.
        bad: Images that could not be read and were skipped.
    """

    features: Tensor
    paths: tuple[str, ...]
    bad: tuple[ImageError, ...] = ()


class Extractor:
    """A trained network as a function: images -> features.

    Open one with `from_pretrained` or `from_run`. Files are read, resized and normalised as
    `vireid extract` does it, and give the same bits in the same blocks of images on the same
    device and number of threads. Another block size can change the last bits of a feature, since
    matrix products choose their order by size.

    Attributes:
        network: The opened network.

    Example:
        >>> extractor = vireid_fast.from_pretrained("runs/small")
        >>> queries = extractor(["a.jpg", "b.jpg"], modality="infrared")   # (2, D)
    """

    def __init__(self, network: FeatureNetwork) -> None:
        self.network = network

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *, device: str = "cpu") -> "Extractor":
        """Open a model folder, or a run folder by its best checkpoint; local folders only.

        Args:
            path: Folder with `model.safetensors` and `card.json`, or that of a run.
            device: "cpu", "cuda", "cuda:1".

        Raises:
            FileNotFoundError: There is no such folder; nothing is downloaded.
            ValueError: It holds no model, or a damaged one; names the file.
        """
        return cls(open_network(path, device))

    @classmethod
    def from_run(
        cls, path: str | os.PathLike[str], which: str = "best", device: str = "cpu"
    ) -> "Extractor":
        """Open a checkpoint of a run; the run's data set need not be there.

        Args:
            path: Folder of the run.
            which: "best", chosen on validation identities, or "latest".
            device: "cpu", "cuda", "cuda:1".

        Raises:
            ValueError: There is no such run or checkpoint, or it is damaged; names the file.
        """
        return cls(open_run_network(RunFolder.open(Path(path)), which, device))

    def __repr__(self) -> str:
        card, kind = self.card, "clips" if self.video else "images"
        size = " x ".join(map(str, self.network.size))
        return (
            f"Extractor({card.method}, {card.architecture}, {kind} of {size}, "
            f"features of {card.feature_width}, {self.network.device}, {self.network.source})"
        )

    @property
    def card(self) -> ModelCard:
        """What the network is."""
        return self.network.card

    @property
    def feature_width(self) -> int:
        """D, the width of a feature."""
        return self.card.feature_width

    @property
    def metric(self) -> str:
        """Distance that the features are meant for: "euclidean", "cosine" or "dot"."""
        return self.card.metric

    @property
    def processing(self) -> dict[str, str]:
        """How the features are made, in words by name."""
        return dict(self.card.processing)

    @property
    def video(self) -> bool:
        """Whether an item is a clip (a list of frames) instead of an image."""
        return self.network.sampling is not None

    def __call__(
        self,
        images: ImageLike | Sequence[Any],
        *,
        modality: str | Sequence[str],
        batch_size: int = 64,
    ) -> Tensor:
        """Features of images, in their order.

        Args:
            images: Files, images of Pillow, or uint8 samples (H, W, 3) or (H, W) as arrays or
                tensors, mixed as you like; may be empty. A single one counts as a list of one. For
                a network of clips a list of such lists, frames in time, any number of them.
            modality: "visible" or "infrared", of all images or one for each.
            batch_size: Images, or frames of clips, in a block; blocks never mix modalities.

        Returns:
            Shape (N, D), float32, on the CPU. Not differentiable.

        Raises:
            ImageError: An image cannot be read; names the file or the position.
            ValueError: A shape, a modality or a number does not fit.
            TypeError: A type or dtype does not fit.
        """
        items = _as_list(images, single=not self.video)
        return self._encode(items, modality, batch_size, skip_bad=False).features

    def extract_folder(
        self,
        folder: str | os.PathLike[str],
        *,
        modality: str,
        batch_size: int = 64,
        skip_bad: bool = False,
    ) -> FolderFeatures:
        """Features of all images below a folder, in the order of their paths.

        For a network of clips every folder that holds images directly is a clip, its frames in the
        order of their names.

        Args:
            folder: The folder; files without the suffix of an image are left alone.
            modality: "visible" or "infrared", of all of them.
            batch_size: See `__call__`.
            skip_bad: Leave damaged images out and name them, instead of raising.

        Raises:
            ImageError: A damaged image, unless `skip_bad`.
            ValueError: The folder is absent or holds no image, or an argument does not fit.
        """
        root = Path(folder)
        if self.video:
            clips = folder_clips(root)
            names = [clip[len(clip) // 2] for clip in clips]
            items: list[Any] = [[root / frame for frame in clip] for clip in clips]
        else:
            names = folder_images(root)
            items = [root / name for name in names]
        found = self._encode(items, modality, batch_size, skip_bad=skip_bad)
        return FolderFeatures(
            found.features, tuple(names[row] for row in found.rows.tolist()), found.bad
        )

    def extract_path(
        self, path: str | os.PathLike[str], *, modality: str, batch_size: int = 64,
        skip_bad: bool = False,
    ) -> FolderFeatures:  # fmt: skip
        """Features of one image, called by its name, or of a folder; see `extract_folder`."""
        path = Path(path)
        if path.is_dir():
            return self.extract_folder(
                path, modality=modality, batch_size=batch_size, skip_bad=skip_bad
            )
        items: list[Any] = [[path]] if self.video else [path]
        found = self._encode(items, modality, batch_size, skip_bad=skip_bad)
        return FolderFeatures(found.features, (path.name,) * len(found.rows), found.bad)

    def _encode(
        self, items: list[Any], modality: str | Sequence[str], batch_size: int, *, skip_bad: bool
    ) -> EncodedRows:
        network, block = self.network, positive_int("Extractor", "batch_size", batch_size)
        reader = _ItemReader(items, network)
        if network.sampling is not None:
            reader = _ClipItemReader(items, network)
            block = max(1, block // network.sampling.frames)
        with network.autocast():
            found = encode_rows(
                network.encode, reader, np.arange(len(items)), _numbers(modality, len(items)),
                network.augmentation, block_rows=block, device=network.device, skip_bad=skip_bad,
                description="extracting",
            )  # fmt: skip
        if len(found.rows):
            return found
        return EncodedRows(torch.empty(0, self.feature_width), found.rows, found.bad)


class _ItemReader:
    """Pixels of items that are images."""

    def __init__(self, items: list[Any], network: FeatureNetwork) -> None:
        self._items = items
        self._size = network.size
        self._interpolation = network.card.preprocessing.interpolation

    def load(self, row: int) -> list[np.ndarray]:
        """The image of an item."""
        return [self.pixels(self._items[row], f"image {row}")]

    def arrange(self, images: Tensor) -> Tensor:
        """What the encoder is given."""
        return images

    def pixels(self, image: Any, name: str) -> np.ndarray:
        """Pixels (H, W, 3) of one image in the size of the network."""
        if isinstance(image, str | os.PathLike):
            return load_image(Path(image), self._size, self._interpolation)
        if isinstance(image, Tensor):
            image = image.detach().cpu().numpy()
        require(
            isinstance(image, Image.Image | np.ndarray), "Extractor", name,
            "be a file, an image of Pillow, or uint8 samples (H, W, 3) or (H, W)",
            type(image).__name__, error=TypeError,
        )  # fmt: skip
        return image_pixels(image, name, self._size, self._interpolation)


class _ClipItemReader(_ItemReader):
    """Pixels of items that are lists of frames."""

    def __init__(self, items: list[Any], network: FeatureNetwork) -> None:
        super().__init__(items, network)
        self._sampling: FrameSampling = network.sampling  # type: ignore[assignment]
        for row, frames in enumerate(items):
            is_list = isinstance(frames, Sequence) and not isinstance(frames, str)
            require(is_list and len(frames) > 0, "Extractor", f"clip {row}",
                    "be a list of at least one frame",
                    "an empty list" if is_list else type(frames).__name__,
                    "The network takes clips: give a list of lists of frames.",
                    ValueError if is_list else TypeError)  # fmt: skip
            least = self._sampling.frames if self._sampling.short == "refuse" else 1
            require(len(frames) >= least, "Extractor", f"clip {row}",
                    f"have at least {least} frames, as the network refuses shorter ones",
                    len(frames))  # fmt: skip

    def load(self, row: int) -> list[np.ndarray]:
        """The frames that stand for a clip; one that is taken several times is decoded once."""
        frames = self._items[row]
        chosen = self._sampling.draw(np.array([len(frames)]), None)[0].tolist()
        pixels = {n: self.pixels(frames[n], f"frame {n} of clip {row}") for n in set(chosen)}
        return [pixels[n] for n in chosen]

    def arrange(self, images: Tensor) -> Tensor:
        """Clips (B, T, 3, H, W)."""
        return images.unflatten(0, (-1, self._sampling.frames))


def _as_list(images: Any, *, single: bool) -> list[Any]:
    if single and isinstance(images, str | os.PathLike | Image.Image):
        return [images]
    if isinstance(images, np.ndarray | Tensor):
        # One image, or a block of them.
        return list(images) if images.ndim == 4 else [images]
    require(
        isinstance(images, Sequence) and not isinstance(images, str), "Extractor", "images",
        "be a list of images" if single else "be a list of clips, each a list of frames",
        type(images).__name__, error=TypeError,
    )  # fmt: skip
    return list(images)


def _numbers(modality: str | Sequence[str], count: int) -> np.ndarray:
    """0 visible, 1 infrared. Shape (count,), int64."""
    if isinstance(modality, str):
        require_choice("Extractor", "modality", modality, MODALITY_NAMES)
        return np.full(count, MODALITY_NAMES.index(modality))
    words = list(modality)
    require(len(words) == count, "Extractor", "modality",
            f"be one word, or one for each of the {count} images", len(words))  # fmt: skip
    unknown = sorted({str(word) for word in words if word not in MODALITY_NAMES})
    require(not unknown, "Extractor", "modality", f"be one of {list(MODALITY_NAMES)} each",
            name_some(unknown))  # fmt: skip
    return np.array([MODALITY_NAMES.index(word) for word in words], np.int64)


def from_pretrained(path: str | os.PathLike[str], *, device: str = "cpu") -> Extractor:
    """Open a model folder or a run folder as an `Extractor`; see `Extractor.from_pretrained`."""
    return Extractor.from_pretrained(path, device=device)


def open_extractor(
    what: str, run: Path | None, model: Path | None, which: str = "best", device: str = "cpu"
) -> Extractor | None:
    """The extractor that the options of a command name; None where they name none.

    Args:
        what: The command, for errors.
        run: Value of --run.
        model: Value of --model.
        which: Checkpoint of the run, "best" or "latest".
        device: Where the network goes.

    Raises:
        ValueError: Both are given, or see `Extractor.from_run`, `Extractor.from_pretrained`.
    """
    require(run is None or model is None, what, "--model", "come without --run",
            f"--run {run}")  # fmt: skip
    require_choice(what, "--checkpoint", which, WHICH)
    if run is not None:
        return Extractor.from_run(run, which, device)
    if model is not None:
        return Extractor.from_pretrained(model, device=device)
    return None
