"""What LSMRL looks at: across the modalities (CMI), and in the parts of a clip (STFL)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from vireid_fast.engine.report.attention import (
    Calls,
    clip_maps,
    interaction_weights,
    packed_weights,
    recorded,
)
from vireid_fast.engine.report.overlays import LEGEND, marked, overlay, plain, strip
from vireid_fast.models import LSMRL
from vireid_fast.nn.clip_layouts import ClipGrid, ClipLayout, GroupedLayout, ShiftedLayout
from vireid_fast.report.content import MethodPicture, Picture
from vireid_fast.retrieval.feature_set import MODALITY_NAMES

# Heights of the places that ask: about head, trunk and legs of a standing person.
_PLACES = (("upper", 1 / 6), ("middle", 1 / 2), ("lower", 5 / 6))


def clip_pictures(
    model: LSMRL, pixels: tuple[np.ndarray, np.ndarray], views: Sequence[Tensor], whose: str
) -> list[MethodPicture]:
    """Attention across a visible and an infrared clip of one person, and within each.

    Args:
        model: The model.
        pixels: Frames of the visible and of the infrared clip. Shape (T, H, W, 3) each, uint8.
        views: What the encoder gets of each. Shape (1, T, 3, H, W).
        whose: Person and query, for the titles.
    """
    blocks = model.encoder.visual.trunk.transformer.resblocks
    layouts = model.encoder.layouts
    # The last block of each kind: grouped, shifted.
    laid = {type(layout): (n, layout) for n, layout in enumerate(layouts) if layout is not None}
    watched = [blocks[n].ln_1 for n, _ in laid.values()]
    with recorded([blocks[-1].ln_1, *watched]) as (last, *within):
        visible, infrared = views
        features = model.encode_clips(visible, infrared, model.bank)
    if model.interaction is None:
        found = [_without_interaction(model, pixels, last, whose)]
    else:
        with recorded([model.interaction.attention]) as (crossing,):
            model.interact(features.rows(0, 1), features.rows(1, 2))
        found = [_interaction(model, pixels, crossing, whose)]
    for (n, layout), calls in zip(laid.values(), within, strict=True):
        grid = ClipGrid(views[0].shape[1], *model.encoder.visual.grid)
        normed = calls.outputs[0].reshape(2, grid.frames, grid.tokens, -1)
        maps = [clip_maps(blocks[n].attn, clip, layout, grid).cpu().numpy() for clip in normed]
        found.append(_within(layout, pixels, maps, whose))
    return found


def _interaction(
    model: LSMRL, pixels: tuple[np.ndarray, np.ndarray], calls: Calls, whose: str
) -> MethodPicture:
    """Both directions of the CMI: of the class tokens, and of three infrared patches."""
    visible, infrared = calls.inputs[0][:2]
    grid = model.encoder.visual.grid
    assert model.interaction is not None  # the caller looked
    weights = interaction_weights(model.interaction.attention, visible, infrared)
    # In the mode "joint" the tokens of both are read, visible ones first.
    count = visible.shape[1]
    of_infrared = weights[0][0, :, :, -infrared.shape[1] :].mean(0)
    of_visible = weights[1][0, :, :, :count].mean(0)
    frames = [clip[len(clip) // 2] for clip in pixels]

    def heat(shares: Tensor) -> np.ndarray:
        return shares[1:].unflatten(0, grid).cpu().numpy()

    places = {words: (int(height * grid[0]), grid[1] // 2) for words, height in _PLACES}
    of_places = {
        words: of_visible[1 + row * grid[1] + column] for words, (row, column) in places.items()
    }
    pictures = [
        plain(frames[0], "the visible clip"),
        overlay(frames[0], heat(of_visible[0]), "what the infrared clip reads of the visible one"),
        overlay(frames[1], heat(of_infrared[0]), "what the visible clip reads of the infrared one"),
        marked(frames[1], list(places.values()), grid, "three places of the infrared clip"),
        *(
            overlay(frames[0], heat(shares), f"what the {words} one reads of the visible clip")
            for words, shares in of_places.items()
        ),
    ]
    caption = (
        "Cross-modal interaction (CMI), mean over the heads, on tokens averaged over the frames; "
        "the middle frame is shown. The visible clip; what the class token of each clip reads of "
        "the other one; what three framed places of the infrared clip read of the visible one. "
        f"{LEGEND}"
    )
    return MethodPicture(f"Cross-modal interaction: {whose}", caption, tuple(pictures))


def _without_interaction(
    model: LSMRL, pixels: tuple[np.ndarray, np.ndarray], last: Calls, whose: str
) -> MethodPicture:
    """Without a CMI: the last block's projections, class token of each clip over the other one."""
    grid = model.encoder.visual.grid
    frames = pixels[0].shape[0]
    tokens = last.outputs[0].reshape(2, frames, 1 + grid[0] * grid[1], -1).mean(1)
    attention = model.encoder.visual.trunk.transformer.resblocks[-1].attn
    weights = packed_weights(attention, tokens[:, :1].flip(0), tokens).mean((1, 2))
    maps = weights[:, 1:].unflatten(1, grid).cpu().numpy()
    pictures = [
        overlay(clip[frames // 2], own, f"what the other clip's class token reads of the {name}")
        for clip, own, name in zip(pixels, maps, MODALITY_NAMES, strict=True)
    ]
    caption = (
        "This model has no cross-modal interaction. What the class token of each clip reads of the "
        "other one with the projections of the last block, mean over the heads, on tokens averaged "
        f"over the frames; the middle frame is shown. {LEGEND}"
    )
    return MethodPicture(f"Attention across modalities: {whose}", caption, tuple(pictures))


def _within(
    layout: ClipLayout,
    pixels: tuple[np.ndarray, np.ndarray],
    maps: Sequence[Any],
    whose: str,
) -> MethodPicture:
    """What the class tokens read of the frames in a grouped or shifted block."""
    parts = layout.groups if isinstance(layout, GroupedLayout) else 1
    pictures: list[Picture] = [
        strip(list(clip), own, parts, f"the frames of the {name} clip under their maps")
        for clip, own, name in zip(pixels, maps, MODALITY_NAMES, strict=True)
    ]
    if isinstance(layout, GroupedLayout):
        title = f"Attention within {parts} parts"
        caption = (
            f"Spatial-temporal grouped encoder (STFL): within each of {parts} stripes the class "
            "tokens read that stripe of all frames. Mean over the heads and the class tokens of "
            f"the last grouped block; each stripe has its own scale. {LEGEND}"
        )
    else:
        assert isinstance(layout, ShiftedLayout)
        title = "Attention after the temporal patch shift"
        caption = (
            f"Temporal patch shift encoder (STFL), pattern {layout.pattern}: each class token "
            "reads patches of its own and of other frames, which are shown where they come from. "
            f"Mean over the heads of the last block. {LEGEND}"
        )
    return MethodPicture(f"{title}: {whose}", caption, tuple(pictures))
