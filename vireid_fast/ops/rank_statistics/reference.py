"""Readable torch oracle of the rank statistics: one stable sort per query."""

import torch
from torch import Tensor


def rank_statistics(
    distances: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor,
    query_groups: Tensor,
    gallery_groups: Tensor,
    drop: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """First rank, first identity rank, AP, INP and number of positives of each query."""
    num_query = distances.shape[0]
    first_rank = query_ids.new_full((num_query,), -1)
    first_identity_rank = first_rank.clone()
    average_precision = distances.new_full((num_query,), torch.nan, dtype=torch.float64)
    inverse_negative_penalty = average_precision.clone()
    num_positives = torch.zeros_like(query_ids)
    for query in range(num_query):
        dropped = torch.zeros_like(gallery_ids, dtype=torch.bool)
        if drop > 0:
            dropped = gallery_groups == query_groups[query]
        if drop > 1:
            dropped = dropped & (gallery_ids == query_ids[query])
        order = distances[query].argsort(stable=True)
        ids = gallery_ids[order][~dropped[order]]
        ranks = (ids == query_ids[query]).nonzero().flatten()
        if ranks.numel() == 0:
            continue
        hits = torch.arange(1, ranks.numel() + 1, dtype=torch.float64, device=ids.device)
        first_rank[query] = ranks[0]
        first_identity_rank[query] = ids[: ranks[0]].unique().numel()
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
