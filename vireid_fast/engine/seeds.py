"""Randomness as a pure function of the seed and a place in the run, so that resuming is exact."""

import hashlib

import torch


def derive_seed(seed: int, *place: object) -> int:
    """A 63-bit seed for one place in a run, such as (seed, "visual", epoch)."""
    text = repr((seed, *place)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def generator(seed: int, *place: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator for one place in a run."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *place))
