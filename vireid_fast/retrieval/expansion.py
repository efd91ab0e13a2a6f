"""Query expansion and database augmentation: features averaged with their nearest gallery items.

Chum et al., ICCV 2007 (average query expansion); Arandjelovic and Zisserman, CVPR 2012 (the same
for the database); Radenovic, Tolias, Chum, TPAMI 2019 (weights similarity^alpha).

All three L2-normalise what they are given and what they return. The nearest items are those of the
op `knn` on the normalised rows, in (distance, index) order, so that no Q x G matrix exists. A row
of zeros has no direction: it stays zero, and weighs nothing where it is somebody's neighbour.
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vireid_fast import _checks
from vireid_fast.ops import knn, pairwise_distance
from vireid_fast.retrieval.arrays import as_float_tensors

Array = TypeVar("Array", Tensor, np.ndarray)

# Elements of the rows that are gathered at a time: 16 MB in float32.
_BLOCK_ELEMENTS = 1 << 22
# Fewer than torch gives to a second thread, and a multiple of any vector's length.
_POWER_ELEMENTS = 4096


def average_query_expansion(query: Array, gallery: Array, k: int) -> Array:
    """Queries averaged with their nearest gallery items: q' = unit(q + sum_{i <= k} g_i).

    Args:
        query: Features. Shape (Q, D), torch or numpy; float32, float64, or 16-bit (computed and
            returned in float32). Rows are L2-normalised here. Of mixed dtypes the widest is taken.
        gallery: Features. Shape (G, D), G >= 1, likewise.
        k: Gallery items averaged with each query, nearest first, at least 1; clips to G. The
            average is over k + 1 features: "top-n including the query" is n = k + 1.

    Returns:
        Expanded queries, L2-normalised. Shape (Q, D), the kind of `query`. A row whose sum is zero
        stays zero.

    Not differentiable. Deterministic: the bits depend on neither thread count nor blocking, and a
    row not on the other queries. Memory: O((Q + G) D), no Q x G matrix.

    Raises:
        ValueError: A shape, range or device does not fit, or a value is NaN or infinite (names the
            row). TypeError: A type or dtype does not fit. RuntimeError: An input requires a
            gradient.
    """
    return _expanded_queries("average_query_expansion", query, gallery, k, 0)


def alpha_query_expansion(query: Array, gallery: Array, k: int, alpha: float = 3.0) -> Array:
    """Queries averaged by similarity: q' = unit(q + sum_{i <= k} max(q . g_i, 0)^alpha g_i).

    Radenovic et al., TPAMI 2019. The query's own weight is 1; alpha = 0 gives
    `average_query_expansion` in every bit.

    Args:
        query: As for `average_query_expansion`.
        gallery: As for `average_query_expansion`.
        k: As for `average_query_expansion`.
        alpha: Exponent of the cosine similarity, at least 0 and finite.

    Returns:
        As `average_query_expansion`, with the same guarantees.

    Raises:
        ValueError: See `average_query_expansion`; or alpha is out of range.
        TypeError: See `average_query_expansion`; or alpha is no number.
        RuntimeError: See `average_query_expansion`.
    """
    what = "alpha_query_expansion"
    return _expanded_queries(what, query, gallery, k, _exponent(what, alpha))


def database_augmentation(gallery: Array, k: int, alpha: float = 0.0) -> Array:
    """Gallery items averaged with their nearest others: g' = unit(g + sum_{i <= k} w_i g_i).

    w_i = max(g . g_i, 0)^alpha; every w_i is 1 for alpha = 0, the plain average of Arandjelovic and
    Zisserman, CVPR 2012. The neighbours of an item are the k nearest other rows: it is not its own
    neighbour, but a duplicate of it is. All rows are read as they were before the augmentation.

    Args:
        gallery: Features. Shape (G, D), G >= 1, as for `average_query_expansion`.
        k: Other items averaged with each, nearest first, at least 1; clips to G - 1.
        alpha: Exponent of the cosine similarity, at least 0 and finite.

    Returns:
        Augmented gallery, L2-normalised. Shape (G, D), with the guarantees of
        `average_query_expansion`. A single item is only normalised.

    Raises:
        ValueError: A shape, range or device does not fit, or a value is NaN or infinite (names the
            row). TypeError: A type or dtype does not fit. RuntimeError: The input requires a
            gradient.
    """
    what = "database_augmentation"
    (tensor,) = as_float_tensors(what, gallery=gallery)
    _require_features(what, "gallery", tensor, "D")
    _checks.require(
        tensor.shape[0] > 0, what, "gallery", "have at least one row", tuple(tensor.shape)
    )
    k = _checks.positive_int(what, "k", k)
    alpha = _exponent(what, alpha)
    rows = _unit(tensor)
    found = knn(rows, rows, k + 1)
    distances, indices = _without_self(found.distances, found.indices)
    return _as_given(_expand(rows, rows, distances, indices, alpha), gallery)


def _expanded_queries(what: str, query: Array, gallery: Array, k: int, alpha: float) -> Array:
    queries, items = as_float_tensors(what, query=query, gallery=gallery)
    _require_features(what, "query", queries, "D")
    _require_features(what, "gallery", items, queries.shape[1])
    _checks.require(
        items.shape[0] > 0, what, "gallery", "have at least one row", tuple(items.shape)
    )
    k = _checks.positive_int(what, "k", k)
    queries, items = _unit(queries), _unit(items)
    found = knn(queries, items, k)
    return _as_given(_expand(queries, items, found.distances, found.indices, alpha), query)


def _expand(
    rows: Tensor, items: Tensor, distances: Tensor, indices: Tensor, alpha: float
) -> Tensor:
    """unit(row + its weighted items), added in the order of the lists."""
    weights = _weights(rows, items, distances, indices, alpha)
    out = torch.empty_like(rows)
    block = max(1, _BLOCK_ELEMENTS // max(1, rows.shape[1]))
    for begin in range(0, rows.shape[0], block):
        part = slice(begin, begin + block)
        total = rows[part].clone()
        for index, weight in zip(indices[part].T, weights[part].T, strict=True):
            # Multiplied, then added: a fused pair would round differently at the ends of vectors.
            total += items[index] * weight[:, None]
        out[part] = _unit(total)
    return out


def _weights(
    rows: Tensor, items: Tensor, distances: Tensor, indices: Tensor, alpha: float
) -> Tensor:
    """max(cosine, 0)^alpha of each list entry; 0 where either row is zero."""
    # |x - y|^2 = 2 - 2 x . y for unit rows.
    cosine = (1 - distances / 2).clamp(min=0)
    pointed = rows.any(1)[:, None] & items.any(1)[indices]
    return torch.where(pointed, _power(cosine, alpha), 0)


def _power(base: Tensor, exponent: float) -> Tensor:
    """base ** exponent, each element by itself.

    torch ends a run that does not fill the vector unit with another function, whose last bit
    differs. Runs of one full length keep the bits independent of the other elements and of threads.
    """
    flat = base.flatten()
    padded = functional.pad(flat, (0, -flat.shape[0] % _POWER_ELEMENTS), value=1.0)
    powers = torch.cat([run.pow(exponent) for run in padded.split(_POWER_ELEMENTS)])
    return powers[: flat.shape[0]].view_as(base)


def _unit(features: Tensor) -> Tensor:
    """Rows divided by their lengths, zero rows as they are; huge and subnormal rows included."""
    # Squares neither overflow nor vanish once the largest entry of each row is 1.
    largest = features.abs().amax(1, keepdim=True)
    scaled = features / torch.where(largest > 0, largest, 1)
    length = pairwise_distance(scaled, scaled.new_zeros(1, scaled.shape[1]))
    return scaled / torch.where(length > 0, length, 1)


def _without_self(distances: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Lists of the other rows: row i leaves its own list, or the farthest entry does.

    A row with enough earlier duplicates may be missing from its own list; all others still stand.
    """
    num_items, length = indices.shape
    own = indices == torch.arange(num_items, device=indices.device)[:, None]
    own[:, -1] |= ~own.any(1)
    return distances[~own].view(num_items, length - 1), indices[~own].view(num_items, length - 1)


def _require_features(what: str, name: str, features: Tensor, width: int | str) -> None:
    _checks.require_shape(what, name, features, ("Q" if name == "query" else "G", width))
    _checks.require(
        features.shape[1] > 0, what, name, "have at least one column", tuple(features.shape)
    )
    _checks.require_finite(what, name, features)


def _exponent(what: str, alpha: float) -> float:
    _checks.require_number(what, "alpha", alpha)
    _checks.require(0 <= alpha < float("inf"), what, "alpha", "be finite and at least 0", alpha)
    return float(alpha)


def _as_given(result: Tensor, given: Array) -> Array:
    return result.cpu().numpy() if isinstance(given, np.ndarray) else result
