"""Who queries which galleries: the trials of all settings of an evaluation, sharing what they can.

With ten shots the galleries of SYSU-MM01 share most of their images, and its modes share their
queries; one row of distances to every image that is ever drawn serves them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from vireid_fast._checks import require, require_choice
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.protocol import Permutations, Protocol


class Setting(NamedTuple):
    """What one result is about.

    Attributes:
        mode: Mode of the protocol.
        shots: Gallery images of each identity and camera; 1 where none are drawn.
    """

    mode: str
    shots: int


@dataclass(frozen=True)
class Trial:
    """One ranked gallery of a search.

    Attributes:
        setting: What it belongs to.
        query: Positions among the search's queries. Shape (q,), int64; None: all.
        gallery: Positions among the search's gallery rows, in the order that breaks ties. Shape
            (g,), int64; None: all.
    """

    setting: Setting
    query: Tensor | None = None
    gallery: Tensor | None = None


@dataclass
class Search:
    """Queries, every row that occurs in a gallery of theirs, and the trials.

    Attributes:
        query: Rows of the evaluated set that query. Shape (Q,), int64.
        gallery: Rows of the evaluated set that are ranked in some trial. Shape (U,), int64.
        trials: The trials; of each setting in its order.
    """

    query: Tensor
    gallery: Tensor
    trials: list[Trial] = field(default_factory=list)


def plan_searches(
    features: FeatureSet,
    rules: Protocol,
    settings: Sequence[Setting],
    permutations: Permutations | None,
) -> list[Search]:
    """Take the sides of each mode, draw the galleries, and put trials of equal queries together.

    Raises:
        ValueError: A mode is unknown, a number of shots is out of range or given where nothing is
            drawn, or see `Protocol` and its gallery sampler.
    """
    searches: list[Search] = []
    drawn: list[tuple[Setting, Tensor, list[Tensor]]] = []
    for setting in settings:
        _require_setting(rules, setting)
        query = rules.query_rows(features, setting.mode)
        if rules.draw_gallery is None:
            gallery = rules.gallery_rows(features, setting.mode)
            searches.append(Search(query, gallery, [Trial(setting)]))
            continue
        images = rules.gallery_images(features, setting.mode)
        galleries = [
            query.new_tensor(rules.draw_gallery(images, trial, setting.shots, permutations))
            for trial in range(rules.trials)
        ]
        if rules.modes[setting.mode].swapped:
            used, places = _used(galleries)
            trials = [Trial(setting, query=place) for place in places]
            searches.append(Search(used, query, trials))
        else:
            drawn.append((setting, query, galleries))
    return searches + _shared(drawn)


def _shared(drawn: Sequence[tuple[Setting, Tensor, list[Tensor]]]) -> list[Search]:
    """One search for all drawn galleries that have the same queries."""
    searches = []
    while drawn:
        query = drawn[0][1]
        same = [part for part in drawn if torch.equal(part[1], query)]
        drawn = [part for part in drawn if not torch.equal(part[1], query)]
        used, places = _used([gallery for _, _, galleries in same for gallery in galleries])
        owners = [setting for setting, _, galleries in same for _ in galleries]
        trials = [Trial(s, gallery=place) for s, place in zip(owners, places, strict=True)]
        searches.append(Search(query, used, trials))
    return searches


def _used(galleries: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Every row that some gallery holds, and the galleries as positions among these."""
    used, inverse = torch.unique(torch.cat(list(galleries)), return_inverse=True)
    return used, inverse.split([len(gallery) for gallery in galleries])


def _require_setting(rules: Protocol, setting: Setting) -> None:
    require_choice(rules.name, "mode", setting.mode, rules.modes)
    shots = setting.shots
    require(
        isinstance(shots, int) and not isinstance(shots, bool) and shots >= 1, rules.name, "shots",
        "be an integer of at least 1", shots,
    )  # fmt: skip
    require(
        rules.draw_gallery is not None or shots == 1, rules.name, "shots",
        "be 1, since no galleries are drawn", shots,
    )  # fmt: skip
