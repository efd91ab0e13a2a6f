"""Random augmentation of whole batches in torch, each image with draws of its own.

Every operator is a small frozen dataclass called as `operator(images, generator)`. All draws come
from the generator, on its device, and their number does not depend on their outcome: the same
generator state gives the same images on every device. Where `Draws` are passed instead, images can
share draws, or be a part of the batch that is drawn for. No input is written, no host sync is made.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from vireid_fast._checks import require_dtype, require_shape
from vireid_fast.data.draws import Draws, uniform, uniform_int

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# ITU-R BT.601 luma, as rounded in the released CAJ and CSDN code.
LUMA = (0.2989, 0.5870, 0.1140)
ERASE_FILL = (0.4914, 0.4822, 0.4465)
_ERASE_ATTEMPTS = 100


def to_float(images: Tensor) -> Tensor:
    """Bytes to numbers in [0, 1], channels first.

    Args:
        images: Shape (B, H, W, 3), uint8.

    Returns:
        Shape (B, 3, H, W), float32, contiguous.

    Raises:
        ValueError: The shape does not fit. TypeError: The dtype does not fit.
    """
    require_dtype("to_float", "images", images, (torch.uint8,))
    require_shape("to_float", "images", images, ("B", "H", "W", 3))
    planes = images.permute(0, 3, 1, 2)
    return planes.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


@dataclass(frozen=True)
class Normalize:
    """(x - mean) / std for each channel of images (B, 3, H, W)."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise float images (B, 3, H, W)."""
        return (images - _channels(self.mean, images)).div_(_channels(self.std, images))


@dataclass(frozen=True)
class PadCropFlip:
    """Pad with black, crop back to the old size at a random place, flip left-right at random.

    Args:
        pad: Black pixels on each side.
        flip: Probability of the flip.
    """

    pad: int = 10
    flip: float = 0.5

    def __call__(self, images: Tensor, generator: Generator | Draws) -> Tensor:
        """Augment images (B, H, W, 3) of any dtype; the result has the same shape."""
        count, height, width, _ = images.shape
        pad, device = self.pad, images.device
        top = uniform_int((count, 1), 2 * pad + 1, generator, device)
        left = uniform_int((count, 1), 2 * pad + 1, generator, device)
        flipped = uniform((count, 1), generator, device) < self.flip
        padded = F.pad(images, (0, 0, pad, pad, pad, pad))
        # Rows are copied whole, before the columns are gathered in planes.
        line = torch.arange(count, device=device)[:, None] * padded.shape[1] + top
        line = line + torch.arange(height, device=device)
        rows = padded.flatten(0, 1).flatten(1).index_select(0, line.flatten())
        columns = torch.arange(width, device=device).expand(count, width)
        columns = left + torch.where(flipped, width - 1 - columns, columns)
        planes = rows.view(count, height, width + 2 * pad, 3).permute(0, 3, 1, 2)
        columns = columns[:, None, None, :].expand(count, 3, height, width)
        return planes.gather(3, columns).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class ZoomCropFlip:
    """Cut a window of random scale and place, resize it bilinearly, flip at random.

    The window has s times the image's height and width and lies inside the image padded with
    black; s < 1 zooms in, s > 1 shows a black border. With s = 1 this is `PadCropFlip` at
    fractional places.

    Args:
        scale: Range of s, drawn uniformly.
        pad: Black pixels on each side.
        flip: Probability of the flip.
    """

    scale: tuple[float, float] = (0.8, 1.0)
    pad: int = 10
    flip: float = 0.5

    def __call__(self, images: Tensor, generator: Generator | Draws) -> Tensor:
        """Augment float images (B, 3, H, W); the result has the same shape."""
        count, _, height, width = images.shape
        if count == 0:
            return images
        low, high = self.scale
        draws = uniform((count, 4), generator, images.device).to(images.dtype)
        scale = low + (high - low) * draws[:, 0]
        top = draws[:, 1] * (height + 2 * self.pad - scale * height) - self.pad
        left = draws[:, 2] * (width + 2 * self.pad - scale * width) - self.pad
        mirror = torch.where(draws[:, 3] < self.flip, -scale, scale)
        zero = torch.zeros_like(scale)
        # Coordinates in -1..1 over the image; the last column is the window's centre.
        across = torch.stack([mirror, zero, 2 * left / width + scale - 1], 1)
        down = torch.stack([zero, scale, 2 * top / height + scale - 1], 1)
        grid = F.affine_grid(
            torch.stack([across, down], 1), list(images.shape), align_corners=False
        )
        return F.grid_sample(images, grid, align_corners=False)


@dataclass(frozen=True)
class IntensityJitter:
    """Random gamma, contrast and brightness of images in [0, 1]; the result stays there.

    Args:
        strength: Contrast (about the image's mean) and brightness are each scaled by a factor
            from 1 - strength to 1 + strength.
        gamma: The exponent is drawn from exp(-gamma) to exp(gamma), log-uniformly.
    """

    strength: float = 0.2
    gamma: float = 0.0

    def __call__(self, images: Tensor, generator: Generator | Draws) -> Tensor:
        """Augment float images (B, 3, H, W) with values in [0, 1]."""
        draws = 2 * uniform((len(images), 3), generator, images.device) - 1
        draws = draws.to(images.dtype)[:, :, None, None, None]
        exponent = torch.exp(self.gamma * draws[:, 0])
        contrast, brightness = 1 + self.strength * draws[:, 1], 1 + self.strength * draws[:, 2]
        if self.gamma > 0:
            images = images.pow(exponent)
        mean = images.mean((1, 2, 3), keepdim=True)
        offset = mean * (1 - contrast) * brightness
        return (images * (contrast * brightness)).add_(offset).clamp_(0, 1)


