"""What image methods look at: attention pool or class token, within and across modalities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from vireid_fast.engine.report.attention import packed_weights, pool_weights, recorded
from vireid_fast.engine.report.overlays import LEGEND, overlay, plain
from vireid_fast.models import ClipMC
from vireid_fast.models.two_stem import TwoStemEncoder
from vireid_fast.report.content import MethodPicture


def image_pictures(
    model: Any, pixels: tuple[np.ndarray, np.ndarray], views: Sequence[Tensor], whose: str
) -> list[MethodPicture]:
    """Attention of a visible and an infrared image within and across, and of CLIP-MC's prompts.

    Args:
        model: An image method's.
        pixels: The visible and the infrared image. Shape (1, H, W, 3) each, uint8.
        views: What the encoder gets of each. Shape (1, 3, H, W).
        whose: Person and query, for the titles.
    """
    (visible,), (infrared,) = pixels
    own, crossed, prompts = _maps(model, *views)
    what = "attention pool" if model.encoder.visual.convolutional else "last block's class token"
    pictures = [
        plain(visible, "the visible image"),
        overlay(visible, own[0], "where the visible image looks in itself"),
        overlay(visible, crossed[0], "where the infrared image looks in the visible one"),
        plain(infrared, "the infrared image"),
        overlay(infrared, own[1], "where the infrared image looks in itself"),
        overlay(infrared, crossed[1], "where the visible image looks in the infrared one"),
    ]
    caption = (
        f"Attention of the {what}, mean over the heads. For each modality: the image; what it "
        "reads of itself, as in every feature; what the other image's query reads of it with the "
        f"same projections. {LEGEND}"
    )
    found = [MethodPicture(f"Attention across modalities: {whose}", caption, tuple(pictures))]
    if prompts is not None:
        caption = (
            "What the instance prompts (ITPG) read of each image to describe it in the words of "
            "the modality that is missing, mean over prompt tokens and heads of the last layer. "
            f"{LEGEND}"
        )
        pictures = [
            overlay(visible, prompts[0], "what the prompts read of the visible image"),
            overlay(infrared, prompts[1], "what the prompts read of the infrared image"),
        ]
        found.append(MethodPicture(f"Instance prompts: {whose}", caption, tuple(pictures)))
    return found


def _maps(
    model: Any, visible: Tensor, infrared: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Maps of the visible and of the infrared image, (2, rows, columns) each.

    Returns:
        What each image reads of itself, what the other one's query reads of it, and what the
        instance prompts read of it; None where there are none.
    """
    encoder: TwoStemEncoder = model.encoder
    trunk = encoder.visual.trunk
    convolutional = encoder.visual.convolutional
    watched = [trunk.attnpool if convolutional else trunk.transformer.resblocks[-1].ln_1]
    generator = model.generator if isinstance(model, ClipMC) else None
    layers = list(generator.layers) if generator is not None else []
    watched += [layer.cross_attention for layer in layers[-1:]]
    embedding = model.modality_embedding if isinstance(model, ClipMC) else None
    with recorded(watched) as calls:
        tokens = encoder.encode_tokens(visible, infrared, embedding).tokens
        if generator is not None and layers:
            generator(tokens)
    if convolutional:
        (maps,) = calls[0].inputs[0]
        weights = [pool_weights(watched[0], asking, maps) for asking in (maps, maps.flip(0))]
    else:
        normed, attention = calls[0].outputs[0], trunk.transformer.resblocks[-1].attn
        asking = normed[:, :1]
        weights = [packed_weights(attention, a, normed) for a in (asking, asking.flip(0))]
    if layers:
        weights.append(packed_weights(watched[1], *calls[1].inputs[0]))
    # The first token is the image as a whole and has no place.
    maps = [w.mean((1, 2))[:, 1:].unflatten(1, encoder.visual.grid).cpu().numpy() for w in weights]
    return maps[0], maps[1], maps[2] if layers else None
