"""Metrics of a given gallery whose rows several processes share."""

import torch
from torch.nn import functional

from vireid_fast._collectives import group_rank, group_size
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.metrics import Metrics
from vireid_fast.retrieval.protocol import Metric, Protocol
from vireid_fast.retrieval.results import RerankParameters
from vireid_fast.retrieval.sharded import evaluate_sharded


def score_sharded(
    rules: Protocol,
    query: FeatureSet,
    gallery: FeatureSet,
    metric: Metric,
    parameters: RerankParameters | None,
) -> Metrics:
    """What `score` finds for the whole gallery, by all processes of the default group.

    Args:
        rules: The protocol.
        query: All queries, in each process.
        gallery: All gallery rows, in each process, which works on its equal part of them.
        metric: Distance between features, in float64.
        parameters: Of re-ranking, whose distances replace those; None without.

    Returns:
        The metrics, in each process.

    Raises:
        ValueError: No query has a correct item, or a distance is NaN.
    """
    rank, size = group_rank(), group_size()
    bounds = [len(gallery) * number // size for number in (rank, rank + 1)]
    shard = gallery.subset(torch.arange(*bounds, device=gallery.person_ids.device))
    first, second = query.features.double(), shard.features.double()
    if parameters is not None and metric == "cosine":
        first, second = functional.normalize(first), functional.normalize(second)
    return evaluate_sharded(
        first, second, query.person_ids, shard.person_ids, query.camera_ids, shard.camera_ids,
        rules.name, metric=metric, rerank=parameters,
    )  # fmt: skip
