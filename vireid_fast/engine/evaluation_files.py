"""Evaluation and re-ranking of feature files from any model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vireid_fast._checks import require, require_choice
from vireid_fast._files import atomic_write
from vireid_fast.config import EvaluationConfig
from vireid_fast.data.feature_files import (
    PROCESSING_PREFIX,
    SPLIT_NOTE,
    UNKNOWN_PERSON,
    read_features,
    read_metadata,
)
from vireid_fast.data.permutations import read_permutations
from vireid_fast.engine.distributed import World
from vireid_fast.engine.progress import Advance, progress_bar
from vireid_fast.retrieval.evaluation import EvaluationResult, evaluate_pair, evaluate_settings
from vireid_fast.retrieval.feature_set import FeatureSet, feature_set_from_arrays
from vireid_fast.retrieval.protocol import Metric
from vireid_fast.retrieval.protocols import default_modes, protocol_modes
from vireid_fast.retrieval.rerank import rerank, rerank_top_k

EACH = "each"
"""As a mode: every mode of the protocol."""

COMPARED = ("method", "checkpoint", "normalisation", SPLIT_NOTE)
"""Notes that, beside the processing, two files to be compared must have in common, where both have
them: features of two models have nothing to do with each other."""


def read_feature_set(path: Path) -> FeatureSet:
    """A feature file as a checked feature set."""
    return feature_set_from_arrays(read_features(path), str(path))


def read_identified(path: Path) -> FeatureSet:
    """A feature file to evaluate: somebody in it is known.

    Raises:
        ValueError: It holds nobody who is known, as features of a folder of images do.
    """
    features = read_feature_set(path)
    require(
        not len(features) or bool((features.person_ids != UNKNOWN_PERSON).any()),
        f"eval: {path}", "person_ids", "tell who is shown", f"{UNKNOWN_PERSON} in every row",
        "Without identities nothing can be right or wrong; use vireid search.",
    )  # fmt: skip
    return features


def processing_notes(processing: Mapping[str, str], split: int | None = None) -> dict[str, str]:
    """Metadata of a feature file that says how its features were made.

    Args:
        processing: In words by name, as of `EvaluationResult`.
        split: Number of the data set's split that the model was trained on, where it has several.
    """
    notes = {f"{PROCESSING_PREFIX}{name}": words for name, words in processing.items()}
    return notes if split is None else {**notes, SPLIT_NOTE: str(split)}


def read_processing(*paths: Path) -> tuple[dict[str, str], int | None]:
    """How the features of one or several files were made, and the split of their model.

    Returns:
        What the metadata state: processing in words by name, and the split or None.

    Raises:
        ValueError: Two files contradict each other, or a split is no number.
    """
    stated = require_made_alike({str(path): read_metadata(path) for path in paths})
    split = stated.get(SPLIT_NOTE)
    require(
        split is None or split.isdecimal(), str(paths[0]), f"metadata {SPLIT_NOTE!r}",
        "be a whole number", repr(split),
    )  # fmt: skip
    made = {name.removeprefix(PROCESSING_PREFIX): words for name, words in stated.items()
            if name.startswith(PROCESSING_PREFIX)}  # fmt: skip
    return made, None if split is None else int(split)


def require_made_alike(notes: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Refuse features of different models or processing.

    Args:
        notes: File or other source -> its metadata.

    Returns:
        The notes that were compared, of all sources together.

    Raises:
        ValueError: Two sources contradict each other.
    """
    stated: dict[str, str] = {}
    first: dict[str, str] = {}
    for source, own in notes.items():
        for name, words in own.items():
            if name not in COMPARED and not name.startswith(PROCESSING_PREFIX):
                continue
            require(
                stated.setdefault(name, words) == words, source, f"metadata {name!r}",
                f"be {stated[name]!r} as in {first.get(name)}", repr(words),
                "Compare features that were made alike.",
            )  # fmt: skip
            first.setdefault(name, source)
    return stated


def override_settings(
    own: EvaluationConfig,
    protocol: str | None,
    mode: str | None,
    shots: int | Sequence[int] | None,
) -> tuple[str, str | None, Any]:
    """Protocol, mode and shots of a run where options do not say else.

    Under a protocol of another data set the run's mode and shots mean nothing: None.
    """
    chosen = protocol or own.protocol
    if chosen.partition("/")[0] != own.protocol.partition("/")[0]:
        return chosen, mode, shots
    return chosen, mode or own.mode, own.shots if shots is None else shots


def parse_rerank(text: str, what: str = "eval") -> tuple[int, int, float]:
    """(k1, k2, lambda) from an option's text.

    Args:
        text: Three numbers with commas.
        what: The command, for the error.

    Raises:
        ValueError: The text is not of the form k1,k2,lambda.
    """
    try:
        k1, k2, weight = text.split(",")
        return int(k1), int(k2), float(weight)
    except ValueError:
        raise ValueError(
            f"{what}: --rerank must be k1,k2,lambda, got {text!r}. For example --rerank 20,6,0.3"
        ) from None


