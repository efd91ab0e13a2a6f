"""The published re-ranking, dense and in float64, and features to try it on."""

import numpy as np


def dense_oracle(
    query: np.ndarray, gallery: np.ndarray, k1: int, k2: int, lambda_value: float
) -> np.ndarray:
    """Zhong et al. with dense N x N matrices and Python sets, in float64."""
    features = np.concatenate([query, gallery]).astype(np.float64)
    squared = ((features[:, None] - features[None]) ** 2).sum(-1)
    return dense_oracle_of_squares(squared, len(query), k1, k2, lambda_value)


def dense_oracle_of_squares(
    squared: np.ndarray, count: int, k1: int, k2: int, lambda_value: float
) -> np.ndarray:
    """The same from squared distances (N, N), of which item i ranks by row i; `count` queries."""
    num_items = len(squared)
    normalised = squared / squared.max(axis=1, keepdims=True)
    order = np.argsort(normalised, axis=1, kind="stable").tolist()

    def reciprocal(item: int, length: int) -> set[int]:
        return {j for j in order[item][:length] if item in order[j][:length]}

    half = k1 // 2 + (1 if k1 % 4 == 3 else 0) + 1  # k1 / 2 rounded half to even, and the item
    encoded = np.zeros((num_items, num_items))
    for item in range(num_items):
        original = reciprocal(item, k1 + 1)
        members = set(original)
        for candidate in original:
            joining = reciprocal(candidate, half)
            if len(joining & original) > 2 / 3 * len(joining):
                members |= joining
        columns = sorted(members)
        weight = np.exp(-normalised[item, columns])
        encoded[item, columns] = weight / weight.sum()
    if k2 != 1:
        encoded = np.stack([encoded[order[item][:k2]].mean(0) for item in range(num_items)])
    overlap = np.minimum(encoded[:count, None], encoded[None, count:]).sum(-1)
    jaccard = 1 - overlap / (2 - overlap)
    return (1 - lambda_value) * jaccard + lambda_value * normalised[:count, count:]


def make_features(
    num_query: int, num_gallery: int, width: int, *, integer: bool = False, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Features of a few identities; small integers (many ties, exact sums) if asked for."""
    generator = np.random.default_rng(seed)
    total = num_query + num_gallery
    centre = generator.normal(size=(1 + total // 8, width))
    features = centre[generator.integers(len(centre), size=total)]
    features = features + 0.6 * generator.normal(size=(total, width))
    if integer:
        features = np.round(features)
    features = features.astype(np.float32)
    return features[:num_query], features[num_query:]


def euclidean(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    difference = x[:, None].astype(np.float64) - y[None]
    return np.sqrt((difference**2).sum(-1)).astype(np.float32)


def matrices(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, ...]:
    return euclidean(query, gallery), euclidean(query, query), euclidean(gallery, gallery)
