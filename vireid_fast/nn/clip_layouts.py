"""Which tokens of a clip attend to each other: frames, stripes of all frames, shifted frames.

A layout lists rows, so that grouping and shifting happen where attention loads and stores, and no
token is ever copied to another place.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from vireid_fast._checks import positive_int, require, require_choice
from vireid_fast.ops import AttentionIndex

# Shift in frames of patch (row mod 3, column mod 3): pattern C of TPS (Xiang et al., ECCV 2022;
# MartinXM/TPS@e913d2a, PatchShift).
TPS9 = ((-4, 1, 2), (-1, 0, 3), (-2, -3, 4))
PATTERNS = ("tps9", "bayer4", "none")


@dataclass(frozen=True)
class ClipGrid:
    """Sizes of a clip in tokens: T frames of one class token and `rows` x `columns` patches.

    Token n of frame t is row t (1 + rows columns) + n; n = 0 is the class token, then the patches
    row by row.
    """

    frames: int
    rows: int
    columns: int

    @property
    def patches(self) -> int:
        """Patches of a frame."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """Tokens of a frame."""
        return 1 + self.patches

    def token_rows(self) -> Tensor:
        """Row of every token of a clip. Shape (T, 1 + patches), int64."""
        return torch.arange(self.frames * self.tokens).view(self.frames, self.tokens)


class ClipLayout(Protocol):
    """Sequences of one clip whose tokens attend to each other. Layouts are hashable."""

    def sequences(self, grid: ClipGrid) -> Tensor:
        """Rows of the tokens of each sequence, class tokens first. Shape (S, L), int64."""

    def class_tokens(self, grid: ClipGrid) -> int:
        """How many class tokens each sequence begins with."""


@dataclass(frozen=True)
class FrameLayout:
    """CLIP's own attention: every frame for itself."""

    def sequences(self, grid: ClipGrid) -> Tensor:
        """T sequences of 1 + patches tokens."""
        return grid.token_rows()

    def class_tokens(self, grid: ClipGrid) -> int:
        """One."""
        return 1


@dataclass(frozen=True)
class GroupedLayout:
    """Horizontal stripes of all frames: group g sees stripe g of every frame and all class tokens.

    A patch is in one group. The T class tokens are in all of them; as queries they get the mean of
    their outputs.

    Args:
        groups: Number G of stripes; divides the rows of patches.

    Raises:
        ValueError: G is less than 1. TypeError: G is no integer.
    """

    groups: int

    def __post_init__(self) -> None:
        positive_int("GroupedLayout", "groups", self.groups)

    def check(self, grid: ClipGrid) -> None:
        """Raise ValueError unless the groups divide the rows of patches."""
        divisors = [n for n in range(1, grid.rows + 1) if grid.rows % n == 0]
        require(
            self.groups in divisors, "GroupedLayout", "groups",
            f"divide the {grid.rows} rows of patches", self.groups,
            f"Choose one of {', '.join(map(str, divisors))}.",
        )  # fmt: skip

    def sequences(self, grid: ClipGrid) -> Tensor:
        """G sequences of T + T patches / G tokens."""
        self.check(grid)
        rows = grid.token_rows()
        classes = rows[:, 0].expand(self.groups, -1)
        stripes = rows[:, 1:].view(grid.frames, self.groups, -1).transpose(0, 1)
        return torch.cat([classes, stripes.flatten(1)], dim=1)

    def class_tokens(self, grid: ClipGrid) -> int:
        """T."""
        return grid.frames


@dataclass(frozen=True)
class ShiftedLayout:
    """Temporal patch shift: a frame attends with patches of other frames in place of its own.

    Each output belongs to the token that asked, so it is stored at that token's row: the shift
    back costs nothing.

    Args:
        pattern: "tps9", "bayer4" or "none", see `source_frames`.

    Raises:
        ValueError: The pattern is unknown.
    """

    pattern: str

    def __post_init__(self) -> None:
        require_choice("ShiftedLayout", "pattern", self.pattern, PATTERNS)

    def sequences(self, grid: ClipGrid) -> Tensor:
        """T sequences of 1 + patches tokens."""
        rows = grid.token_rows().clone()
        source = source_frames(self.pattern, grid).flatten(1)
        rows[:, 1:] = source * grid.tokens + 1 + torch.arange(grid.patches)
        return rows

    def class_tokens(self, grid: ClipGrid) -> int:
        """One; class tokens are not shifted."""
        return 1


def source_frames(pattern: str, grid: ClipGrid) -> Tensor:
    """Frame whose patch stands at (row, column) of each frame after the shift.

    Every pattern is a permutation of the clip's patches, so shifting back restores the clip.

    - "tps9": frame (t - TPS9[row mod 3][column mod 3]) mod T, circular.
    - "bayer4": of every 2 x 2 patches one is exchanged with each neighbour in time. The upper left
      patches of frames 0 and 1, 2 and 3, ... change places, the lower right ones of 1 and 2, 3 and
      4, ...; nothing wraps around, what has no partner stays. TPS's BayerShift copies the same
      patches from the two neighbours instead, which loses those of the first and the last frame
      and has no inverse.
    - "none": frame t.

    Args:
        pattern: One of `PATTERNS`.
        grid: Sizes of the clip.

    Returns:
        Shape (T, rows, columns), int64.
    """
    frame = torch.arange(grid.frames)
    source = frame[:, None, None].repeat(1, grid.rows, grid.columns)
    if pattern == "tps9":
        for i, shifts in enumerate(TPS9):
            for j, shift in enumerate(shifts):
                moved = (frame - shift) % grid.frames
                source[:, i::3, j::3] = moved[:, None, None]
    elif pattern == "bayer4":
        source[:, 0::2, 0::2] = _partner(frame)[:, None, None]
        source[:, 1::2, 1::2] = _partner(frame, first=1)[:, None, None]
    return source


def _partner(frame: Tensor, first: int = 0) -> Tensor:
    """The other frame of the pairs that begin at `first`; a frame without a partner itself."""
    other = first + ((frame - first) ^ 1)
    alone = (other < 0) | (other >= len(frame)) | (frame < first)
    return torch.where(alone, frame, other)


@lru_cache(maxsize=64)
def layout_index(
    layout: ClipLayout, grid: ClipGrid, batch: int, device: torch.device, classes_only: bool = False
) -> AttentionIndex:
    """Attention index of a layout for a batch of clips; made once per argument list.

    Args:
        layout: Which tokens of a clip attend to each other.
        grid: Sizes of a clip.
        batch: Clips B.
        device: Where the tensors go.
        classes_only: The class tokens alone ask; they are rows of a tensor of their own, B T in
            number. Keys are always the B T (1 + patches) tokens.

    Raises:
        ValueError: The groups do not divide the rows of patches.
    """
    keys = _for_clips(layout.sequences(grid), batch, grid.frames * grid.tokens)
    queries = None
    if classes_only:
        queries = keys[:, : layout.class_tokens(grid)] // grid.tokens
    frames = batch * grid.frames
    # An inference tensor could not be saved for a later backward.
    with torch.inference_mode(False):
        return AttentionIndex.from_rows(
            (keys if queries is None else queries).unbind(0),
            None if queries is None else keys.unbind(0),
            num_queries=frames if classes_only else frames * grid.tokens,
            num_keys=frames * grid.tokens,
            device=device,
        )


def _for_clips(sequences: Tensor, batch: int, rows: int) -> Tensor:
    """The sequences of all clips, (B S, L), from those of the first, (S, L)."""
    return (sequences + torch.arange(batch)[:, None, None] * rows).flatten(0, 1)
