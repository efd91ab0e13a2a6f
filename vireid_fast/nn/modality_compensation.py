"""MC, modality compensation: original and compensated features side by side (CLIP-MC)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireid_fast._checks import positive_int, require, require_shape

_WHAT = "ModalityCompensation"


class ModalityCompensation(nn.Module):
    """The complete feature of an image: a visible slot and an infrared slot.

    z = [o_visible; o_infrared],  own slot o_m = W_o norm(p),
    missing slot o_m' = W_o norm(p) + g W_c norm(t_m')

    So slots of two images are compared modality by modality: the image itself where it is of the
    slot's modality, and where it is not, the image corrected by what its description in the words
    of that modality adds. W_o and W_c start as the identity and the gate g, one number per channel,
    at 0.1, so that z begins as p beside itself: with the description alone in the missing slot, two
    images of different modalities would never be compared directly, and rows of one modality lie
    apart from those of the other. (Reimplementation following CLIP-MC's abstract.)

    Args:
        width: Width d of image features and descriptions.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = positive_int(_WHAT, "width", width)
        self.original = nn.Linear(width, width)
        self.compensated = nn.Linear(width, width)
        for layer in (self.original, self.compensated):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.gate = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, projected: Tensor, missing_text: Tensor, num_visible: int) -> Tensor:
        """Complete features.

        Args:
            projected: p, rows of visible images first. Shape (B, d).
            missing_text: t_m'(x), the description of each image in the words of the modality that
                it is not of. Shape (B, d).
            num_visible: Number of rows that are visible images.

        Returns:
            z. Shape (B, 2 d).
        """
        require_shape(_WHAT, "projected", projected, ("B", self.width))
        require_shape(_WHAT, "missing_text", missing_text, tuple(projected.shape))
        rows = projected.shape[0]
        # The sentence is made on failure only: an export cannot print a symbolic size.
        if not 0 <= num_visible <= rows:
            require(False, _WHAT, "num_visible", f"lie in 0..{rows}", num_visible)
        own = self.original(F.normalize(projected))
        other = own + self.gate * self.compensated(F.normalize(missing_text))
        visible = torch.cat((own[:num_visible], other[:num_visible]), dim=1)
        infrared = torch.cat((other[num_visible:], own[num_visible:]), dim=1)
        return torch.cat((visible, infrared))
