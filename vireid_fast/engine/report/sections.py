"""The parts of a report that features and results give, whoever made them."""

from collections.abc import Mapping
from typing import Any

import torch

from vireid_fast.engine.report.curves import cmc_curve, precision_recall_curve
from vireid_fast.engine.report.feature_map import feature_map
from vireid_fast.engine.report.histograms import distance_histograms
from vireid_fast.engine.report.judged import Judged, ranks_by_result
from vireid_fast.engine.report.ranked import Partners, ranked_queries
from vireid_fast.engine.report.shelf import Shelf, unreadable_note
from vireid_fast.report.content import Curve
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.protocol import Metric
from vireid_fast.retrieval.results import EvaluationResult
from vireid_fast.retrieval.right_ranks import RightRanks
from vireid_fast.retrieval.searches import Search, Setting


@torch.no_grad()
def sections(
    judged: Judged,
    results: Mapping[str, EvaluationResult],
    shelves: tuple[Shelf, Shelf],
    *,
    metric: Metric,
    setting: Setting,
    map_method: str,
    queries: int,
) -> tuple[dict[str, Any], tuple[Partners, ...]]:
    """Curves, histograms, map, ranked lists and notes, as keyword arguments of `Report`.

    Args:
        judged: What was evaluated.
        results: Results by name; empty where no query is valid.
        shelves: Items of the query set and of the gallery set.
        metric: The distance that ranks.
        setting: Whose queries and galleries histograms and map show.
        map_method: See `feature_map`.
        queries: Ranked queries of each kind.

    Returns:
        The arguments, and pairs of a query and its nearest right item.
    """
    (search,) = judged.searches([setting])
    shown = _shown(judged, search)
    found: dict[str, Any] = {
        "histograms": distance_histograms(shown, *judged.sides(search), metric),
        "feature_map": feature_map(shown, metric, map_method),
    }
    if not results:
        return found | {"notes": ()}, ()
    curves, first = _curves(judged, results)
    ranked, partners = ranked_queries(judged, results, first, shelves, queries)
    return found | {
        "cmc": tuple(cmc_curve(name, result) for name, result in results.items()),
        "precision_recall": curves,
        "ranked": ranked,
        "notes": unreadable_note(shelves),
    }, partners


def _curves(
    judged: Judged, results: Mapping[str, EvaluationResult]
) -> tuple[tuple[Curve, ...], dict[str, RightRanks]]:
    """Precision-recall curves in the order of the results, and the ranks of the first trials."""
    curves: dict[str, Curve] = {}
    first: dict[str, RightRanks] = {}
    for name, trials in ranks_by_result(judged, results):
        curves[name] = precision_recall_curve(name, trials)
        first[name] = trials[0]
    return tuple(curves[name] for name in results), first


def _shown(judged: Judged, search: Search) -> FeatureSet:
    """Every row that queries or stands in a gallery of the search, once."""
    if not judged.paired:
        return judged.query.ascending(torch.cat([search.query, search.gallery]).unique())
    query, gallery = judged.sides(search)
    dtype = torch.promote_types(query.features.dtype, gallery.features.dtype)
    modality = None
    if query.modality is not None and gallery.modality is not None:
        modality = torch.cat([query.modality, gallery.modality])
    return FeatureSet(
        torch.cat([query.features.to(dtype), gallery.features.to(dtype)]),
        torch.cat([query.person_ids, gallery.person_ids]),
        torch.cat([query.camera_ids, gallery.camera_ids]),
        modality,
    )
