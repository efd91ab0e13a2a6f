"""What an image tower hands to the methods."""

from typing import NamedTuple

from torch import Tensor


class VisualFeatures(NamedTuple):
    """Outputs of an image tower.

    Attributes:
        map: ResNet: layer4 output, shape (B, C, h, w). ViT: all tokens after `ln_post`, shape
            (B, 1 + h w, C), class token first, patches row by row.
        pooled: ResNet: spatial mean of `map`. ViT: the class token. Shape (B, C).
        projected: Features in the space shared with the texts. Shape (B, d), not normalised.
    """

    map: Tensor
    pooled: Tensor
    projected: Tensor


class ClassFeatures(NamedTuple):
    """`pooled` and `projected` of `VisualFeatures`, where nobody reads the map."""

    pooled: Tensor
    projected: Tensor
