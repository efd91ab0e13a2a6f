"""Evaluation and re-ranking of feature files from any model."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from vireid_fast._checks import require, require_choice
from vireid_fast._files import atomic_write
from vireid_fast.data.feature_files import read_features
from vireid_fast.data.permutations import read_permutations
from vireid_fast.engine.progress import progress_bar
from vireid_fast.ops import smallest_k
from vireid_fast.retrieval.evaluation import EvaluationResult, evaluate, evaluate_pair
from vireid_fast.retrieval.feature_set import FeatureSet, feature_set_from_arrays
from vireid_fast.retrieval.rerank import rerank


def read_feature_set(path: Path) -> FeatureSet:
    """A feature file as a checked feature set."""
    return feature_set_from_arrays(read_features(path), str(path))


def evaluate_files(
    query: Path | None,
    gallery: Path | None,
    features: Path | None,
    *,
    protocol: str,
    mode: str,
    shots: int,
    permutations: Path | None,
    metric: str | None,
    rerank: tuple[int, int, float] | None,
) -> EvaluationResult:
    """Evaluate a query and a gallery file, or draw both from one file.

    Raises:
        ValueError: Neither or both ways are given, or see `retrieval.evaluation`.
    """
    pair = query is not None and gallery is not None
    require(
        pair != (features is not None) and (query is None) == (gallery is None),
        "eval", "source", "be --query with --gallery, or --features, or --run",
        f"--query {query}, --gallery {gallery}, --features {features}",
    )  # fmt: skip
    with progress_bar("evaluating") as advance:
        if features is not None:
            orders = None if permutations is None else read_permutations(permutations)
            return evaluate(
                read_feature_set(features), protocol, mode, shots,
                permutations=orders, metric=metric, rerank=rerank, progress=advance,
            )  # fmt: skip
        return evaluate_pair(
            read_feature_set(query), read_feature_set(gallery), protocol,
            metric=metric, rerank=rerank, progress=advance,
        )  # fmt: skip


def results_json(results: Mapping[str, EvaluationResult]) -> str:
    """The first result's keys at the top level, each further result under its name."""
    first, *others = results.items()
    values = first[1].to_json() | {name: result.to_json() for name, result in others}
    return json.dumps(values, indent=1) + "\n"


def rerank_files(
    query: Path, gallery: Path, out: Path, *,
    k1: int, k2: int, lambda_value: float, top_k: int | None, metric: str,
) -> tuple[int, ...]:  # fmt: skip
    """Re-rank and write `distances` (Q, G), or `distances` and `indices` (Q, K).

    Returns:
        Shape of what was written.
    """
    require(out.suffix == ".npz", "rerank", "--out", "end in .npz", out)
    require_choice("rerank", "--metric", metric, ("euclidean", "cosine"))
    require(not out.is_dir(), "rerank", "--out", "be a file", f"the folder {out}")
    require(top_k is None or top_k > 0, "rerank", "--top-k", "be positive", top_k)
    features = [read_feature_set(path).features for path in (query, gallery)]
    widths = [f.shape[1] for f in features]
    require(
        widths[0] == widths[1], "rerank", f"{gallery}",
        f"have features of width {widths[0]} like {query}", widths[1],
        "Extract both with one model.",
    )  # fmt: skip
    dtype = torch.promote_types(*(f.dtype for f in features))
    features = [f.to(dtype) for f in features]
    if metric == "cosine":
        features = [F.normalize(f.float()) for f in features]
    distances = rerank(*features, k1, k2, lambda_value)
    arrays = {"distances": distances.numpy()}
    if top_k is not None:
        nearest = smallest_k(distances, top_k)
        arrays = {"distances": nearest.distances.numpy(), "indices": nearest.indices.numpy()}
    with atomic_write(out) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    return arrays["distances"].shape