@dataclass(frozen=True)
class RandomGrey:
    """Replace an image by its luma, copied to all channels, with some probability.

    Args:
        probability: Probability for each image.
    """

    probability: float = 0.5

    def __call__(self, images: Tensor, generator: Generator | Draws) -> Tensor:
        """Augment float images (B, 3, H, W)."""
        on = uniform((len(images), 1, 1, 1), generator, images.device) < self.probability
        luma = (images * _channels(LUMA, images)).sum(1, keepdim=True)
        return torch.where(on, luma, images)


@dataclass(frozen=True)
class RandomInvert:
    """Replace an image x in [0, 1] by 1 - x with some probability.

    What is bright to a visible camera is often dark to a thermal one, and the other way round;
    inverted views make features depend on edges rather than on the sign of the contrast. Ours.

    Args:
        probability: Probability for each image.
    """

    probability: float = 0.5

    def __call__(self, images: Tensor, generator: Generator | Draws) -> Tensor:
        """Augment float images (B, 3, H, W) in [0, 1]."""
        on = uniform((len(images), 1, 1, 1), generator, images.device) < self.probability
        return torch.where(on, 1 - images, images)


@dataclass(frozen=True)
class ChannelRandomErasing:
    """Fill a random rectangle with one colour; applied after normalisation, as published.

    mangye16/Cross-Modal-Re-ID-baseline: ICCV21_CAJ/ChannelAug.py. The fill is in the units of the
    normalised image, where it is no grey but a light tone: kept as released.

    Args:
        probability: Probability that an image is erased.
        area: Range of the erased share of the image.
        aspect: Lowest height / width of the rectangle; the highest is its inverse.
        fill: Value of each channel.
    """

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: float = 0.3
    fill: tuple[float, float, float] = ERASE_FILL

    def __call__(self, images: Tensor, generator: Generator | Draws) -> Tensor:
        """Erase in float images (B, 3, H, W)."""
        count, _, height, width = images.shape
        rectangle = self.rectangles(count, height, width, generator).to(images.device)
        top, left, tall, wide = rectangle[:, :, None].unbind(1)
        y = torch.arange(height, device=images.device)
        x = torch.arange(width, device=images.device)
        rows, columns = (y >= top) & (y < top + tall), (x >= left) & (x < left + wide)
        inside = (rows[:, :, None] & columns[:, None, :])[:, None].to(images.dtype)
        # Exact at weights 0 and 1, and much faster on a CPU than torch.where with broadcasting.
        return torch.lerp(images, _channels(self.fill, images), inside)

    def rectangles(
        self, count: int, height: int, width: int, generator: Generator | Draws
    ) -> Tensor:
        """Draw (top, left, height, width) for each image; height 0 where nothing is erased.

        Sizes are drawn up to 100 times until one is smaller than the image in both directions,
        then the place uniformly. Shape (count, 4), int64, on the generator's device.
        """
        device = generator.device
        chosen = uniform((count,), generator, device) < self.probability
        draws = uniform((2, count, _ERASE_ATTEMPTS), generator, device, images=1)
        place = uniform((2, count), generator, device, images=1)
        low, high = self.area
        area = (low + (high - low) * draws[0]) * (height * width)
        aspect = self.aspect + (1 / self.aspect - self.aspect) * draws[1]
        tall, wide = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        fits = (tall < height) & (wide < width)
        first = fits.to(torch.uint8).argmax(1, keepdim=True)
        tall, wide = tall.gather(1, first)[:, 0], wide.gather(1, first)[:, 0]
        top = (place[0] * (height - tall + 1)).floor()
        left = (place[1] * (width - wide + 1)).floor()
        erased = chosen & fits.any(1)
        return (torch.stack([top, left, tall, wide], 1) * erased[:, None]).to(torch.int64)


@dataclass(frozen=True)
class ChannelExchange:
    """Copy one channel, drawn for each image, to all three (CAJ, ICCV 2021).

    Args:
        grey: Highest number drawn. 2, as released, draws one of the channels; the luma branch of
            the released code is reached only by 3.
    """

    grey: int = 2

    def __call__(self, images: Tensor, generator: Generator | Draws) -> Tensor:
        """Augment float images (B, 3, H, W)."""
        choice = uniform_int((len(images),), self.grey + 1, generator, images.device)
        return _mix_channels(images, _mixing_table(images)[choice])


@dataclass(frozen=True)
class ChannelAdapGray:
    """Copy one channel to all three, or convert to luma, or leave (CAJ, ICCV 2021).

    0..3 is drawn for each image: 0, 1, 2 copy that channel; 3 converts to luma with `probability`
    and else leaves the image as it is.

    Args:
        probability: Probability of luma where 3 was drawn.
    """

    probability: float = 0.5

    def __call__(self, images: Tensor, generator: Generator | Draws) -> Tensor:
        """Augment float images (B, 3, H, W)."""
        count, device = len(images), images.device
        choice = uniform_int((count,), 4, generator, device)
        left = uniform((count,), generator, device) >= self.probability
        return _mix_channels(images, _mixing_table(images)[choice + ((choice == 3) & left)])


def _channels(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)


def _mixing_table(like: Tensor) -> Tensor:
    """Channel mixings: copy channel 0, 1, 2, luma, leave. Shape (5, 3, 3)."""
    table = torch.zeros(5, 3, 3)
    for channel in range(3):
        table[channel, :, channel] = 1
    table[3] = torch.tensor(LUMA)
    table[4] = torch.eye(3)
    return table.to(like)


def _mix_channels(images: Tensor, mixing: Tensor) -> Tensor:
    """Replace each image's channels by its mixing (B, 3, 3) of them; copies are exact."""
    return torch.bmm(mixing, images.flatten(2)).view_as(images)
