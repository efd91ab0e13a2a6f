"""Readable torch oracle of the rank statistics: one stable sort per query."""

import torch
from torch import Tensor

# Elements of the (rows, G, D) difference tensor that one step may hold: 16 MB in float32.
_STEP_ELEMENTS = 1 << 22


def rank_statistics(
    distances: Tensor,
    query_identities: Tensor,
    query_groups: Tensor,
    identity_of: Tensor,
    identity_start: Tensor,
    identity_items: Tensor,
    group_of: Tensor,
    group_start: Tensor,
    group_items: Tensor,
    columns: Tensor | None,
    drop: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """First rank, first identity rank, AP, INP and number of positives of each query.

    The number is -1 for a query with a distance that is NaN. The lists of items are not read.
    """
    num_query = distances.shape[0]
    first_rank = query_identities.new_full((num_query,), -1)
    first_identity_rank = first_rank.clone()
    average_precision = distances.new_full((num_query,), torch.nan, dtype=torch.float64)
    inverse_negative_penalty = average_precision.clone()
    num_positives = torch.zeros_like(query_identities)
    for query in range(num_query):
        row = distances[query] if columns is None else distances[query, columns]
        if bool(row.isnan().any()):
            num_positives[query] = -1
            continue
        dropped = torch.zeros_like(identity_of, dtype=torch.bool)
        if drop > 0:
            dropped = group_of == query_groups[query]
        if drop > 1:
            dropped = dropped & (identity_of == query_identities[query])
        order = row.argsort(stable=True)
        identities = identity_of[order][~dropped[order]]
        ranks = (identities == query_identities[query]).nonzero().flatten()
        if ranks.numel() == 0:
            continue
        hits = torch.arange(1, ranks.numel() + 1, dtype=torch.float64, device=row.device)
        first_rank[query] = ranks[0]
        first_identity_rank[query] = identities[: ranks[0]].unique().numel()
        average_precision[query] = (hits / (ranks + 1)).mean()
        inverse_negative_penalty[query] = ranks.numel() / (ranks[-1] + 1).double()
        num_positives[query] = ranks.numel()
    return (
        first_rank,
        first_identity_rank,
        average_precision,
        inverse_negative_penalty,
        num_positives,
    )


def feature_rank_statistics(
    query: Tensor,
    gallery: Tensor,
    query_identities: Tensor,
    query_groups: Tensor,
    identity_of: Tensor,
    identity_start: Tensor,
    identity_items: Tensor,
    group_of: Tensor,
    group_start: Tensor,
    group_items: Tensor,
    metric: int,
    offset: float,
    drop: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`rank_statistics` of metric 0 Euclidean, 1 squared Euclidean, 2 -dot, plus offset."""
    index = (identity_of, identity_start, identity_items, group_of, group_start, group_items)
    step = max(1, _STEP_ELEMENTS // max(1, gallery.numel()))
    parts = []
    # An empty query still yields one empty block.
    for rows, identities, groups in zip(
        query.split(step), query_identities.split(step), query_groups.split(step), strict=True
    ):
        distances = _distances(rows, gallery, metric) + offset
        parts.append(rank_statistics(distances, identities, groups, *index, None, drop))
    first, identity, precision, penalty, positives = (
        torch.cat(part) for part in zip(*parts, strict=True)
    )
    return first, identity, precision, penalty, positives


def _distances(rows: Tensor, gallery: Tensor, metric: int) -> Tensor:
    if metric == 2:
        return -(rows @ gallery.T)
    distances = (rows[:, None] - gallery).square().sum(-1)
    return distances.sqrt() if metric == 0 else distances


def wide_rank_statistics(
    query: Tensor,
    gallery: Tensor,
    query_identities: Tensor,
    query_groups: Tensor,
    identity_of: Tensor,
    identity_start: Tensor,
    identity_items: Tensor,
    group_of: Tensor,
    group_start: Tensor,
    group_items: Tensor,
    query_lengths: Tensor,
    gallery_lengths: Tensor,
    metric: int,
    drop: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`feature_rank_statistics` in float64; metric 3 is the cosine of rows with these lengths."""
    index = (identity_of, identity_start, identity_items, group_of, group_start, group_items)
    sides = _wide(query, query_lengths, metric), _wide(gallery, gallery_lengths, metric)
    code, offset = (2, 1.0) if metric == 3 else (metric, 0.0)
    return feature_rank_statistics(
        *sides, query_identities, query_groups, *index, code, offset, drop
    )


def ranking_distances(
    query: Tensor,
    gallery: Tensor,
    query_identities: Tensor,
    identity_start: Tensor,
    identity_items: Tensor,
    query_lengths: Tensor,
    gallery_lengths: Tensor,
    metric: int,
) -> Tensor:
    """All distances in float64."""
    rows, items = _wide(query, query_lengths, metric), _wide(gallery, gallery_lengths, metric)
    if metric == 3:
        return 1 + _distances(rows, items, 2)
    step = max(1, _STEP_ELEMENTS // max(1, gallery.numel()))
    return torch.cat([_distances(part, items, metric) for part in rows.split(step)])


def _wide(features: Tensor, lengths: Tensor, metric: int) -> Tensor:
    if metric != 3:
        return features.double()
    return features.double() / torch.where(lengths > 0, lengths, 1)[:, None]
