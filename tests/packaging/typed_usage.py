"""A user's script against the public names, for a type checker; nothing runs it.

`make types` checks it with the package, `make wheel-check` against the installed wheel. Each
`type: ignore` stands at a mistake that the checker has to find: an unused one is an error.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import vireid_fast
from vireid_fast import AttentionIndex, Extractor, FeatureSet, from_pretrained
from vireid_fast.losses import maximum_mean_discrepancy, weighted_regularized_triplet
from vireid_fast.nn import CrossModalAttention, PromptTextEncoder, TokenInjection
from vireid_fast.ops import KNN, Injected, RankStatistics, SparseRows, TokenNorm, TokenSource
from vireid_fast.retrieval import EvaluationResult, RerankedRows, re_ranking, rerank_top_k


def ops(features: Tensor, ids: Tensor) -> None:
    distances = vireid_fast.pairwise_distance(features, features, metric="cosine")
    assert_type(distances, Tensor)
    found = vireid_fast.knn(features, features, k=5)
    assert_type(found, KNN)
    assert_type(found.indices, Tensor)
    ranks = vireid_fast.rank_statistics(distances, ids, ids)
    assert_type(ranks, RankStatistics)
    vireid_fast.pairwise_distance(features, features, metric="manhattan")  # type: ignore[arg-type]
    vireid_fast.knn(features, features)  # type: ignore[call-arg]
    vireid_fast.knn(features, features, k=5, backend="cuda")  # type: ignore[arg-type]
    vireid_fast.nearest(features)  # type: ignore[attr-defined]


def attention(query: Tensor, stream: Tensor, context: Tensor, layer: nn.LayerNorm) -> None:
    index = AttentionIndex.cross([129, 163], [77, 12])
    assert_type(vireid_fast.cross_modal_attention(query, query, query, index), Tensor)
    sources = [TokenSource(context, 1, mode="insert")]
    assert_type(vireid_fast.inject_tokens(stream, sources), Tensor)
    norm = TokenNorm(layer.weight, layer.bias, layer.eps)
    assert_type(vireid_fast.inject_tokens(stream, sources, norm=norm), Injected)
    TokenSource(context, 1, mode="append")  # type: ignore[arg-type]


def retrieval(query: Tensor, gallery: Tensor, ids: Tensor, cameras: Tensor) -> None:
    assert_type(vireid_fast.rerank(query, gallery, k1=20, k2=6, lambda_value=0.3), Tensor)
    rows = RerankedRows(query, gallery)
    assert_type(rows.block(0, 1), Tensor)
    assert_type(re_ranking(query, gallery, 20, 6, 0.3), np.ndarray)
    rerank_top_k(query, gallery, 10)
    result = vireid_fast.evaluate(FeatureSet(query, ids, cameras), "sysu/agw")
    assert_type(result, EvaluationResult)
    vireid_fast.rerank(query, gallery, k1="20")  # type: ignore[arg-type]
    vireid_fast.evaluate(query, "sysu/agw")  # type: ignore[arg-type]


def features_of(files: Sequence[Path], run: Path) -> Tensor:
    extractor = Extractor.from_run(run, device="cuda")
    assert_type(from_pretrained(run), Extractor)
    extractor(files)  # type: ignore[call-arg]
    return extractor(files, modality="infrared")


def layers(clip: nn.Module, rows: SparseRows, visible: Tensor, infrared: Tensor) -> None:
    assert_type(PromptTextEncoder(clip).encode_tokens(visible), Tensor)
    layer = CrossModalAttention(768, 12, mode="cross")
    layer(visible, infrared, residual=(visible, infrared))
    CrossModalAttention(768, 12, mode="both")  # type: ignore[arg-type]
    TokenInjection(768, backend="triton")  # type: ignore[arg-type]
    print(vireid_fast.accelerate(clip), rows.crow.shape)
    weighted_regularized_triplet(visible, torch.arange(len(visible)))
    maximum_mean_discrepancy(visible, infrared)
