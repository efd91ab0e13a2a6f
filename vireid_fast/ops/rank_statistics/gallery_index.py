"""The gallery's items by identity and by group, made once and used by many blocks of queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vireid_fast import _checks


@dataclass(frozen=True)
class LabelIndex:
    """Gallery items by label.

    Attributes:
        labels: Distinct labels, ascending. Shape (L,), int64.
        of: Position of each item's label in `labels`. Shape (G,), int64.
        start: Where the items of each label begin in `items`. Shape (L + 1,), int64.
        items: Items by label, ascending in each. Shape (G,), int64.
    """

    labels: Tensor
    of: Tensor
    start: Tensor
    items: Tensor

    @classmethod
    def build(cls, values: Tensor) -> LabelIndex:
        """Index of the labels of G items. Shape (G,), int64."""
        labels, of = torch.unique(values, return_inverse=True)
        items = of.argsort(stable=True)
        bounds = torch.arange(labels.numel() + 1, device=of.device)
        return cls(labels, of, torch.searchsorted(of[items], bounds), items)

    def find(self, values: Tensor) -> Tensor:
        """Position of each value in `labels`, -1 where it is none. Shape of `values`, int64."""
        if self.labels.numel() == 0:
            return torch.full_like(values, -1)
        place = torch.searchsorted(self.labels, values.contiguous())
        place.clamp_(max=self.labels.numel() - 1)
        return torch.where(self.labels[place] == values, place, -1)


@dataclass(frozen=True)
class GalleryIndex:
    """What `rank_statistics` needs to know of a gallery: O(G log G) to build, then reused.

    Attributes:
        identities: Items by identity.
        groups: Items by camera or place; None without groups.
    """

    identities: LabelIndex
    groups: LabelIndex | None

    @classmethod
    def build(cls, gallery_ids: Tensor, gallery_groups: Tensor | None = None) -> GalleryIndex:
        """Index a gallery.

        Args:
            gallery_ids: Identity of each item. Shape (G,), int64, any values.
            gallery_groups: Camera or place of each item, which `drop` needs. Shape (G,), int64.

        Memory: 16 bytes per item for the identities and as much for the groups.

        Raises:
            ValueError: A shape or device does not fit. TypeError: A dtype is not int64.
        """
        what = "GalleryIndex"
        _checks.require_dtype(what, "gallery_ids", gallery_ids, (torch.int64,))
        _checks.require_shape(what, "gallery_ids", gallery_ids, ("G",))
        if gallery_groups is None:
            return cls(LabelIndex.build(gallery_ids), None)
        _checks.require_dtype(what, "gallery_groups", gallery_groups, (torch.int64,))
        _checks.require_shape(what, "gallery_groups", gallery_groups, (len(gallery_ids),))
        _checks.require_same_device(what, gallery_ids=gallery_ids, gallery_groups=gallery_groups)
        return cls(LabelIndex.build(gallery_ids), LabelIndex.build(gallery_groups))

    def __len__(self) -> int:
        """Number of gallery items."""
        return self.identities.of.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the index."""
        return self.identities.of.device
