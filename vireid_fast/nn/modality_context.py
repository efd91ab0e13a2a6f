"""MCL, the modality context learner (CLIP-MC)."""

import torch.nn.functional as F
from torch import Tensor, nn

from vireid_fast._checks import positive_int, require, require_choice, require_shape, sentence

_WHAT = "ModalityContext"
_MODALITIES = ("visible", "infrared")
# CoCoOp's meta-network narrows to a sixteenth (KaiyangZhou/CoOp@ff61507).
_NARROWING = 16


class ModalityContext(nn.Module):
    """Context tokens of each modality, which all its prompts begin with.

    (Reimplementation following CLIP-MC's abstract: learned tokens, more flexible than fixed words.)
    They start as the embeddings of such words, "a visible photo of" and "an infrared photo of".

    Args:
        visible: Embeddings of the visible words. Shape (L, W).
        infrared: Embeddings of the infrared words. Shape (L, W).
        fixed: Keep the words (the ablation without MCL).
        image_width: Width d of image features p, whose meta-network shifts the tokens of each
            image by W_2 relu(W_1 norm(p)), as CoCoOp does; W_2 starts at zero. None: no network.

    Raises:
        ValueError: The shapes differ, or fixed words are to be shifted.
    """

    visible: Tensor
    infrared: Tensor

    def __init__(
        self,
        visible: Tensor,
        infrared: Tensor,
        *,
        fixed: bool = False,
        image_width: int | None = None,
    ) -> None:
        super().__init__()
        require_shape(_WHAT, "visible", visible, ("L", "W"))
        require_shape(_WHAT, "infrared", infrared, visible.shape)
        require(
            not (fixed and image_width), _WHAT, "image_width", "be None for fixed words",
            image_width, "Leave the meta-network out.",
        )  # fmt: skip
        for name, words in zip(_MODALITIES, (visible, infrared), strict=True):
            tokens = words.detach().clone()
            if fixed:
                self.register_buffer(name, tokens)
            else:
                self.register_parameter(name, nn.Parameter(tokens))
        self.meta_network: nn.Module | None = None
        if image_width is not None:
            image_width = positive_int(_WHAT, "image_width", image_width)
            hidden = max(1, image_width // _NARROWING)
            last = nn.Linear(hidden, visible.shape[1])
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.meta_network = nn.Sequential(nn.Linear(image_width, hidden), nn.ReLU(), last)

    def forward(self, modality: str, projected: Tensor | None = None) -> Tensor:
        """Context tokens of one modality.

        Args:
            modality: "visible" or "infrared".
            projected: Image features p, for the meta-network. Shape (B, d).

        Returns:
            Shape (L, W) for all images; with a meta-network (B, L, W).
        """
        require_choice(_WHAT, "modality", modality, _MODALITIES)
        tokens = self.visible if modality == "visible" else self.infrared
        if self.meta_network is None:
            return tokens
        if projected is None:
            raise ValueError(sentence(_WHAT, "projected", "be given for the meta-network", None,
                                      "Pass the image features."))  # fmt: skip
        shift = self.meta_network(F.normalize(projected))
        return (tokens + shift[:, None]).to(tokens.dtype)
