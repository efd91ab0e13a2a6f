"""Peers of the retrieval ops: what one would write in numpy or torch."""

import numpy as np
import torch
from torch import Tensor

Statistics = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def matmul_top_k(query: Tensor, database: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Squared distances by one GEMM and `topk`: values and indices, each (Q, k)."""
    norms = query.square().sum(1, keepdim=True) + database.square().sum(1)
    return torch.addmm(norms, query, database.T, alpha=-2).topk(k, largest=False)


def rank_statistics_loop(
    distances: np.ndarray,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_groups: np.ndarray,
    gallery_groups: np.ndarray,
    drop_group: bool,
) -> Statistics:
    """The five arrays of `rank_statistics` by one numpy sort per query."""
    num_query = len(distances)
    first_rank = np.full(num_query, -1)
    first_identity_rank = np.full(num_query, -1)
    average_precision = np.full(num_query, np.nan)
    inverse_negative_penalty = np.full(num_query, np.nan)
    num_positives = np.zeros(num_query, dtype=np.int64)
    for query, row in enumerate(distances):
        order = np.argsort(row, kind="stable")
        if drop_group:
            order = order[gallery_groups[order] != query_groups[query]]
        ids = gallery_ids[order]
        ranks = np.flatnonzero(ids == query_ids[query])
        if not len(ranks):
            continue
        first_rank[query] = ranks[0]
        first_identity_rank[query] = len(np.unique(ids[: ranks[0]]))
        average_precision[query] = np.mean(np.arange(1, len(ranks) + 1) / (ranks + 1))
        inverse_negative_penalty[query] = len(ranks) / (ranks[-1] + 1)
        num_positives[query] = len(ranks)
    return (
        first_rank,
        first_identity_rank,
        average_precision,
        inverse_negative_penalty,
        num_positives,
    )


def dense_rerank(
    query: np.ndarray, gallery: np.ndarray, k1: int, k2: int, lambda_value: float
) -> np.ndarray:
    """k-reciprocal re-ranking with N x N matrices, as Zhong et al. (CVPR 2017) published it.

    The lists come from numpy's default sort, which is the quick one; features without equal
    distances need no rule for ties.

    Args:
        query: Shape (Q, D), float32 or float64.
        gallery: Shape (G, D), dtype of `query`.
        k1: Neighbours of the reciprocal sets.
        k2: Neighbours of the query expansion.
        lambda_value: Share of the original distance.

    Returns:
        Shape (Q, G), dtype of `query`.
    """
    features = np.concatenate([query, gallery])
    norms = np.square(features).sum(1)
    squared = np.maximum(norms[:, None] + norms - 2 * features @ features.T, 0)
    np.fill_diagonal(squared, 0)
    normalised = (squared / squared.max(0)).T
    lists = np.argsort(normalised, axis=1)

    weights = np.zeros_like(normalised)
    for item in range(len(features)):
        members = _expanded_set(lists, item, k1)
        raw = np.exp(-normalised[item, members])
        weights[item, members] = raw / raw.sum()
    if k2 > 1:
        weights = np.stack([weights[row[:k2]].mean(0) for row in lists])
    jaccard = _jaccard(weights, len(query))
    original = normalised[: len(query), len(query) :]
    return (1 - lambda_value) * jaccard + lambda_value * original


def _reciprocal_set(lists: np.ndarray, item: int, length: int) -> np.ndarray:
    """Items of the first `length` that have `item` among their own first `length`."""
    forward = lists[item, :length]
    return forward[(lists[forward, :length] == item).any(1)]


def _expanded_set(lists: np.ndarray, item: int, k1: int) -> np.ndarray:
    members = _reciprocal_set(lists, item, k1 + 1)
    parts = [members]
    for candidate in members:
        half = _reciprocal_set(lists, candidate, round(k1 / 2) + 1)
        if 3 * np.isin(half, members).sum() > 2 * len(half):
            parts.append(half)
    return np.unique(np.concatenate(parts))


def _jaccard(weights: np.ndarray, num_query: int) -> np.ndarray:
    gallery = weights[num_query:]
    holders = [np.flatnonzero(column) for column in gallery.T]
    shared = np.zeros((num_query, len(gallery)), dtype=weights.dtype)
    for query in range(num_query):
        for item in np.flatnonzero(weights[query]):
            rows = holders[item]
            shared[query, rows] += np.minimum(weights[query, item], gallery[rows, item])
    return 1 - shared / (2 - shared)
