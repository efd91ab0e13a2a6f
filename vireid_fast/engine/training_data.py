"""Training images and tracklets: one memory-mapped cache, seen as visible and infrared lists."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vireid_fast.config import AugmentConfig
from vireid_fast.data.cache import ImageCache, open_cache
from vireid_fast.data.frame_samplers import SAMPLERS, require_long_enough
from vireid_fast.data.images import describe_skipped
from vireid_fast.data.samplers import relabel
from vireid_fast.data.table import INFRARED, VISIBLE, ImageTable, require_trainable
from vireid_fast.data.tracklets import TrackletTable
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


@dataclass(frozen=True)
class FrameSampling:
    """How frames of a tracklet become a clip.

    Attributes:
        frames: T, frames of a clip.
        kind: "chunks" or "uniform", see `VideoConfig.sampling`.
        short: "repeat" or "refuse" tracklets of fewer frames.
    """

    frames: int
    kind: str
    short: str = "repeat"

    def draw(self, lengths: np.ndarray, generator: torch.Generator | None) -> np.ndarray:
        """Frames of some tracklets, counted from their first.

        Args:
            lengths: Frames of each tracklet. Shape (B,), int64.
            generator: Source of the draws in training; None takes the frames of the test.

        Returns:
            Shape (B, T), int64.
        """
        return SAMPLERS[self.kind](lengths, self.frames, generator)

    def require_length(self, table: TrackletTable, rows: np.ndarray) -> None:
        """Raise DatasetError where short tracklets are refused and there is one."""
        if self.short == "refuse":
            require_long_enough(table, rows, self.frames)


@dataclass(frozen=True)
class TrainingTracklets:
    """Cached frames of the training tracklets, with labels 0..C-1.

    Attributes:
        cache: Frames of all training tracklets.
        identities: Person id of each label. Shape (C,).
        first: For each modality the position in the cache of each tracklet's first frame.
        lengths: For each modality the frames of each tracklet.
        labels: For each modality the label of each tracklet.
        sampling: How frames become a clip.
    """

    cache: ImageCache
    identities: np.ndarray
    first: tuple[np.ndarray, np.ndarray]
    lengths: tuple[np.ndarray, np.ndarray]
    labels: tuple[np.ndarray, np.ndarray]
    sampling: FrameSampling

    def clips(
        self,
        modality: int,
        indices: np.ndarray,
        generator: torch.Generator | None,
        part: slice = slice(None),
    ) -> Tensor:
        """Frames of tracklets of one modality's list, clip after clip.

        Args:
            modality: 0 visible, 1 infrared.
            indices: Tracklets for which frames are drawn. Shape (B,).
            generator: Source of the draws; None takes the frames of the test.
            part: The tracklets among them that are read.

        Returns:
            Shape (b T, H, W, 3), uint8.
        """
        frames = self.sampling.draw(self.lengths[modality][indices], generator)
        positions = self.first[modality][indices, None] + frames
        return self.cache.batch(positions[part].reshape(-1))

    def label_tensor(self, modality: int, indices: np.ndarray) -> Tensor:
        """Labels at `indices` of one modality's list. Shape (B,), int64."""
        return torch.from_numpy(self.labels[modality][indices])

    def frames(self) -> TrainingImages:
        """Every frame as an image of its own: what pre-training sees of a video set."""
        positions, labels = [], []
        for first, length, label in zip(self.first, self.lengths, self.labels, strict=True):
            ends = np.cumsum(length)
            within = np.arange(ends[-1]) - np.repeat(ends - length, length)
            positions.append(np.repeat(first, length) + within)
            labels.append(np.repeat(label, length))
        return TrainingImages(
            self.cache, self.identities, (positions[0], positions[1]), (labels[0], labels[1])
        )


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
    visible, infrared = (np.flatnonzero(modality == m) for m in (VISIBLE, INFRARED))
    return TrainingImages(
        cache, identities, (visible, infrared), (labels[visible], labels[infrared])
    )


def open_training_tracklets(
    table: TrackletTable,
    split: str,
    size: tuple[int, int],
    folder: Path,
    sampling: FrameSampling,
    *,
    skip_bad: bool = False,
) -> TrainingTracklets:
    """Open, or build once, the cache of the frames of a training split.

    Args:
        table: Tracklets of the data set.
        split: "train", "train+val" or "train+auxiliary".
        size: Height and width of the cached frames.
        folder: Folder of the cache.
        sampling: How frames become a clip.
        skip_bad: Leave damaged frames out and count them, instead of stopping at the first.

    Raises:
        DatasetError: An identity has tracklets of one modality only, or a tracklet is too short.
    """
    rows = table.rows(split)
    sampling.require_length(table, rows)
    require_trainable(table.frames, split, rows=table.start[rows])
    wanted = np.concatenate([table.frame_rows(row) for row in rows])
    with progress_bar("resizing training frames") as advance:
        cache = open_cache(
            table.frames, wanted, size, folder, skip_bad=skip_bad, progress=advance
        )
    if cache.bad:
        say(describe_skipped(cache.bad))
    # Frames lie in the cache in the order of `wanted`, less the damaged ones.
    owner = np.repeat(np.arange(len(rows)), table.length[rows])
    kept = np.bincount(owner[np.isin(wanted, cache.rows)], minlength=len(rows))
    first = np.cumsum(kept) - kept
    alive = np.flatnonzero(kept)
    labels, identities = relabel(table.person_ids[rows[alive]])
    modality = table.modality[rows[alive]]
    a, b = (np.flatnonzero(modality == m) for m in (VISIBLE, INFRARED))
    return TrainingTracklets(
        cache, identities, (first[alive[a]], first[alive[b]]), (kept[alive[a]], kept[alive[b]]),
        (labels[a], labels[b]), sampling,
    )  # fmt: skip
