"""Validation identities for data sets that publish none."""

from dataclasses import replace
from typing import TypeVar

import numpy as np

from vireid_fast._checks import require
from vireid_fast.data.table import GALLERY, INFRARED, QUERY, ImageTable
from vireid_fast.data.tracklets import TrackletTable

Table = TypeVar("Table", ImageTable, TrackletTable)


def hold_out(table: Table, share: float, seed: int) -> Table:
    """Move a share of the training identities to "val", drawn with `seed`.

    round(share C) of the C training identities move, at least one; at least one stays. Where the
    set has roles, the infrared rows of the moved identities become queries and the visible ones
    the gallery: the harder direction, and that of HITSZ-VCM's list. Where the set has none, the
    protocol chooses both itself.

    Args:
        table: Images or tracklets without validation identities.
        share: Part of the training identities, between 0 and 1.
        seed: Equal seeds move equal identities, whatever the order of the table.

    Returns:
        The same table with other splits and roles; the given one is not changed.

    Raises:
        ValueError: The share is out of range, there are validation identities already, or there
            are fewer than two training identities.
    """
    what = "hold_out"
    require(0 < share < 1, what, "share", "lie between 0 and 1", share)
    require(
        not len(table.identities("val")), what, "table", "have no validation identities",
        f"{len(table.identities('val'))}", "Validate on these: ask for no share.",
    )  # fmt: skip
    people = table.identities("train")
    require(
        len(people) >= 2, what, "table", "have at least 2 training identities", len(people),
        "Train without validation.",
    )  # fmt: skip
    count = min(max(1, round(share * len(people))), len(people) - 1)
    moved = np.sort(np.random.default_rng((seed, 0x4E1D)).permutation(people)[:count])
    images = table.frames if isinstance(table, TrackletTable) else table
    changed = replace(
        images,
        splits={**images.splits, "train": np.setdiff1d(people, moved), "val": moved},
        roles=_roles(images, moved),
    )
    if isinstance(table, TrackletTable):
        return replace(table, frames=changed)  # type: ignore[call-arg]  # mypy mixes both kinds
    return changed


def _roles(images: ImageTable, moved: np.ndarray) -> np.ndarray | None:
    if images.roles is None:
        return None
    theirs = np.isin(images.person_ids, moved)
    part = np.where(images.modality == INFRARED, QUERY, GALLERY)
    return np.where(theirs, part, images.roles)
