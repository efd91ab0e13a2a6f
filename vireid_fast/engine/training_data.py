"""The training images of a run: one memory-mapped cache, seen as visible and infrared lists."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vireid_fast.config import AugmentConfig
from vireid_fast.data.cache import ImageCache, open_cache
from vireid_fast.data.images import describe_skipped
from vireid_fast.data.samplers import relabel
from vireid_fast.data.table import INFRARED, VISIBLE, ImageTable, require_trainable
from vireid_fast.data.views import Augmentation
from vireid_fast.engine.progress import progress_bar, say


@dataclass(frozen=True)
class TrainingImages:
    """Cached training images with labels 0..C-1.

    Attributes:
        cache: All images of the training split.
        identities: Person id of each label. Shape (C,).
        positions: For each modality (0 visible, 1 infrared) positions in the cache.
        labels: For each modality the label of each position.
    """

    cache: ImageCache
    identities: np.ndarray
    positions: tuple[np.ndarray, np.ndarray]
    labels: tuple[np.ndarray, np.ndarray]

    def images(self, modality: int, indices: np.ndarray) -> Tensor:
        """Images at `indices` of one modality's list. Shape (B, H, W, 3), uint8."""
        return self.cache.batch(self.positions[modality][indices])

    def label_tensor(self, modality: int, indices: np.ndarray) -> Tensor:
        """Labels at `indices` of one modality's list. Shape (B,), int64."""
        return torch.from_numpy(self.labels[modality][indices])


def build_augmentation(config: AugmentConfig) -> Augmentation:
    """The configured strengths of the views."""
    return Augmentation(
        pad=config.pad, flip=config.flip, erase=config.erase,
        scale=(config.scale_min, config.scale_max), jitter=config.jitter, gamma=config.gamma,
        grey=config.exchange_grey, grey_probability=config.grey, invert=config.invert,
    )  # fmt: skip


def open_training_images(
    table: ImageTable, split: str, size: tuple[int, int], folder: Path, *, skip_bad: bool
) -> TrainingImages:
    """Open, or build once, the cache of a training split.

    Args:
        table: Images of the data set.
        split: "train" or "train+val".
        size: Height and width of the cached images.
        folder: Folder of the cache.
        skip_bad: Leave damaged images out and count them, instead of stopping at the first.
    """
    require_trainable(table, split)
    with progress_bar("resizing training images") as advance:
        cache = open_cache(
            table, table.rows(split), size, folder, skip_bad=skip_bad, progress=advance
        )
    if cache.bad:
        say(describe_skipped(cache.bad))
    labels, identities = relabel(table.person_ids[cache.rows])
    modality = table.modality[cache.rows]
    positions = tuple(np.flatnonzero(modality == m) for m in (VISIBLE, INFRARED))
    return TrainingImages(
        cache, identities, positions, tuple(labels[p] for p in positions)
    )  # type: ignore[arg-type]
