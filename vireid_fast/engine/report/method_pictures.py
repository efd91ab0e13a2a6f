"""What a method looked at: attention maps over visible and infrared images of one person."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vireid_fast.data.images import ImageError, load_image
from vireid_fast.data.tracklets import TrackletTable
from vireid_fast.data.views import test_view
from vireid_fast.engine.data_setup import Table, frame_sampling
from vireid_fast.engine.methods import Method
from vireid_fast.engine.report.clip_pictures import clip_pictures
from vireid_fast.engine.report.image_pictures import image_pictures
from vireid_fast.models import LSMRL
from vireid_fast.report.content import MethodPicture


@dataclass(frozen=True)
class Pair:
    """An infrared and a visible row of one person.

    Attributes:
        kind: Of the query: "best", "median" or "worst".
        person_id: The person.
        visible: Row of the table.
        infrared: Row of the table.
    """

    kind: str
    person_id: int
    visible: int
    infrared: int


@torch.no_grad()
def method_pictures(
    method: Method, table: Table, pairs: Sequence[Pair]
) -> tuple[tuple[MethodPicture, ...], tuple[str, ...]]:
    """Pictures of each pair, and sentences on pairs whose files cannot be read.

    Args:
        method: The method with its weights, in evaluation mode.
        table: The data set.
        pairs: Rows to show.
    """
    found: list[MethodPicture] = []
    notes = []
    for pair in pairs:
        try:
            visible, infrared = (_frames(method, table, r) for r in (pair.visible, pair.infrared))
        except ImageError as error:
            notes.append(f"No attention maps of identity {pair.person_id}: {error.path} "
                         f"is {error.reason}.")  # fmt: skip
            continue
        make = clip_pictures if isinstance(method.model, LSMRL) else image_pictures
        views = [_view(method, frames) for frames in (visible, infrared)]
        whose = f"identity {pair.person_id} ({pair.kind} query)"
        found += make(method.model, (visible, infrared), views, whose)
    return tuple(found), tuple(notes)


def _frames(method: Method, table: Table, row: int) -> np.ndarray:
    """The image of a row, or the frames that stand for a tracklet. Shape (T, H, W, 3), uint8."""
    if not isinstance(table, TrackletTable):
        return load_image(table.file(row), method.size)[None]
    drawn = frame_sampling(method.config).draw(table.length[row : row + 1], None)[0]
    first = int(table.start[row])
    files = [table.frames.file(first + frame) for frame in drawn.tolist()]
    return np.stack([load_image(file, method.size) for file in files])


def _view(method: Method, frames: np.ndarray) -> Tensor:
    """What the encoder gets: an image (1, 3, H, W), or a clip (1, T, 3, H, W)."""
    images = test_view(torch.from_numpy(frames).to(method.config.device), method.augmentation)
    return images[None] if method.video else images
