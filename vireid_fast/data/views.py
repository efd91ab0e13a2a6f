"""The views of a training step and of a test, as chains of the operators of `transforms`."""

import math
from dataclasses import KW_ONLY, dataclass

from torch import Generator, Tensor

from vireid_fast._checks import require, require_shape
from vireid_fast.data.draws import Draws
from vireid_fast.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ChannelAdapGray,
    ChannelExchange,
    ChannelRandomErasing,
    IntensityJitter,
    Normalize,
    PadCropFlip,
    RandomGrey,
    RandomInvert,
    ZoomCropFlip,
    to_float,
)


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the training views; the defaults are CSDN's.

    Attributes:
        pad: Black pixels on each side before the random crop.
        flip: Probability of a left-right flip.
        erase: Probability of random erasing.
        scale: Range of the cut window's size; (1, 1) crops whole pixels without resizing.
        jitter: Strength of the brightness and contrast jitter; 0 leaves it out.
        gamma: Strength of the gamma jitter; 0 leaves it out.
        grey: See `ChannelExchange`.
        grey_probability: Probability that the first visible view becomes grey.
        invert: Probability of an inverted image; see `RandomInvert`.
        mean: Mean of the normalisation.
        std: Standard deviation of the normalisation.
    """

    _: KW_ONLY
    pad: int = 10
    flip: float = 0.5
    erase: float = 0.5
    scale: tuple[float, float] = (1.0, 1.0)
    jitter: float = 0.0
    gamma: float = 0.0
    grey: int = 2
    grey_probability: float = 0.0
    invert: float = 0.0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def normalize(self) -> Normalize:
        """The normalisation of float images (B, 3, H, W)."""
        return Normalize(self.mean, self.std)

    def __post_init__(self) -> None:
        what = "Augmentation"
        require(self.pad >= 0, what, "pad", "be at least 0", self.pad)
        for name in ("flip", "erase", "grey_probability", "invert"):
            value = getattr(self, name)
            require(0 <= value <= 1, what, name, "be a probability in 0..1", value)
        low, high = self.scale
        require(0 < low <= high, what, "scale", "be (low, high), 0 < low <= high", self.scale)
        require(0 <= self.jitter < 1, what, "jitter", "be in [0, 1)", self.jitter)
        finite = math.isfinite(self.gamma) and self.gamma >= 0
        require(finite, what, "gamma", "be at least 0 and finite", self.gamma)
        require(self.grey in (2, 3), what, "grey", "be 2 or 3", self.grey)
        require(min(self.std) > 0, what, "std", "be positive", self.std)


def visible_view(
    images: Tensor, augmentation: Augmentation, generator: Generator | Draws
) -> Tensor:
    """First visible view: crop, flip, grey, jitter, invert, normalise, erase.

    Args:
        images: Shape (B, H, W, 3), uint8.
        augmentation: Strengths.
        generator: Source of all draws; `Draws` where frames share them, or where the images are a
            part of a batch.

    Returns:
        Shape (B, 3, H, W), float32.

    Raises:
        ValueError: The shape does not fit. TypeError: The dtype does not fit.
    """
    return _view(images, augmentation, generator, augmentation.grey_probability)


def _view(images: Tensor, a: Augmentation, generator: Generator | Draws, grey: float) -> Tensor:
    if a.scale == (1.0, 1.0):
        require_shape("visible_view", "images", images, ("B", "H", "W", 3))
        images = to_float(PadCropFlip(a.pad, a.flip)(images, generator))
    else:
        images = ZoomCropFlip(a.scale, a.pad, a.flip)(to_float(images), generator)
    if grey > 0:
        images = RandomGrey(grey)(images, generator)
    if a.jitter > 0 or a.gamma > 0:
        images = IntensityJitter(a.jitter, a.gamma)(images, generator)
    if a.invert > 0:
        images = RandomInvert(a.invert)(images, generator)
    return ChannelRandomErasing(a.erase)(a.normalize(images), generator)


def visible_exchange_view(
    images: Tensor, augmentation: Augmentation, generator: Generator | Draws
) -> Tensor:
    """Second visible view: as `visible_view` but for the grey, then `ChannelExchange`."""
    images = _view(images, augmentation, generator, 0.0)
    return ChannelExchange(augmentation.grey)(images, generator)


def infrared_view(
    images: Tensor, augmentation: Augmentation, generator: Generator | Draws
) -> Tensor:
    """Infrared view: as `visible_view` but for the grey, then `ChannelAdapGray`."""
    return ChannelAdapGray()(_view(images, augmentation, generator, 0.0), generator)


def test_view(images: Tensor, augmentation: Augmentation, *, flip: bool = False) -> Tensor:
    """Test view: normalised, nothing random.

    Args:
        images: Shape (B, H, W, 3), uint8.
        augmentation: Its normalisation is used.
        flip: Mirror left-right, for features that join an image and its mirror image.

    Returns:
        Shape (B, 3, H, W), float32.
    """
    images = augmentation.normalize(to_float(images))
    return images.flip(-1) if flip else images