def evaluate_files(
    query: Path | None,
    gallery: Path | None,
    features: Path | None,
    *,
    protocol: str,
    mode: str | None,
    shots: int | Sequence[int] | None,
    permutations: Path | None,
    metric: Metric | None,
    rerank: tuple[int, int, float] | None,
) -> dict[str, EvaluationResult]:
    """Evaluate a query and a gallery file, or take both from one file.

    Args:
        query: Feature file of the queries, with `gallery`.
        gallery: Feature file of the gallery.
        features: Feature file to take both from.
        protocol: Name of the protocol.
        mode: Mode of the protocol, several separated by commas, or "each"; None: its usual ones
            (`default_modes`).
        shots: As of `evaluate`, one number or several; None: 1.
        permutations: `rand_perm_cam.mat`, for sysu/official.
        metric: As of `evaluate`.
        rerank: As of `evaluate`.

    Returns:
        The result called "plain" or "reranked"; of several modes, each under the mode's name; of
        several numbers of shots, as in "all, 10-shot".

    Raises:
        ValueError: Neither or both ways are given, an option does not belong to the way, a list
            holds a value twice or an empty one, or see `retrieval.evaluation`.
    """
    pair = query is not None and gallery is not None
    require(
        pair != (features is not None) and (query is None) == (gallery is None),
        "eval", "source", "be --query with --gallery, or --features, or --run",
        f"--query {query}, --gallery {gallery}, --features {features}",
    )  # fmt: skip
    name = "plain" if rerank is None else "reranked"
    with progress_bar("evaluating") as advance:
        if query is not None and gallery is not None:
            for option, value in (("--mode", mode), ("--shots", shots)):
                require(
                    value is None, "eval", option, "be left out with --query and --gallery",
                    ",".join(map(str, value)) if isinstance(value, tuple) else value,
                )  # fmt: skip
            result = _evaluate_pair(query, gallery, protocol, metric, rerank, advance)
            return {name: result}
        assert features is not None
        orders = None if permutations is None else read_permutations(permutations)
        processing, split = read_processing(features)
        numbers = (1,) if shots is None else shots if isinstance(shots, Sequence) else (shots,)
        results = evaluate_settings(
            read_identified(features), protocol, requested_modes(protocol, mode), numbers,
            permutations=orders, metric=metric, rerank=rerank, processing=processing, split=split,
            progress=advance,
        )  # fmt: skip
    if len(results) == 1:
        (result,) = results.values()
        return {name: result}
    if len(numbers) == 1:
        return {setting.mode: result for setting, result in results.items()}
    return {f"{mode}, {count}-shot": result for (mode, count), result in results.items()}


def _evaluate_pair(
    query: Path, gallery: Path, protocol: str, metric: Metric | None,
    rerank: tuple[int, int, float] | None, progress: Advance,
) -> EvaluationResult:  # fmt: skip
    """Of two files; processes that torchrun started share the gallery."""
    with World.from_environment() as world:
        processing, split = read_processing(query, gallery)
        return evaluate_pair(
            read_identified(query), read_identified(gallery), protocol, metric=metric,
            rerank=rerank, processing=processing, split=split, progress=progress,
            shared=world.size > 1,
        )  # fmt: skip


def requested_modes(protocol: str, mode: str | None) -> tuple[str, ...]:
    """The modes that an option names: several by commas, "each", or None for the usual ones."""
    if mode is None:
        return default_modes(protocol)
    if mode == EACH:
        return protocol_modes(protocol)
    return tuple(part.strip() for part in mode.split(","))


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
    first, second = (read_feature_set(path).features for path in (query, gallery))
    widths = [first.shape[1], second.shape[1]]
    require(
        widths[0] == widths[1], "rerank", f"{gallery}",
        f"have features of width {widths[0]} like {query}", widths[1],
        "Extract both with one model.",
    )  # fmt: skip
    dtype = torch.promote_types(first.dtype, second.dtype)
    first, second = first.to(dtype), second.to(dtype)
    if metric == "cosine":
        first, second = F.normalize(first.float()), F.normalize(second.float())
    arrays: dict[str, Any]
    if top_k is None:
        arrays = {"distances": rerank(first, second, k1, k2, lambda_value).numpy()}
    else:
        nearest = rerank_top_k(first, second, top_k, k1, k2, lambda_value)
        arrays = {"distances": nearest.distances.numpy(), "indices": nearest.indices.numpy()}
    with atomic_write(out) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    return arrays["distances"].shape
