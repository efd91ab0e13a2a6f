"""Working precision of the losses."""

import torch
from torch import Tensor


def at_least_float32(features: Tensor) -> Tensor:
    """Features in float32 or, if they are float64, as they are."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def common_precision(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors of a product in the wider of their dtypes, float32 at least."""
    wider = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    return first.to(wider), second.to(wider)


def without_autocast(features: Tensor) -> torch.autocast:
    """A context in which products keep the dtype of their factors."""
    return torch.autocast(features.device.type, enabled=False)
