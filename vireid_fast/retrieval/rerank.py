"""k-reciprocal re-ranking, exact and sparse: no N x N matrix unless the caller brings one.

Zhong, Zheng, Cao, Li: Re-ranking person re-identification with k-reciprocal encoding, CVPR 2017.
The published Python code is the model, with ties broken by the lower index.
"""

from torch import Tensor

from vireid_fast.ops import KNN, smallest_k
from vireid_fast.retrieval.arrays import as_float_tensors
from vireid_fast.retrieval.reciprocal_encoding import (
    EncodingParameters,
    encode,
    require_parameters,
)
from vireid_fast.retrieval.reranked_rows import (
    Array,
    RerankedRows,
    as_given,
    feature_distances,
    memory_of,
)
from vireid_fast.retrieval.squared_distances import MatrixDistances, SquaredDistances


def rerank(
    query_features: Array,
    gallery_features: Array,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    workspace: int | None = None,
) -> Array:
    """Re-ranked distances from features: (1 - lambda) Jaccard + lambda normalised distance.

    The distance is the squared Euclidean one, divided by its maximum over all N = Q + G items in
    the row of the query. Neighbours and weights follow from exact differences of the features; the
    second term from `centred_distance`, within a few eps of them.

    Args:
        query_features: Shape (Q, D), torch or numpy, of any strides, memory-mapped or not; float32,
            float64, or 16-bit (widened to float32). Of mixed dtypes the widest is taken.
        gallery_features: Shape (G, D), likewise; on the device of the queries.
        k1: Neighbours of the k-reciprocal sets, at least 1; lists clip at N.
        k2: Neighbours of the query expansion, at least 1; 1 means none; clips at N.
        lambda_value: Share of the original distance, in [0, 1].
        workspace: Bytes that blocks of distances may take besides output and O(N) state; default
            64 MB, or 64 rows of N distances. Where memory runs out, blocks become smaller, down to
            one row, and a warning says how small. The result does not depend on it.

    Returns:
        Distances of queries to gallery items, small is near. Shape (Q, G), the kind of
        `query_features`; float32, or float64 if an input is. NaN where all N items coincide, as
        published; a warning names the row.

    Not differentiable. Deterministic: bitwise the same for every workspace and thread count, and,
    on the CPU, instruction set. Memory: O(Q G) for the output and O(N (k1 + D)) besides.

    Raises:
        ValueError: A shape or range does not fit, a feature is NaN or infinite (names the row), two
            tensors live on different devices, or the workspace is too small (says what it needs).
        TypeError: A type or dtype does not fit.
        RuntimeError: The features require a gradient.
        OutOfMemoryError: There is no room for the output, the state, or a block of one row (says
            how much each takes). It is a MemoryError and a RuntimeError.
    """
    what = "rerank"
    parameters = require_parameters(what, k1, k2, lambda_value)
    with memory_of(what, query_features, gallery_features, parameters):
        distances = feature_distances(what, query_features, gallery_features, workspace)
        return as_given(_reranked(what, distances, parameters), query_features)


def rerank_distances(
    query_gallery: Array,
    query_query: Array,
    gallery_gallery: Array,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> Array:
    """Re-ranked distances from Euclidean distance matrices, as the published function takes them.

    The distances are squared here and, as published, rounded to float32. `query_gallery` serves
    both triangles.

    Args:
        query_gallery: Shape (Q, G), torch or numpy, floating point, finite, not negative.
        query_query: Shape (Q, Q).
        gallery_gallery: Shape (G, G).
        k1: See `rerank`, as k2 and lambda_value.
        k2: See `rerank`.
        lambda_value: See `rerank`.

    Returns:
        Distances of queries to gallery items. Shape (Q, G), float32, the kind of the input.

    Not differentiable. Deterministic. Memory: O(Q G) for the output, O(N k1) and the squares of
    one block of rows besides.

    Raises:
        ValueError: A shape or range does not fit, or a distance is NaN, infinite or negative.
        TypeError: A type or dtype does not fit.
        RuntimeError: A matrix requires a gradient.
    """
    what = "rerank_distances"
    parameters = require_parameters(what, k1, k2, lambda_value)
    with memory_of(what, query_query, gallery_gallery, parameters):
        blocks = as_float_tensors(
            what,
            query_gallery=query_gallery,
            query_query=query_query,
            gallery_gallery=gallery_gallery,
        )
        return as_given(_reranked(what, MatrixDistances(what, *blocks), parameters), query_gallery)


def rerank_top_k(
    query_features: Array,
    gallery_features: Array,
    k: int,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    workspace: int | None = None,
) -> KNN:
    """The k nearest gallery items of each query by re-ranked distance, without a Q x G matrix.

    Args:
        query_features: See `rerank`, as all arguments but k.
        gallery_features: See `rerank`.
        k: Length of the lists, at least 1; clips to G.
        k1: See `rerank`.
        k2: See `rerank`.
        lambda_value: See `rerank`.
        workspace: See `rerank`.

    Returns:
        Tensors: distances (Q, k), bitwise those of `rerank`, and indices (Q, k) int64 in (distance,
        index) order, NaN last; and the largest distance of each query (Q,).

    Not differentiable. Deterministic, as `rerank`. Memory: O(Q k + N (k1 + D)) and the workspace.

    Raises:
        ValueError: See `rerank`. TypeError: See `rerank`. RuntimeError: See `rerank`.
    """
    what = "rerank_top_k"
    parameters = require_parameters(what, k1, k2, lambda_value)
    with memory_of(what, query_features, gallery_features, parameters, columns=k):
        distances = feature_distances(what, query_features, gallery_features, workspace)
        encoding = encode(what, distances, parameters)
        return RerankedRows.of_encoding(distances, encoding, parameters).top_k(k)


def top_k_lists(distances: Array, k: int) -> KNN:
    """The k nearest gallery items of each query, ties by the lower index; NaN comes last.

    Args:
        distances: Shape (Q, G), torch or numpy, floating point.
        k: Length of the lists, at least 1; clips to G.

    Returns:
        Tensors: distances (Q, k) and indices (Q, k) int64 of the lists, and the row maxima (Q,).

    Raises:
        ValueError: A shape or range does not fit. TypeError: A type or dtype does not fit.
    """
    (matrix,) = as_float_tensors("top_k_lists", distances=distances)
    return smallest_k(matrix, k)


def _reranked(what: str, distances: SquaredDistances, parameters: EncodingParameters) -> Tensor:
    encoding = encode(what, distances, parameters)
    rows = RerankedRows.of_encoding(distances, encoding, parameters)
    return rows.block(0, rows.num_query)
