"""The public evaluators under their own names and signatures: change one import.

`eval_func` is that of CLIP-ReID and TransReID (damo-cv/TransReID@dec5504, utils/metrics.py);
`eval_sysu` and `eval_regdb` those of AGW (mangye16/Cross-Modal-Re-ID-baseline@e817a26,
eval_metrics.py); `eval_llcm` that of DEEN (ZYK100/LLCM@886e27c). The public code sorts every row;
here the ranks of the correct items are counted (`rank_statistics`).

The numbers are the public ones, those of mAP and mINP to the last bits of a float64 sum, with these
differences: ties go to the lower gallery index, where the public sort is not stable; where rankings
of different lengths make the public code fail, a short one keeps its last value; and a NaN among
the distances, or no query with a correct item, is a ValueError.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops import GalleryIndex, RankStatistics, rank_statistics
from vireid_fast.retrieval.arrays import from_numpy

Array = Tensor | np.ndarray
Ids = Tensor | np.ndarray | Sequence[int]
Drop = Literal["none", "same_group", "same_group_and_id"]

# Elements of the block of rows that is copied where a copy is needed: 64 MB in float32.
_BLOCK_ELEMENTS = 1 << 24
_PLAIN = (np.float32, np.float64)


def eval_func(
    distmat: Array,
    q_pids: Ids,
    g_pids: Ids,
    q_camids: Ids,
    g_camids: Ids,
    max_rank: int = 50,
) -> tuple[np.ndarray, np.float64]:
    """CMC and mAP by the protocol of Market-1501, as CLIP-ReID and TransReID compute them.

    Gallery items of the query's identity and camera are dropped; the CMC counts images.

    Args:
        distmat: Small is near. Shape (Q, G), numpy or torch, any real dtype, any strides, no NaN.
        q_pids: Identities of the queries. Shape (Q,), integers (whole floats too), numpy, torch or
            a sequence.
        g_pids: Identities of the gallery. Shape (G,), likewise.
        q_camids: Cameras of the queries. Shape (Q,), likewise.
        g_camids: Cameras of the gallery. Shape (G,), likewise.
        max_rank: Length of the curve, at least 1. Where the gallery is smaller the curve has G
            entries and a note is printed, as the public code does. It is shorter, too, where the
            longest ranking that is left after dropping is.

    Returns:
        cmc: float32, numpy: share of the valid queries whose first correct item is at rank r + 1
            or nearer. mAP: mean average precision of the valid queries.

    Deterministic. Memory: O(Q + G), and a block of rows where `distmat` is not contiguous or not
    float32 or float64.

    Raises:
        ValueError: A shape or device does not fit, a distance is NaN, or no query has a correct
            item. TypeError: A dtype does not fit. RuntimeError: `distmat` requires a gradient.
    """
    ranking = _Ranking("eval_func", distmat, q_pids, g_pids, max_rank)
    cameras = ranking.ids("q_camids", q_camids, 0), ranking.ids("g_camids", g_camids, 1)
    stats = ranking.statistics(*cameras, "same_group_and_id")
    dropped = _num_equal(ranking.query_ids, ranking.gallery_ids) - stats.num_positives
    longest = ranking.num_gallery - int(dropped[stats.num_positives > 0].min())
    return ranking.curve(stats.first_rank, stats, longest), _mean(stats.average_precision)


def eval_sysu(
    distmat: Array,
    q_pids: Ids,
    g_pids: Ids,
    q_camids: Ids,
    g_camids: Ids,
    max_rank: int = 20,
) -> tuple[np.ndarray, np.float64, np.float64]:
    """CMC, mAP and mINP of SYSU-MM01 as AGW computes them.

    For queries of camera 3 the gallery items of camera 2 are dropped, whatever their identity. The
    CMC counts distinct identities; its sum over all queries is divided by the valid ones (a query
    that is not valid adds nothing).

    Args:
        distmat: As for `eval_func`, like all further arguments.
        q_pids: See `eval_func`.
        g_pids: See `eval_func`.
        q_camids: See `eval_func`.
        g_camids: See `eval_func`.
        max_rank: See `eval_func`. The curve has at most as many entries as identities are left.

    Returns:
        cmc: float32, numpy. mAP and mINP: means over the valid queries.

    Deterministic. Memory: as for `eval_func`.

    Raises:
        ValueError: See `eval_func`. TypeError: See `eval_func`. RuntimeError: See `eval_func`.
    """
    ranking = _Ranking("eval_sysu", distmat, q_pids, g_pids, max_rank)
    drops = ranking.ids("q_camids", q_camids, 0) == 3
    dropped = ranking.ids("g_camids", g_camids, 1) == 2
    # Group 1 alone has queries that drop: the other queries are 0, the other gallery items 2.
    stats = ranking.statistics(drops.long(), torch.where(dropped, 1, 2), "same_group")
    left = ranking.gallery_ids[~dropped] if bool(drops.all()) else ranking.gallery_ids
    cmc = ranking.curve(stats.first_identity_rank, stats, left.unique().numel())
    return cmc, _mean(stats.average_precision), _mean(stats.inverse_negative_penalty)


def eval_llcm(
    distmat: Array,
    q_pids: Ids,
    g_pids: Ids,
    q_camids: Ids,
    g_camids: Ids,
    max_rank: int = 20,
) -> tuple[np.ndarray, np.float64, np.float64]:
    """CMC, mAP and mINP of LLCM as DEEN computes them.

    Gallery items of the query's identity and camera are dropped; the CMC counts distinct
    identities.

    Args:
        distmat: As for `eval_func`, like all further arguments.
        q_pids: See `eval_func`.
        g_pids: See `eval_func`.
        q_camids: See `eval_func`.
        g_camids: See `eval_func`.
        max_rank: See `eval_func`. The curve has at most as many entries as identities are left.

    Returns:
        cmc: float32, numpy. mAP and mINP: means over the valid queries.

    Deterministic. Memory: as for `eval_func`.

    Raises:
        ValueError: See `eval_func`. TypeError: See `eval_func`. RuntimeError: See `eval_func`.
    """
    ranking = _Ranking("eval_llcm", distmat, q_pids, g_pids, max_rank)
    cameras = ranking.ids("q_camids", q_camids, 0), ranking.ids("g_camids", g_camids, 1)
    stats = ranking.statistics(*cameras, "same_group_and_id")
    # A valid query keeps an item of its own identity, and with it every identity.
    longest = ranking.gallery_ids.unique().numel()
    cmc = ranking.curve(stats.first_identity_rank, stats, longest)
    return cmc, _mean(stats.average_precision), _mean(stats.inverse_negative_penalty)


def eval_regdb(
    distmat: Array, q_pids: Ids, g_pids: Ids, max_rank: int = 20
) -> tuple[np.ndarray, np.float64, np.float64]:
    """CMC, mAP and mINP of RegDB as AGW computes them: nothing is dropped, the CMC counts images.

    Args:
        distmat: As for `eval_func`, like all further arguments.
        q_pids: See `eval_func`.
        g_pids: See `eval_func`.
        max_rank: See `eval_func`.

    Returns:
        cmc: float32, numpy. mAP and mINP: means over the valid queries.

    Deterministic. Memory: as for `eval_func`.

    Raises:
        ValueError: See `eval_func`. TypeError: See `eval_func`. RuntimeError: See `eval_func`.
    """
    ranking = _Ranking("eval_regdb", distmat, q_pids, g_pids, max_rank)
    stats = ranking.statistics(None, None, "none")
    cmc = ranking.curve(stats.first_rank, stats, ranking.num_gallery)
    return cmc, _mean(stats.average_precision), _mean(stats.inverse_negative_penalty)


class _Ranking:
    """A distance matrix and the identities of its rows and columns, checked."""

    def __init__(self, what: str, distmat: Array, q_pids: Ids, g_pids: Ids, max_rank: int) -> None:
        self.what = what
        self.distmat = _require_matrix(what, distmat)
        self.num_query: int = distmat.shape[0]
        self.num_gallery: int = distmat.shape[1]
        self.query_ids = self.ids("q_pids", q_pids, 0)
        self.gallery_ids = self.ids("g_pids", g_pids, 1)
        self.max_rank = _checks.positive_int(what, "max_rank", max_rank)
        if self.num_gallery < self.max_rank:
            self.max_rank = self.num_gallery
            # What the public functions print, so that logs stay the same.
            print(f"Note: number of gallery samples is quite small, got {self.num_gallery}")  # noqa: T201

    def ids(self, name: str, value: Ids, axis: int) -> Tensor:
        """One label for each row (axis 0) or column (axis 1), int64, on the matrix's device."""
        if isinstance(value, Tensor):
            if isinstance(self.distmat, Tensor):
                _checks.require_same_device(self.what, distmat=self.distmat, **{name: value})
            value = value.detach().cpu().numpy()
        value = np.asarray(value)
        is_number = value.dtype.kind in "iufb"
        whole = value.astype(np.int64) if is_number else value
        _checks.require(
            is_number and np.array_equal(whole, value), self.what, name, "hold integers",
            f"{value.dtype} values", "Number the labels first.", TypeError,
        )  # fmt: skip
        labels = from_numpy(whole)
        _checks.require_shape(self.what, name, labels, (self.distmat.shape[axis],))
        return labels.to(self.distmat.device) if isinstance(self.distmat, Tensor) else labels

    def statistics(
        self, query_groups: Tensor | None, gallery_groups: Tensor | None, drop: Drop
    ) -> RankStatistics:
        """`rank_statistics` of all rows; at least one query is valid."""
        index = GalleryIndex.build(self.gallery_ids, gallery_groups)
        parts = []
        for begin, distances in self._blocks():
            rows = slice(begin, begin + distances.shape[0])
            groups = None if query_groups is None else query_groups[rows]
            parts.append(
                rank_statistics(
                    distances, self.query_ids[rows], index, groups, drop=drop, first_row=begin
                )
            )
        stats = RankStatistics(*(torch.cat(fields) for fields in zip(*parts, strict=True)))
        _checks.require(
            bool((stats.num_positives > 0).any()), self.what, "query",
            "hold at least one valid query",
            f"{self.num_query} queries without a correct gallery item",
            "Check that query and gallery share identities that are not dropped.",
        )  # fmt: skip
        return stats

    def curve(self, ranks: Tensor, stats: RankStatistics, longest: int) -> np.ndarray:
        """Share of the valid queries found up to each rank, float32."""
        length = min(self.max_rank, longest)
        found = ranks[stats.num_positives > 0]
        hits = torch.bincount(found, minlength=length)[:length].cumsum(0)
        return hits.cpu().numpy().astype(np.float32) / np.float32(found.numel())

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        """First row and rows of each block: all at once, but where they must be copied."""
        matrix = self.distmat
        if isinstance(matrix, np.ndarray):
            is_plain = matrix.flags.c_contiguous and matrix.dtype in _PLAIN
        else:
            is_plain = matrix.is_contiguous() and matrix.dtype in (torch.float32, torch.float64)
        if is_plain:
            yield 0, _as_distances(matrix)
            return
        size = max(1, _BLOCK_ELEMENTS // self.num_gallery)
        for begin in range(0, self.num_query, size):
            yield begin, _as_distances(matrix[begin : begin + size])


def _require_matrix(what: str, distmat: Array) -> Array:
    if isinstance(distmat, np.ndarray):
        fits = distmat.dtype.isnative and (
            distmat.dtype.kind in "iu" or distmat.dtype in (np.float16, *_PLAIN)
        )
    else:
        _checks.require_tensor(what, "distmat", distmat)
        fits = not distmat.is_complex() and distmat.dtype != torch.bool
    _checks.require(
        fits, what, "distmat", "hold real numbers", distmat.dtype, "Convert to float32.", TypeError
    )
    _checks.require(
        distmat.ndim == 2 and min(distmat.shape) > 0, what, "distmat",
        "have shape (Q, G) with at least one row and one column", tuple(distmat.shape),
    )  # fmt: skip
    return distmat


def _as_distances(block: Array) -> Tensor:
    """A block as float32 or float64, in which all its values are exact (integers to 2^53)."""
    if isinstance(block, np.ndarray):
        kind = np.float32 if block.dtype == np.float16 else np.float64
        return from_numpy(block if block.dtype in _PLAIN else block.astype(kind))
    if block.dtype in (torch.float16, torch.bfloat16):
        return block.float()
    return block if block.dtype == torch.float32 else block.double()


def _num_equal(ids: Tensor, others: Tensor) -> Tensor:
    """How many of `others` equal each of `ids`."""
    others = others.sort().values
    return torch.searchsorted(others, ids, right=True) - torch.searchsorted(others, ids)


def _mean(values: Tensor) -> np.float64:
    """Mean over the valid queries; the others are NaN."""
    array = values.cpu().numpy()
    return np.mean(array[~np.isnan(array)])
