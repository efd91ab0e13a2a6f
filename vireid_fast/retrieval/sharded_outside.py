"""Neighbour lists from an index outside for the items of each process."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops import KNN
from vireid_fast.retrieval.outside_lists import ListedItems, list_slack
from vireid_fast.retrieval.reciprocal_encoding import EncodingParameters
from vireid_fast.retrieval.sharded_items import ShardedItems, require_alike
from vireid_fast.retrieval.sharded_neighbors import nearest, pair_distances


class OutsideNeighbors(NamedTuple):
    """What an index outside knows of the items of a process: all queries, then its gallery rows.

    Attributes:
        indices: The nearest of all N items, nearest first, numbered queries first and then the
            gallery over all processes. Shape (Q + rows of the shard, K), integers; K as of
            `rerank_from_neighbors`.
        farthest: Largest squared distance of each item to all N. Shape (Q + rows of the shard,).
            None: computed exactly, for which all features meet once more.
        includes_self: See `rerank_from_neighbors`; alike in all processes, as the next.
        tolerance: See `rerank_from_neighbors`.
    """

    indices: Tensor | np.ndarray
    farthest: Tensor | np.ndarray | None = None
    includes_self: bool | None = None
    tolerance: float | None = None


def outside_candidates(
    what: str, items: ShardedItems, parameters: EncodingParameters, given: OutsideNeighbors
) -> KNN:
    """The lists of this process's items with exact distances, and their largest distances.

    Args:
        what: Name of the caller, for errors.
        items: The items.
        parameters: Of the re-ranking.
        given: Of this process.

    Raises:
        ValueError, TypeError: In all processes: as `rerank_from_neighbors`.
    """
    group, numbers = items.group, items.own_ids
    kinds = (given.farthest is not None, given.includes_self, given.tolerance)
    require_alike(group, what, "(has farthest, includes_self, tolerance)", str(kinds))
    listed = ListedItems(what, numbers, items.num_items, items.num_query)
    lists = group.agree(
        lambda: listed.integer_lists(
            _own_rows(what, "neighbor_indices", items, given.indices), features=numbers
        )
    )
    includes_self = given.includes_self
    if includes_self is None:
        some = listed.have_self(lists).any().to(torch.int32)
        includes_self = bool(group.maximum(some))
    lists = group.agree(lambda: _complete(listed, lists, includes_self, parameters))
    require_alike(group, what, "neighbor_indices", f"{lists.shape[1]} columns, the item counted")
    position = torch.arange(len(numbers), device=group.device).repeat_interleave(lists.shape[1])
    known = pair_distances(items, position, lists.flatten()).view(lists.shape)
    own_norms = torch.cat(
        [known[:0, 0], *(torch.linalg.vector_norm(rows, dim=1) for _, rows in items.own_blocks())]
    )
    norms = items.gather(own_norms)
    slack = list_slack(own_norms, norms[lists], items.query.width, given.tolerance)
    largest = group.agree(lambda: _checked(listed, lists, known, slack, items, given))
    if largest is None:
        largest = nearest(items, 1).farthest
    return KNN(known, lists, largest)


def _complete(
    listed: ListedItems, lists: Tensor, includes_self: bool, parameters: EncodingParameters
) -> Tensor:
    lists = listed.with_self(lists, includes_self)
    listed.require_length(lists, parameters)
    return lists


def _checked(
    listed: ListedItems,
    lists: Tensor,
    known: Tensor,
    slack: Tensor,
    items: ShardedItems,
    given: OutsideNeighbors,
) -> Tensor | None:
    """The largest distances that the caller gives, if lists and they are right."""
    listed.require_self(lists, known)
    listed.require_sorted(known, slack)
    if given.farthest is None:
        return None
    farthest = _own_rows(listed.what, "farthest", items, given.farthest)
    return listed.largest(farthest, known, slack, items.query.factors)


def _own_rows(
    what: str, name: str, items: ShardedItems, values: Tensor | np.ndarray
) -> Tensor | np.ndarray:
    """Of what belongs to all queries and this process's gallery rows, its own items' part."""
    if not isinstance(values, np.ndarray):
        _checks.require_tensor(what, name, values)
    size = items.num_query + len(items.gallery)
    _checks.require(
        values.ndim > 0 and len(values) == size, what, name,
        f"have {size} rows, for all queries and this process's gallery rows", tuple(values.shape),
    )  # fmt: skip
    own = slice(*items.own_query)
    if isinstance(values, np.ndarray):
        return np.concatenate((values[own], values[items.num_query :]))
    return torch.cat((values[own], values[items.num_query :]))
