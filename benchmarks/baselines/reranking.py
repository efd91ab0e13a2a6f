"""k-reciprocal re-ranking with N x N matrices, in the steps and the memory layout of its authors.

Zhong, Zheng, Cao, Li: Re-ranking person re-identification with k-reciprocal encoding, CVPR 2017;
zhunzhong07/person-re-ranking@278f2c7 and the copies of it in fast-reid and torchreid. Written anew;
what its time and memory hang on is kept: the transpose, which makes the distances and, through
`zeros_like`, both weight matrices column-major; the full sort of every row; one Python loop an
item; `intersect1d` for each candidate.
"""

import numpy as np


def dense_rerank(
    query: np.ndarray,
    gallery: np.ndarray,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> np.ndarray:
    """Re-ranked distances from features.

    The lists come from numpy's default sort; features without equal distances need no rule for
    ties.

    Args:
        query: Shape (Q, D), float32.
        gallery: Shape (G, D), float32.
        k1: Neighbours of the reciprocal sets.
        k2: Neighbours of the query expansion.
        lambda_value: Share of the original distance.

    Returns:
        Shape (Q, G), float32.
    """
    across, own = _euclidean(query, gallery), [_euclidean(side, side) for side in (query, gallery)]
    for block in own:
        np.fill_diagonal(block, 0)
    return _from_distances(across, *own, k1, k2, lambda_value)


def _from_distances(
    query_gallery: np.ndarray,
    query_query: np.ndarray,
    gallery_gallery: np.ndarray,
    k1: int,
    k2: int,
    lambda_value: float,
) -> np.ndarray:
    top = np.concatenate([query_query, query_gallery], axis=1)
    bottom = np.concatenate([query_gallery.T, gallery_gallery], axis=1)
    original = np.concatenate([top, bottom], axis=0)
    del top, bottom
    original = np.power(original, 2).astype(np.float32)
    # Each column by its maximum. Shape (N, N), column-major from here on.
    original = np.transpose(1.0 * original / np.max(original, axis=0))
    weights = np.zeros_like(original).astype(np.float32)
    ranks = np.argsort(original).astype(np.int32)
    _fill_reciprocal_weights(weights, original, ranks, k1)
    original = original[: len(query_query)]
    if k2 != 1:
        weights = _expanded(weights, ranks, k2)
    del ranks
    jaccard = _jaccard(weights, original)
    final = jaccard * (1 - lambda_value) + original * lambda_value
    return final[:, len(query_query) :]


def _euclidean(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squared = x @ y.T
    squared *= -2
    squared += np.square(x).sum(1)[:, None]
    squared += np.square(y).sum(1)
    return np.sqrt(np.maximum(squared, 0, out=squared), out=squared)


def _reciprocal(ranks: np.ndarray, item: int, length: int) -> np.ndarray:
    """Items of the first `length` that have `item` among their own first `length`."""
    forward = ranks[item, :length]
    backward = ranks[forward, :length]
    return forward[np.where(backward == item)[0]]


def _fill_reciprocal_weights(
    weights: np.ndarray, original: np.ndarray, ranks: np.ndarray, k1: int
) -> None:
    half = int(np.around(k1 / 2.0)) + 1
    for item in range(len(original)):
        members = _reciprocal(ranks, item, k1 + 1)
        expanded = members
        for candidate in members:
            its_own = _reciprocal(ranks, candidate, half)
            if len(np.intersect1d(its_own, members)) > 2.0 / 3 * len(its_own):
                expanded = np.append(expanded, its_own)
        expanded = np.unique(expanded)
        raw = np.exp(-original[item, expanded])
        weights[item, expanded] = raw / np.sum(raw)


def _expanded(weights: np.ndarray, ranks: np.ndarray, k2: int) -> np.ndarray:
    """Mean of the weights of the first k2 of each list."""
    means = np.zeros_like(weights)
    for item in range(len(weights)):
        means[item, :] = np.mean(weights[ranks[item, :k2], :], axis=0)
    return means


def _jaccard(weights: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Jaccard distances of the queries to all items, by an index of who holds each item."""
    holders = [np.where(weights[:, item] != 0)[0] for item in range(len(weights))]
    jaccard = np.zeros_like(original)
    for query in range(len(original)):
        shared = np.zeros((1, len(weights)), dtype=np.float32)
        for item in np.where(weights[query, :] != 0)[0]:
            rows = holders[item]
            least = np.minimum(weights[query, item], weights[rows, item])
            shared[0, rows] = shared[0, rows] + least
        jaccard[query] = 1 - shared / (2.0 - shared)
    return jaccard
