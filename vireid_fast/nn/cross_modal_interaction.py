"""CMI, the cross-modal interaction of LSMRL."""

import copy
from typing import Any

from torch import Tensor, nn

from vireid_fast._checks import require_choice
from vireid_fast.nn.cross_modal_attention import CrossModalAttention
from vireid_fast.ops import BACKENDS, Backend
from vireid_fast.ops.cross_modal_attention import Mode

MODES = ("cross", "joint")


class CrossModalInteraction(nn.Module):
    """A transformer block in which each modality of a pair attends to the other one.

    z_V' = z_V + A(ln_1 z_V; ln_1 z_R),  z_R' = z_R + A(ln_1 z_R; ln_1 z_V),  then z + mlp(ln_2 z)

    A(q; k) is one multi-head attention: both directions share all weights, their projection and
    one attention launch. Ours, following the abstract of LSMRL ("bidirectional cross-modal
    self-attention").

    Args:
        block: A CLIP block (`attn`, `ln_1`, `ln_2`, `mlp`), which is copied, so that training
            starts near the pre-trained model.
        mode: "cross" as above. "joint": self-attention over the tokens of both modalities, the
            own ones included.
        backend: "fused" or "reference" (plain torch attention).

    Raises:
        ValueError: A choice is unknown. TypeError: The block has no CLIP attention.
    """

    def __init__(
        self, block: Any, *, mode: Mode = "cross", backend: Backend = "fused"
    ) -> None:
        super().__init__()
        require_choice("CrossModalInteraction", "mode", mode, MODES)
        require_choice("CrossModalInteraction", "backend", backend, BACKENDS)
        self.attention = CrossModalAttention.from_clip_block(
            block, mode=mode, backend="auto" if backend == "fused" else "reference"
        )
        self.ln_1: nn.Module = copy.deepcopy(block.ln_1)
        self.ln_2: nn.Module = copy.deepcopy(block.ln_2)
        self.mlp: nn.Module = copy.deepcopy(block.mlp)

    def forward(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        """Let the tokens of each pair interact.

        Args:
            visible: Shape (B, S, W).
            infrared: Tokens of the partners in the same order. Shape (B, T, W).

        Returns:
            Visible tokens (B, S, W) and infrared tokens (B, T, W).

        Raises:
            ValueError: A shape or device does not fit. TypeError: The dtypes differ.
        """
        visible, infrared = self._attend(visible, infrared)
        return self._map(visible), self._map(infrared)

    def class_tokens(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        """First token of each sequence of `forward`, (B, W) each; the MLP skips the others."""
        visible, infrared = self._attend(visible, infrared)
        return self._map(visible[:, 0]), self._map(infrared[:, 0])

    def _attend(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        return self.attention(self.ln_1(visible), self.ln_1(infrared), (visible, infrared))

    def _map(self, tokens: Tensor) -> Tensor:
        return tokens + self.mlp(self.ln_2(tokens))
