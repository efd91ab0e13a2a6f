"""The number format of the encoders."""

from contextlib import AbstractContextManager
from typing import Any

import torch

from vireid_fast._checks import require_choice

KINDS = ("auto", "float32", "bfloat16")


class Precision:
    """What encoders compute their products in.

    Weights, gradients and the optimiser stay float32, and bfloat16 has float32's range, so no
    loss scale is needed. Losses run outside `autocast` on features in float32: a temperature of
    0.07 multiplies what bfloat16 rounds.

    Args:
        kind: "float32", "bfloat16", or "auto": bfloat16 on CUDA, float32 on the CPU.
        device: Where the encoders run.
    """

    def __init__(self, kind: str, device: str) -> None:
        require_choice("Precision", "kind", kind, KINDS)
        self._device = torch.device(device).type
        if kind == "auto":
            kind = "bfloat16" if self._device == "cuda" else "float32"
        self.kind = kind

    def autocast(self) -> AbstractContextManager[Any]:
        """A context for the forward pass of an encoder."""
        return torch.autocast(self._device, dtype=torch.bfloat16, enabled=self.kind == "bfloat16")
