"""Galleries whose Q x G matrix nobody wants: re-ranked and evaluated by blocks of rows.

A tenth of the items are queries. The floor is the product of all items with all items in strips.
"""

from functools import partial
from typing import Any

import torch
from baselines.evaluators import sort_and_search
from retrieval_inputs import Labels, all_pairs_product, clustered, make_labels
from timing import Budget, Provider
from torch import Tensor

from cases.case import Case, Workload
from vireid_fast import rerank
from vireid_fast.retrieval.metrics import Metrics, metrics_from_ranks
from vireid_fast.retrieval.reranked_rows import RerankedRows
from vireid_fast.retrieval.streaming import streamed_rank_statistics

_PARAMETERS = (20, 6, 0.3)
_CAMERAS = ((1, 2, 3, 4, 5, 6), (2, 3, 4, 5, 6, 1))
# Up to here the whole matrix is made for the gate.
_GATE_ITEMS = 20_000


def _reranked_metrics(query: Tensor, gallery: Tensor, labels: Labels) -> Metrics:

    rows = RerankedRows(query, gallery, *_PARAMETERS)
    found = streamed_rank_statistics(rows, *labels, drop="same_group_and_id")
    return metrics_from_ranks(found, len(gallery), "image")


def _reranked(items: int, width: int, queries: int, device: torch.device) -> Workload:
    features = clustered(items, width).to(device)
    query, gallery = features[:queries], features[queries:]
    labels = make_labels(queries, items - queries, cameras=_CAMERAS).to(device)
    providers = [
        Provider("fused", "fused", partial(_reranked_metrics, query, gallery, labels)),
    ]
    if device.type == "cpu":
        floor = partial(all_pairs_product, features)
        name = "full N x N product in strips"
        providers.append(Provider(name, "floor", floor, once=items > _GATE_ITEMS))

    def check(outputs: dict[str, Any]) -> None:
        found: Metrics = outputs["fused"]
        # Cosines of 0.55 within an identity and near 0 elsewhere leave next to nothing unfound.
        assert found.valid_queries == queries and found.mAP > 0.99
        if items > _GATE_ITEMS:
            return
        matrix = rerank(query, gallery, *_PARAMETERS).cpu().numpy()
        curve, precision = sort_and_search(matrix, *(part.cpu().numpy() for part in labels))
        assert abs(found.mAP - precision) < 1e-6 and abs(found.R1 - curve[0]) < 1e-6

    return Workload(tuple(providers), check)


def _case(
    items: int, queries: int, *, width: int = 512, whole: float | None = None, device: str = "cpu",
    microseconds: float | None = None,
) -> Case:  # fmt: skip
    return Case(
        "large_galleries", "re-ranked mAP", f"{items} items",
        f"{queries} x {items - queries}, D {width}", partial(_reranked, items, width, queries),
        devices=(device,), graphs=False, slow=items > 5000,
        memory=("fused",) if device == "cpu" else (),
        budget=Budget(seconds=8.0, least_rounds=3 if items <= _GATE_ITEMS else 1),
        whole_megabytes=whole, microseconds=microseconds,
    )  # fmt: skip


CASES = (
    _case(2000, 200),
    _case(10_000, 1000),
    _case(20_000, 2000),
    _case(50_000, 5000),
    _case(100_000, 10_000, whole=2000),
    _case(1_010_000, 10_000, device="cuda", microseconds=30e6),
)
