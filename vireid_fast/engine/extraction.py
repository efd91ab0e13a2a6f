"""Feature extraction: every image once, in blocks, from a table or a list of files."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vireid_fast.data.images import ImageError, describe_skipped, load_image
from vireid_fast.data.table import MODALITY_NAMES, ImageTable
from vireid_fast.data.views import Augmentation, test_view
from vireid_fast.engine.progress import progress_bar, say
from vireid_fast.retrieval.feature_set import FeatureSet

Encoder = Callable[[Tensor, str], Tensor]
"""(normalised images (B, 3, H, W), "visible" | "infrared") -> features (B, D)."""


@dataclass(frozen=True)
class Extraction:
    """Features of the rows that could be read, and the images that could not."""

    features: FeatureSet
    rows: np.ndarray
    bad: tuple[ImageError, ...]


@torch.no_grad()
def extract_features(
    encoder: Encoder,
    table: ImageTable,
    rows: np.ndarray,
    size: tuple[int, int],
    augmentation: Augmentation,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    skip_bad: bool = False,
    description: str = "extracting",
) -> Extraction:
    """Features of some images of a table, each decoded and encoded once.

    Args:
        encoder: See `Encoder`; in evaluation mode.
        table: Images of the data set.
        rows: Rows to extract. Shape (n,), int64.
        size: Height and width of the network's input.
        augmentation: Its normalisation is used.
        batch_size: Images per block; blocks never mix modalities.
        device: Where the encoder lives.
        skip_bad: Leave damaged images out and count them, instead of raising.
        description: Text of the progress bar.

    Returns:
        Features in the order of `rows`, on the CPU, float32.

    Raises:
        ImageError: A damaged image, unless `skip_bad`.
    """
    kept: list[np.ndarray] = []
    parts: list[Tensor] = []
    bad: list[ImageError] = []
    done = 0
    with progress_bar(description) as advance:
        for modality, name in enumerate(MODALITY_NAMES):
            own = rows[table.modality[rows] == modality]
            for start in range(0, len(own), batch_size):
                block = own[start : start + batch_size]
                images, good = _read(table, block, size, bad, skip_bad=skip_bad)
                if good:
                    batch = test_view(images.to(device), augmentation)
                    parts.append(encoder(batch, name).float().cpu())
                    kept.append(np.asarray(good))
                done += len(block)
                advance(done, len(rows))
    if bad:
        say(describe_skipped(bad))
    return _assemble(table, rows, kept, parts, tuple(bad))


def _read(
    table: ImageTable, rows: np.ndarray, size: tuple[int, int], bad: list[ImageError], *,
    skip_bad: bool,
) -> tuple[Tensor, list[int]]:  # fmt: skip
    images, good = [], []
    for row in rows.tolist():
        try:
            images.append(load_image(table.file(row), size))
        except ImageError as error:
            if not skip_bad:
                raise
            bad.append(error)
        else:
            good.append(row)
    return torch.from_numpy(np.stack(images)) if images else torch.empty(0), good


def _assemble(
    table: ImageTable, rows: np.ndarray, kept: list[np.ndarray], parts: list[Tensor],
    bad: tuple[ImageError, ...],
) -> Extraction:  # fmt: skip
    found = np.concatenate(kept) if kept else np.empty(0, np.int64)
    features = torch.cat(parts) if parts else torch.empty(0, 0)
    place = {row: position for position, row in enumerate(found.tolist())}
    order = [place[row] for row in rows.tolist() if row in place]
    ordered = found[order]
    return Extraction(
        FeatureSet(
            features=features[order],
            person_ids=torch.from_numpy(table.person_ids[ordered]),
            camera_ids=torch.from_numpy(table.camera_ids[ordered]),
            modality=torch.from_numpy(table.modality[ordered]),
            image_indices=torch.from_numpy(table.image_indices[ordered]),
        ),
        ordered,
        bad,
    )
