"""A map of the features in two dimensions."""

from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F

from vireid_fast._checks import require, require_choice
from vireid_fast.report.content import FeatureMap
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.protocol import Metric

METHODS = ("pca", "tsne")
MAX_POINTS = 2000
_SEED = 0
_PERPLEXITY = 30


def feature_map(
    features: FeatureSet, metric: Metric, method: str = "pca", *, points: int = MAX_POINTS
) -> FeatureMap:
    """Project features, normalised for the cosine, to the plane.

    Args:
        features: Rows to show, at least one.
        metric: The distance that ranks.
        method: "pca": the two directions of largest variance, each with its largest entry positive.
            "tsne": t-distributed stochastic neighbour embedding of scikit-learn, from a fixed seed.
        points: More rows than this are thinned, evenly by identity and modality.

    Returns:
        The map, the same for the same features.

    Raises:
        ValueError: The method is unknown. RuntimeError: scikit-learn is not installed.
    """
    require_map(method)
    total, note = len(features), ""
    if total > points:
        features = features.subset(torch.from_numpy(_thinned(features, points)))
        note = f"{points:,} of {total:,} rows, taken evenly by identity and modality."
    values = features.features.double()
    if metric == "cosine":
        values = F.normalize(values)
    place, words = (_pca if method == "pca" else _tsne)(values.numpy())
    unknown = torch.full_like(features.person_ids, -1)
    modality = unknown if features.modality is None else features.modality
    people, cameras = features.person_ids.numpy(), features.camera_ids.numpy()
    return FeatureMap(words, place, people, modality.numpy(), cameras, note)


def require_map(method: str) -> None:
    """Refuse, before anything is computed, a map that could not be made.

    Raises:
        ValueError: The method is unknown. RuntimeError: scikit-learn is not installed.
    """
    require_choice("report", "map", method, METHODS)
    require(
        method != "tsne" or find_spec("sklearn") is not None, "report", "map",
        "be pca where scikit-learn is not installed", "'tsne'",
        'Install it with pip install "vireid_fast[tsne]", or use the map pca.', RuntimeError,
    )  # fmt: skip


def _thinned(features: FeatureSet, points: int) -> np.ndarray:
    """Ascending rows: first one of each identity and modality, then a second one, ..."""
    ids = features.person_ids.numpy()
    modality = np.zeros_like(ids) if features.modality is None else features.modality.numpy()
    shuffled = np.random.default_rng(_SEED).permutation(len(ids))
    # Equal identities and modalities side by side, in a random order.
    order = shuffled[np.lexsort((modality[shuffled], ids[shuffled]))]
    new = np.ones(len(ids), bool)
    new[1:] = (np.diff(ids[order]) != 0) | (np.diff(modality[order]) != 0)
    places = np.arange(len(ids))
    turn = np.empty_like(places)
    turn[order] = places - np.maximum.accumulate(np.where(new, places, 0))
    first = shuffled[np.argsort(turn[shuffled], kind="stable")]
    return np.sort(first[:points])


def _pca(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Coordinates (n, 2) and words; the smaller of both covariance matrices is decomposed."""
    from scipy.linalg import eigh

    centred = values - values.mean(axis=0)
    total = float((centred**2).sum())
    rows, width = centred.shape
    found = np.zeros((rows, 2))
    if total > 0:
        gram = centred @ centred.T if rows < width else centred.T @ centred
        # The last two alone: all of them take three times as long.
        last = len(gram) - 1
        variances, vectors = eigh(gram, subset_by_index=[max(0, last - 1), last])
        kept = [n for n in (-1, -2) if n >= -len(variances) and variances[n] > 1e-12 * total]
        for axis, n in enumerate(kept):
            direction = centred.T @ vectors[:, n] if rows < width else vectors[:, n]
            direction = direction / np.linalg.norm(direction)
            direction *= np.sign(direction[np.abs(direction).argmax()])
            found[:, axis] = centred @ direction
    share = (found**2).sum() / total if total > 0 else 1.0
    return found, f"PCA: the two directions of largest variance hold {share:.0%} of it"


def _tsne(values: np.ndarray) -> tuple[np.ndarray, str]:
    from sklearn.manifold import TSNE

    require(len(values) > 3, "report", "map", "be pca for fewer than 4 rows", "'tsne'")
    perplexity = min(_PERPLEXITY, (len(values) - 1) / 3)
    embedding = TSNE(perplexity=perplexity, init="pca", random_state=_SEED)
    words = f"t-SNE of scikit-learn, perplexity {perplexity:g}, seed {_SEED}"
    return embedding.fit_transform(values).astype(np.float64), words
