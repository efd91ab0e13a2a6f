"""Exact nearest neighbours as one finds them without the package.

Each returns distances, or inner products, and the indices of the k nearest, nearest first, both of
shape (Q, k).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

# Rows of the query whose distances are in memory at a time: 80 MB at 20000 columns.
_BLOCK = 1024


def torch_top_k(query: Tensor, database: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Squared distances by one GEMM a block of rows, and `topk`."""
    norms = database.square().sum(1)
    parts = [
        torch.addmm(rows.square().sum(1, keepdim=True) + norms, rows, database.T, alpha=-2)
        .topk(k, largest=False)
        for rows in query.split(_BLOCK)
    ]  # fmt: skip
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def numpy_top_k(query: np.ndarray, database: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances by one GEMM a block of rows, and `argpartition`."""
    norms = np.square(database).sum(1)
    parts = []
    for begin in range(0, len(query), _BLOCK):
        rows = query[begin : begin + _BLOCK]
        squared = rows @ database.T
        squared *= -2
        squared += norms
        squared += np.square(rows).sum(1)[:, None]
        parts.append(_smallest(squared, k))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def scipy_top_k(query: np.ndarray, database: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances by differences (`cdist`), and `argpartition`."""
    from scipy.spatial.distance import cdist

    parts = [
        _smallest(cdist(query[begin : begin + _BLOCK], database, "sqeuclidean"), k)
        for begin in range(0, len(query), _BLOCK)
    ]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def faiss_index(database: np.ndarray, kind: str) -> Any:
    """A flat index, "IndexFlatIP" or "IndexFlatL2", on as many threads as torch has.

    Raises:
        ImportError: faiss is not installed.
    """
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = getattr(faiss, kind)(database.shape[1])
    index.add(database)
    return index


def _smallest(distances: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    indices = np.argpartition(distances, k - 1, axis=1)[:, :k]
    found = np.take_along_axis(distances, indices, 1)
    order = np.argsort(found, axis=1)
    return np.take_along_axis(found, order, 1), np.take_along_axis(indices, order, 1)
