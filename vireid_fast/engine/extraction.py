"""Feature extraction: every image once, in blocks, from a table or a list of files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from vireid_fast.data.images import ImageError, describe_skipped, load_image
from vireid_fast.data.table import MODALITY_NAMES, ImageTable
from vireid_fast.data.tracklets import TrackletTable
from vireid_fast.data.views import Augmentation, test_view
from vireid_fast.engine.progress import progress_bar, say
from vireid_fast.engine.training_data import FrameSampling
from vireid_fast.retrieval.feature_set import FeatureSet

Encoder = Callable[[Tensor, str], Tensor]
"""(normalised images (B, 3, H, W), or clips (B, T, 3, H, W), "visible" | "infrared") -> (B, D)."""


@dataclass(frozen=True)
class Extraction:
    """Features of the rows that could be read, and the files that could not."""

    features: FeatureSet
    rows: np.ndarray
    bad: tuple[ImageError, ...]


class Reader(Protocol):
    """Where the pixels of rows come from."""

    def load(self, row: int) -> list[np.ndarray]:
        """The images of a row, each (H, W, 3), uint8; more than one where it is a clip."""

    def arrange(self, images: Tensor) -> Tensor:
        """What the encoder is given of normalised images (B, 3, H, W)."""


@dataclass(frozen=True)
class EncodedRows:
    """Features of the rows that could be read.

    Attributes:
        features: In the order in which the rows were asked for. Shape (n, D), float32, on the CPU;
            (0, 0) if there is none.
        rows: Those rows. Shape (n,), int64.
        bad: The files that could not be read.
    """

    features: Tensor
    rows: np.ndarray
    bad: tuple[ImageError, ...]


@torch.no_grad()
def encode_rows(
    encoder: Encoder,
    reader: Reader,
    rows: np.ndarray,
    modality: np.ndarray,
    augmentation: Augmentation,
    *,
    block_rows: int,
    device: torch.device | str,
    skip_bad: bool,
    description: str,
) -> EncodedRows:
    """Decode and encode rows, each once, in blocks that never mix modalities.

    Args:
        encoder: See `Encoder`; in evaluation mode.
        reader: Where pixels come from.
        rows: Distinct rows. Shape (n,), int64.
        modality: 0 visible, 1 infrared, of each of them. Shape (n,), int64.
        augmentation: Its normalisation is used.
        block_rows: Rows of a block.
        device: Where the encoder lives.
        skip_bad: Leave damaged images out and count them, instead of raising.
        description: Text of the progress bar.

    Raises:
        ImageError: A damaged image, unless `skip_bad`.
    """
    kept: list[np.ndarray] = []
    parts: list[Tensor] = []
    bad: list[ImageError] = []
    done = 0
    with progress_bar(description) as advance:
        for number, name in enumerate(MODALITY_NAMES):
            own = rows[modality == number]
            for start in range(0, len(own), block_rows):
                block = own[start : start + block_rows]
                images, good = _read(reader, block, bad, skip_bad=skip_bad)
                if good:
                    batch = reader.arrange(test_view(images.to(device), augmentation))
                    parts.append(encoder(batch, name).float().cpu())
                    kept.append(np.asarray(good))
                done += len(block)
                advance(done, len(rows))
    if bad:
        say(describe_skipped(bad))
    found = np.concatenate(kept) if kept else np.empty(0, np.int64)
    place = {row: position for position, row in enumerate(found.tolist())}
    order = [place[row] for row in rows.tolist() if row in place]
    features = torch.cat(parts) if parts else torch.empty(0, 0)
    return EncodedRows(features[order], found[order], tuple(bad))


def extract_features(
    encoder: Encoder,
    table: ImageTable | TrackletTable,
    rows: np.ndarray,
    size: tuple[int, int],
    augmentation: Augmentation,
    *,
    sampling: FrameSampling | None = None,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    skip_bad: bool = False,
    description: str = "extracting",
    interpolation: str = "lanczos",
) -> Extraction:
    """Features of some images or tracklets of a table, each decoded and encoded once.

    Args:
        encoder: See `Encoder`; in evaluation mode.
        table: Images or tracklets of the data set.
        rows: Rows to extract. Shape (n,), int64.
        size: Height and width of the network's input.
        augmentation: Its normalisation is used.
        sampling: Which frames of a tracklet are read; for tracklets only.
        batch_size: Images per block, or as many frames; blocks never mix modalities.
        device: Where the encoder lives.
        skip_bad: Leave damaged images, and tracklets with a damaged frame among those read, out
            and count them, instead of raising.
        description: Text of the progress bar.
        interpolation: Filter that images are resized with; see `load_image`.

    Returns:
        Features in the order of `rows`, on the CPU, float32.

    Raises:
        ImageError: A damaged image, unless `skip_bad`.
        DatasetError: A tracklet is too short, where `sampling` refuses such.
    """
    reader: Reader
    if sampling is None:
        reader = _ImageReader(cast(ImageTable, table), size, interpolation)
        block_rows = batch_size
    else:
        table = cast(TrackletTable, table)
        sampling.require_length(table, rows)
        reader = _ClipReader(table, size, sampling)
        block_rows = max(1, batch_size // sampling.frames)
    encoded = encode_rows(
        encoder, reader, rows, table.modality[rows], augmentation, block_rows=block_rows,
        device=device, skip_bad=skip_bad, description=description,
    )  # fmt: skip
    return _of_table(table, encoded)


class _ImageReader:
    """Pixels of one row of a table of images."""

    def __init__(self, table: ImageTable, size: tuple[int, int], interpolation: str) -> None:
        self._table, self._size, self._interpolation = table, size, interpolation

    def load(self, row: int) -> list[np.ndarray]:
        """The images of a row: one."""
        return [load_image(self._table.file(row), self._size, self._interpolation)]

    def arrange(self, images: Tensor) -> Tensor:
        """What the encoder is given."""
        return images


class _ClipReader:
    """Pixels of the frames that stand for a tracklet."""

    def __init__(
        self, table: TrackletTable, size: tuple[int, int], sampling: FrameSampling
    ) -> None:
        self._table, self._size, self._sampling = table, size, sampling

    def load(self, row: int) -> list[np.ndarray]:
        """The frames of a tracklet; one that is taken several times is decoded once."""
        frames = self._sampling.draw(self._table.length[row : row + 1], None)[0]
        first = int(self._table.start[row])
        pixels = {
            frame: load_image(self._table.frames.file(first + frame), self._size)
            for frame in sorted(set(frames.tolist()))
        }
        return [pixels[frame] for frame in frames.tolist()]

    def arrange(self, images: Tensor) -> Tensor:
        """Clips (B, T, 3, H, W)."""
        return images.unflatten(0, (-1, self._sampling.frames))


def _read(
    reader: Reader, rows: np.ndarray, bad: list[ImageError], *, skip_bad: bool
) -> tuple[Tensor, list[int]]:
    images, good = [], []
    for row in rows.tolist():
        try:
            images += reader.load(row)
        except ImageError as error:
            if not skip_bad:
                raise
            bad.append(error)
        else:
            good.append(row)
    return torch.from_numpy(np.stack(images)) if images else torch.empty(0), good


def _of_table(table: ImageTable | TrackletTable, encoded: EncodedRows) -> Extraction:
    def column(values: np.ndarray | None) -> Any:
        return None if values is None else torch.from_numpy(values[encoded.rows])

    numbered = None if isinstance(table, TrackletTable) else table.image_indices
    return Extraction(
        FeatureSet(
            features=encoded.features,
            person_ids=column(table.person_ids),
            camera_ids=column(table.camera_ids),
            modality=column(table.modality),
            image_indices=column(numbered),
            roles=column(table.roles),
        ),
        encoded.rows,
        encoded.bad,
    )
