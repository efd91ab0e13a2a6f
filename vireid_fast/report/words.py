"""Conditions of a result in words, for the terminal and for pages."""

from vireid_fast.retrieval.protocols import get_protocol
from vireid_fast.retrieval.results import EvaluationResult


def mode(result: EvaluationResult) -> str:
    """Who queries whom, and what the mode does that its name does not say."""
    if not result.mode:
        return "given query and gallery"
    return f"mode {result.mode}{executed(result)}"


def executed(result: EvaluationResult) -> str:
    """What a mode does that its name does not say; empty for most."""
    if result.mode and get_protocol(result.protocol).modes[result.mode].swapped:
        return " (as executed: the drawn images query)"
    return ""


def sizes(result: EvaluationResult) -> list[str]:
    """How many queries count, and how large the gallery is."""
    return [
        f"{span(result.valid_queries)} of {span(result.total_queries)} queries valid",
        f"gallery {span(result.gallery_size)}",
    ]


def runs(result: EvaluationResult) -> list[str]:
    """How many runs, which splits, how many trials."""
    total = get_protocol(result.protocol).splits
    return [
        *([f"{result.runs} runs"] if result.runs > 1 else []),
        *([_splits(result, total)] if total else []),
        f"{len(result.trials)} trial{'s' if len(result.trials) > 1 else ''}",
    ]


def features(result: EvaluationResult) -> str:
    """How the features were made."""
    made = ", ".join(f"{name} {words}" for name, words in result.processing.items())
    return f"features: {made or 'processing not stated'}"


def reranking(result: EvaluationResult) -> str:
    """Parameters of re-ranking, or "none"."""
    if result.rerank is None:
        return "none"
    k1, k2, weight = result.rerank
    return f"({k1}, {k2}, {weight:g})"


def span(count: int | list[int]) -> str:
    """A number, or the range of one that differs between trials."""
    return str(count) if isinstance(count, int) else f"{min(count)} to {max(count)}"


def _splits(result: EvaluationResult, total: int) -> str:
    """Which of the data set's numbered splits the models belong to."""
    named = ", ".join(map(str, result.splits)) or "unknown"
    return f"split{'s' if len(result.splits) > 1 else ''} {named} of {total}"
