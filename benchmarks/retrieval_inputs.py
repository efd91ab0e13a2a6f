"""Features, identities and cameras of the sizes that retrieval is measured at."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Queries and gallery of the test sets; of SYSU-MM01 all-search, single-shot.
SYSU, REGDB, VCM, MARKET = (3803, 301), (2060, 2060), (4584, 5099), (3368, 15913)
_IMAGES_OF_ONE = 25
# Noise of an image beside the centre of its identity: a cosine of 0.55 within an identity.
_NOISE = 0.9
# Values drawn at a time, so that drawing takes no memory of its own.
_DRAWN = 1 << 22


def clustered(items: int, width: int, *, identities: int = 0, seed: int = 0) -> Tensor:
    """Unit rows around a centre an identity, as a trained network gives them.

    Item i shows identity i modulo `identities` (0: one for 25 items). Shape (items, width),
    float32.
    """
    identities = identities or max(1, items // _IMAGES_OF_ONE)
    centres = isotropic(identities, width, seed=seed + 1)
    rows = isotropic(items, width, seed=seed)
    for begin in range(0, items, identities):
        part = rows[begin : begin + identities]
        part.mul_(_NOISE).add_(centres[: len(part)])
    return _normalise(rows)


def isotropic(items: int, width: int, *, seed: int = 0) -> Tensor:
    """Unit rows of any direction, the worst case of a filter. Shape (items, width), float32."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.empty(items, width)
    for part in rows.split(max(1, _DRAWN // width)):
        part.normal_(generator=generator)
    return _normalise(rows)


def _normalise(rows: Tensor) -> Tensor:
    for part in rows.split(max(1, _DRAWN // rows.shape[1])):
        part.div_(part.norm(dim=1, keepdim=True))
    return rows


class Labels(NamedTuple):
    """Who queries and gallery items show, and by which camera; all int64."""

    query_ids: Tensor
    gallery_ids: Tensor
    query_cameras: Tensor
    gallery_cameras: Tensor

    def to(self, device: torch.device) -> "Labels":
        """The labels on another device."""
        return Labels(*(labels.to(device) for labels in self))


def make_labels(
    num_query: int, num_gallery: int, *, cameras: tuple[tuple[int, ...], tuple[int, ...]],
    identities: int = 0,
) -> Labels:  # fmt: skip
    """Labels of the rows of `clustered(num_query + num_gallery, ...)`, queries first.

    Args:
        num_query: Q.
        num_gallery: G.
        cameras: Those of the queries and those of the gallery, in turn over rows of an identity.
        identities: As for `clustered`.
    """
    items = num_query + num_gallery
    identities = identities or max(1, items // _IMAGES_OF_ONE)
    ids, turn = torch.arange(items) % identities, torch.arange(items) // identities
    of_side = [torch.tensor(side)[turn % len(side)] for side in cameras]
    return Labels(ids[:num_query], ids[num_query:], of_side[0][:num_query],
                  of_side[1][num_query:])  # fmt: skip


def chosen_rows(rows: int, device: torch.device | str, number: int = 32) -> Tensor:
    """Rows spread over the whole, which a gate holds against float64."""
    return torch.linspace(0, rows - 1, min(rows, number), device=device).long()


# Rows of a product whose result would not fit into memory, and the items from which on it does not.
_STRIP, _TOO_MANY = 2048, 25_000


def all_pairs_product(x: Tensor) -> None:
    """The full N x N product `x @ x.T`, in strips of rows where it would be too large."""
    if len(x) <= _TOO_MANY:
        torch.mm(x, x.T)
        return
    for rows in x.split(_STRIP):
        torch.mm(rows, x.T)


def all_pairs_product_into(x: Tensor) -> Callable[[], Tensor]:
    """A function that computes the product into one matrix: new memory costs nothing then."""
    out = x.new_empty(0)

    def run() -> Tensor:
        return torch.mm(x, x.T, out=out)

    return run
