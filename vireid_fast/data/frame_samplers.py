"""Which frames of a tracklet become a clip of T frames, as the public code chooses them.

A sampler is called as `sampler(lengths, frames, source)`: `lengths` frames of one tracklet, or of
several, shape (B,), int64, at least 1 each; `frames` is T; `source` a generator, or `Draws` for
the B tracklets, in training, and None at test. It returns frames counted from 0, ascending, of
shape (T,), or (B, T), int64. T draws are made for each tracklet whatever its length, so that a
process of several can make the draws of one. Lengths or T below 1 raise ValueError.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Generator

from vireid_fast._checks import positive_int, require
from vireid_fast.data.draws import Draws, uniform
from vireid_fast.data.table import MODALITY_NAMES, DatasetError, name_some
from vireid_fast.data.tracklets import TrackletTable

Source = Generator | Draws | None
FrameSampler = Callable[[int | np.ndarray, int, Source], np.ndarray]


def sample_chunks(lengths: int | np.ndarray, frames: int, source: Source) -> np.ndarray:
    """One frame of each of T chunks of ceil(n / T) frames; at test the first.

    VCM-project233/MITML@1b39c05 `data_loader.py`, kept by VLD and M3-ReID. The list of n frames is
    padded with the last one to T ceil(n / T) entries and cut into T chunks. Quirks, kept:

    - Rounding up pads too much, so the end of a tracklet is taken repeatedly: 13 frames and T = 6
      give frames 0, 3, 6, 9, 12, 12 at test, 25 and T = 16 give the last four times.
    - A chunk that is padded gives its last frame more often in training than its other ones.
    - n < T gives all frames, then the last one again and again, in training as at test: such a
      tracklet is never augmented in time. n = T gives all frames in training too.

    See the module for arguments and result.
    """
    count, lengths, shape = _checked("sample_chunks", lengths, frames)
    chunk = -(-lengths[:, None] // count)
    place = chunk * np.arange(count)
    if source is not None:
        place = place + np.floor(_draws(len(lengths), count, source) * chunk).astype(np.int64)
    return np.minimum(place, lengths[:, None] - 1).reshape(*shape, count)


def sample_uniform(lengths: int | np.ndarray, frames: int, source: Source) -> np.ndarray:
    """T sorted random frames; at test floor(i n / T).

    dyhBUPT/BUPTCampus@db1f179 `dataloader.py`, "random" and "uniform". Quirks, kept:

    - Training draws distinct frames if n >= T, but with replacement if n < T, where a frame can be
      left out although there is room for all.
    - At test the last n / T frames are never seen, and n < T repeats all frames about equally, not
      only the last one.
    - i (n / T) is rounded down as a float64 product, as `numpy.linspace` does it.

    In the public code the two tracklets of an aligned pair share one draw, made for the infrared
    one; here every tracklet has its own. See the module for arguments and result.
    """
    count, lengths, shape = _checked("sample_uniform", lengths, frames)
    if source is None:
        chosen = np.linspace(0, lengths, count, endpoint=False, dtype=np.int64, axis=-1)
    else:
        draws = _draws(len(lengths), count, source)
        repeated = np.floor(draws * lengths[:, None]).astype(np.int64)
        distinct = _distinct(draws, lengths)
        chosen = np.where(lengths[:, None] < count, np.sort(repeated, axis=1), distinct)
    return chosen.reshape(*shape, count)


SAMPLERS: dict[str, FrameSampler] = {"chunks": sample_chunks, "uniform": sample_uniform}


def require_long_enough(table: TrackletTable, rows: np.ndarray, frames: int) -> None:
    """Refuse tracklets that a sampler could fill with repeated frames only.

    Args:
        table: Tracklets of a data set.
        rows: Tracklets that are to be sampled. Shape (m,), int64.
        frames: T, frames of a clip.

    Raises:
        DatasetError: Some have fewer than T frames; they are named.
    """
    short = rows[table.length[rows] < frames]
    if not len(short):
        return
    names = (
        f"{table.frames.paths[table.start[row]]} (identity {table.person_ids[row]}, "
        f"{MODALITY_NAMES[table.modality[row]]}, {table.length[row]} frames)"
        for row in short
    )
    raise DatasetError(
        f"{table.root}: every tracklet must have at least {frames} frames, got {len(short)} "
        f"shorter ones, which begin with {name_some(names, 4)}. "
        "Allow repeated frames, leave short tracklets out, or take fewer frames."
    )


def _checked(
    what: str, lengths: int | np.ndarray, frames: int
) -> tuple[int, np.ndarray, tuple[int, ...]]:
    """T, the lengths in one dimension, and their shape."""
    count = positive_int(what, "frames", frames)
    lengths = np.asarray(lengths)
    require(
        lengths.dtype.kind in "iu", what, "lengths", "be integers", lengths.dtype,
        error=TypeError,
    )  # fmt: skip
    require(lengths.ndim <= 1, what, "lengths", "have shape () or (B,)", lengths.shape)
    require(
        lengths.size == 0 or lengths.min() >= 1, what, "lengths", "be at least 1",
        lengths.min(initial=1), "A tracklet has a frame at least.",
    )  # fmt: skip
    return count, lengths.reshape(-1).astype(np.int64), lengths.shape


def _draws(tracklets: int, frames: int, source: Generator | Draws) -> np.ndarray:
    """Shape (B, T), float64 in [0, 1)."""
    return uniform((tracklets, frames), source, torch.device("cpu")).numpy()


def _distinct(draws: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """T distinct ascending frames, every set of them equally likely; meaningless where n < T.

    Draw i picks one of the n - i frames that are left; its number among these becomes one among
    all by passing the frames chosen before, in ascending order.
    """
    chosen = np.empty(draws.shape, np.int64)
    for i in range(draws.shape[1]):
        pick = np.floor(draws[:, i] * np.maximum(lengths - i, 1)).astype(np.int64)
        for j in range(i):
            pick += pick >= chosen[:, j]
        chosen[:, i] = pick
        chosen[:, : i + 1].sort(axis=1)
    return chosen
