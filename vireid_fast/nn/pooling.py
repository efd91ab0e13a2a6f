"""Pooling of feature maps."""

import torch
from torch import Tensor, nn

_FLOOR = 1e-6


class GeMPooling(nn.Module):
    """Generalised-mean pooling with one learnable exponent.

    out[b, c] = (mean_hw max(x[b, c, h, w], 1e-6)^g)^(1/g)      (Radenovic et al., TPAMI 2018)

    The exponent starts at 3, as in AGW and CSDN.
    """

    def __init__(self, exponent: float = 3.0) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(float(exponent)))

    def forward(self, feature_map: Tensor) -> Tensor:
        """Pool a map.

        Args:
            feature_map: Shape (B, C, h, w), floating point.

        Returns:
            Shape (B, C), float32 at least.
        """
        values = feature_map.float() if feature_map.dtype != torch.float64 else feature_map
        powered = values.clamp_min(_FLOOR).pow(self.exponent)
        return powered.mean((2, 3)).pow(1.0 / self.exponent)
