"""STFL, the spatial-temporal feature learning of LSMRL: CLIP's image tower on clips.

The abstract (arXiv 2601.12062) splits CLIP's vision encoder in three: a basic encoder, a
spatial-temporal grouped encoder and a temporal patch shift encoder. How the three work is our
construction, after TPS for the shift.
"""

from typing import Any, NamedTuple

from torch import Tensor, nn

from vireid_fast._checks import require, require_choice, require_shape
from vireid_fast.nn import clip_blocks, clip_blocks_reference
from vireid_fast.nn.clip_layouts import ClipGrid, ClipLayout, GroupedLayout, ShiftedLayout
from vireid_fast.ops import BACKENDS, Backend

_WHAT = "SpatialTemporalEncoder"


class ClipTokens(NamedTuple):
    """What the encoder gives for clips.

    Attributes:
        last: Class token that enters the last block, averaged over the frames. Shape (B, W).
        classes: Class token of each frame after the last block, before `ln_post`. Shape (B, T, W).
        tokens: All tokens after the last block, before `ln_post`, averaged over the frames.
            Shape (B, 1 + patches, W); (B, 1, W) from `encode_classes`.
    """

    last: Tensor
    classes: Tensor
    tokens: Tensor


class SpatialTemporalEncoder(nn.Module):
    """Basic, grouped and shifted blocks of one CLIP image tower, shared by both modalities.

    The first blocks see each frame alone. In the grouped ones, each of G horizontal stripes of
    all frames attends within itself and to all class tokens. In the shifted ones, patches of other
    frames stand among those of each frame. There are no new parameters: the state dict is the
    tower's. With one frame and one group, and with the pattern "none", the tower is CLIP's.

    Args:
        visual: `clip.ViTVisual`.
        groups: Stripes G of the grouped blocks; divides the rows of patches.
        grouped_blocks: Blocks that are grouped, before the shifted ones.
        shift_blocks: Last blocks, which are shifted.
        pattern: Shift of each patch in time: "tps9", "bayer4" or "none".
        backend: "fused": grouping and shift are rows that the attention loads and stores.
            "reference": permuted copies.

    Attributes:
        layouts: Of each block, which tokens of a clip attend to each other; None: each frame's.

    Raises:
        ValueError: The tower is no ViT, the groups do not divide its rows, it has too few blocks,
            or a choice is unknown.
    """

    def __init__(
        self,
        visual: Any,
        *,
        groups: int = 6,
        grouped_blocks: int = 2,
        shift_blocks: int = 2,
        pattern: str = "tps9",
        backend: Backend = "fused",
    ) -> None:
        super().__init__()
        require_choice(_WHAT, "backend", backend, BACKENDS)
        require(
            not visual.convolutional, _WHAT, "visual", "be a vision transformer",
            type(visual).__name__, "Choose a ViT as the image tower.",
        )  # fmt: skip
        depth = len(visual.trunk.transformer.resblocks)
        require(
            grouped_blocks >= 0 and shift_blocks >= 0 and grouped_blocks + shift_blocks <= depth,
            _WHAT, "grouped_blocks and shift_blocks", f"be 0 or more and together at most {depth}",
            f"{grouped_blocks} and {shift_blocks}",
        )  # fmt: skip
        shifted = ShiftedLayout(pattern)
        grouped = GroupedLayout(groups)
        if grouped_blocks > 0:
            grouped.check(ClipGrid(1, *visual.grid))
        self.backend = backend
        self.visual: Any = visual
        self.feature_width: int = visual.feature_width
        self.projected_width: int = visual.projected_width
        basic = depth - grouped_blocks - shift_blocks
        self.layouts: list[ClipLayout | None] = [
            *[None] * basic, *[grouped] * grouped_blocks, *[shifted] * shift_blocks,
        ]  # fmt: skip

    def forward(self, clips: Tensor) -> ClipTokens:
        """Encode clips.

        Args:
            clips: Normalised frames. Shape (B, T, 3, H, W), T >= 1.

        Raises:
            ValueError: The shape does not fit, or there is no frame.
        """
        tokens, grid = self._enter_last_block(clips)
        block, layout = self._last_block()
        last = _by_clip(tokens[:, 0], grid).mean(1)
        tokens = self._run(block, layout, tokens, grid)
        by_clip = _by_clip(tokens, grid)
        return ClipTokens(last, by_clip[:, :, 0], by_clip.mean(1))

    def encode_classes(self, clips: Tensor) -> ClipTokens:
        """`forward(clips)` with the class token alone; the last block skips all other rows.

        Args:
            clips: Normalised frames. Shape (B, T, 3, H, W).
        """
        if self.backend == "reference":
            every = self(clips)
            return ClipTokens(every.last, every.classes, every.tokens[:, :1])
        tokens, grid = self._enter_last_block(clips)
        block, layout = self._last_block()
        last = _by_clip(tokens[:, 0], grid).mean(1)
        if layout is None:
            classes = block.forward_first(tokens)
        else:
            classes = clip_blocks.run_block_for_classes(block, tokens, grid, layout)
        classes = _by_clip(classes, grid)
        return ClipTokens(last, classes, classes.mean(1, keepdim=True))

    def _enter_last_block(self, clips: Tensor) -> tuple[Tensor, ClipGrid]:
        """Tokens (B T, 1 + patches, W) before the last block, and the sizes of a clip."""
        require_shape(_WHAT, "clips", clips, ("B", "T", 3, *self.visual.image_size))
        require(
            clips.shape[0] > 0 and clips.shape[1] > 0, _WHAT, "clips",
            "hold at least one clip of one frame", tuple(clips.shape),
        )  # fmt: skip
        grid = ClipGrid(clips.shape[1], *self.visual.grid)
        trunk = self.visual.trunk
        tokens = trunk.embed(self.visual.stem(clips.flatten(0, 1)))
        blocks = trunk.transformer.resblocks
        for block, layout in zip(blocks[:-1], self.layouts[:-1], strict=True):
            tokens = self._run(block, layout, tokens, grid)
        return tokens, grid

    def _last_block(self) -> tuple[Any, ClipLayout | None]:
        return self.visual.trunk.transformer.resblocks[-1], self.layouts[-1]

    def _run(
        self, block: nn.Module, layout: ClipLayout | None, tokens: Tensor, grid: ClipGrid
    ) -> Tensor:
        if layout is None:
            return block(tokens)
        backend = clip_blocks if self.backend == "fused" else clip_blocks_reference
        return backend.run_block(block, tokens, grid, layout)


def _by_clip(values: Tensor, grid: ClipGrid) -> Tensor:
    """(B T, ...) as (B, T, ...)."""
    return values.unflatten(0, (-1, grid.frames))
