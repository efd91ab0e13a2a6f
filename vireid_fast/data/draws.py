"""Random numbers of a batch of images, one set of them for each image, or shared by several."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from vireid_fast._checks import require, require_dtype, require_shape


@dataclass(frozen=True)
class Draws:
    """Draws for `total` items, of which image n of a batch gets those of item `rows[n]`.

    Two uses, which can be joined: the T frames of a tracklet share its draws, with rows repeated T
    times, and a process that holds a part of a batch gives each image the draws that one process
    alone would give it.

    Attributes:
        generator: Source of all draws. Processes that share a batch must hold it in equal states.
        total: Items to draw for: images, or tracklets, of the whole batch.
        rows: Item of each image. Shape (B,), int64, values in 0..total - 1; None: image n is item
            n, and B is `total`.

    Raises:
        ValueError: A row is out of range, or the shape does not fit. TypeError: `rows` is no int64
            tensor.
    """

    generator: Generator
    total: int
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        require(self.total >= 0, "Draws", "total", "be at least 0", self.total)
        if self.rows is None:
            return
        require_dtype("Draws", "rows", self.rows, (torch.int64,))
        require_shape("Draws", "rows", self.rows, ("B",))
        if self.rows.numel():
            low, high = (int(bound) for bound in torch.aminmax(self.rows))
            require(
                low >= 0 and high < self.total, "Draws", "rows", f"lie in 0..{self.total - 1}",
                low if low < 0 else high,
            )  # fmt: skip
        object.__setattr__(self, "rows", self.rows.to(self.generator.device))

    def __len__(self) -> int:
        """B, the images of the batch."""
        return self.total if self.rows is None else len(self.rows)

    @property
    def device(self) -> torch.device:
        """Device on which is drawn."""
        return self.generator.device


def uniform(
    shape: tuple[int, ...], source: Generator | Draws, device: torch.device, *, images: int = 0
) -> Tensor:
    """Uniform draws in [0, 1), made on the source's device and moved to `device`.

    Args:
        shape: Shape of the result.
        source: A generator, or draws for as many images as the shape has.
        device: Where the result goes.
        images: Dimension of `shape` that counts the images.

    Returns:
        Shape `shape`, float64.

    Raises:
        ValueError: `source` holds draws for another number of images.
    """
    draws = torch.rand(
        _drawn(shape, source, images), generator=_generator(source), device=source.device,
        dtype=torch.float64,
    )  # fmt: skip
    return _of_images(draws, source, images).to(device)


def uniform_int(
    shape: tuple[int, ...],
    end: int,
    source: Generator | Draws,
    device: torch.device,
    *,
    images: int = 0,
) -> Tensor:
    """Uniform draws in 0..end - 1, int64; otherwise as `uniform`."""
    draws = torch.randint(
        end, _drawn(shape, source, images), generator=_generator(source), device=source.device
    )
    return _of_images(draws, source, images).to(device)


def _generator(source: Generator | Draws) -> Generator:
    return source.generator if isinstance(source, Draws) else source


def _drawn(shape: tuple[int, ...], source: Generator | Draws, images: int) -> tuple[int, ...]:
    """Shape of what is drawn to give `shape` to the images."""
    if not isinstance(source, Draws):
        return shape
    require(
        shape[images] == len(source), "Draws", "images", f"be {len(source)}, one for each row",
        shape[images], "Make Draws for the batch that it is used with.",
    )  # fmt: skip
    return (*shape[:images], source.total, *shape[images + 1 :])


def _of_images(draws: Tensor, source: Generator | Draws, images: int) -> Tensor:
    """The draws of each image, from those of the items."""
    if not isinstance(source, Draws) or source.rows is None:
        return draws
    return draws.index_select(images, source.rows)
