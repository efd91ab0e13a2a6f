"""Rank statistics in a stream: blocks of distances are counted and forgotten, nothing is sorted."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops import GalleryIndex, RankStatistics, feature_rank_statistics, rank_statistics
from vireid_fast.ops.rank_statistics import DropRule
from vireid_fast.retrieval.distance_rows import DistanceRows, FeatureRows
from vireid_fast.retrieval.workspace import Workspace

WORKSPACE = 1 << 26
"""Bytes of a block of distances unless the caller says else: 64 MB."""

# Queries that are counted in tiles with one call: enough for full tiles on many threads.
_TILED_QUERIES = 1024


def streamed_rank_statistics(
    rows: DistanceRows,
    query_ids: Tensor,
    gallery_ids: Tensor | GalleryIndex,
    query_groups: Tensor | None = None,
    gallery_groups: Tensor | None = None,
    *,
    drop: DropRule = "none",
    workspace: int = WORKSPACE,
) -> RankStatistics:
    """`rank_statistics` of distances that never exist as a whole.

    Features are counted in the tiles in which their distances are computed
    (`feature_rank_statistics`); everything else is asked for in blocks of rows that fit the
    workspace.

    Args:
        rows: Q x G distances: `FeatureRows`, `MatrixRows`, `RerankedRows`, or any other.
        query_ids: See `rank_statistics`, as all label arguments. Shape (Q,), int64.
        gallery_ids: Shape (G,), int64, or the index of the gallery.
        query_groups: Shape (Q,), int64.
        gallery_groups: Shape (G,), int64.
        drop: See `rank_statistics`.
        workspace: Bytes that a block of distances may take, at least one row. Where memory runs
            out, blocks become smaller, and a warning says how small.

    Returns:
        The statistics, the same bits for every workspace.

    Not differentiable. Deterministic. Memory: the workspace (what `rows` needs to make a block
    comes on top), and O(Q + G) for labels and results.

    Raises:
        ValueError: The workspace is too small (says what is needed), a shape does not fit, a group
            is missing, or a distance is NaN (names the query).
        TypeError: `rows` is no `DistanceRows`, or a dtype does not fit.
    """
    what = "streamed_rank_statistics"
    require_rows(what, rows)
    block = rows_per_block(what, rows, workspace)
    index = _index(what, gallery_ids, gallery_groups, drop)
    _checks.require_shape(what, "query_ids", query_ids, (rows.num_query,))
    if query_groups is not None:
        _checks.require_shape(what, "query_groups", query_groups, (rows.num_query,))

    def count(begin: int, end: int) -> RankStatistics:
        groups = None if query_groups is None else query_groups[begin:end]
        return block_statistics(rows, begin, query_ids[begin:end], index, groups, drop)

    if rows.num_query == 0:
        return count(0, 0)
    fitting = Workspace(block_size(rows, block), row_bytes(rows), what)
    return joined(fitting.over(0, rows.num_query, count))


def block_statistics(
    rows: DistanceRows,
    begin: int,
    query_ids: Tensor,
    index: GalleryIndex,
    query_groups: Tensor | None,
    drop: DropRule,
) -> RankStatistics:
    """Rank statistics of the block of queries from `begin` on whose labels are given."""
    end = begin + len(query_ids)
    labels = (query_ids, index, query_groups)
    if isinstance(rows, FeatureRows):
        metric = "unit_cosine" if rows.metric == "cosine" else rows.metric
        return feature_rank_statistics(
            rows.query[begin:end], rows.gallery, *labels, metric=metric, drop=drop, first_row=begin
        )
    return rank_statistics(rows.block(begin, end), *labels, drop=drop, first_row=begin)


def _index(
    what: str,
    gallery_ids: Tensor | GalleryIndex,
    gallery_groups: Tensor | None,
    drop: DropRule,
) -> GalleryIndex:
    if isinstance(gallery_ids, GalleryIndex):
        _checks.require(
            gallery_groups is None, what, "gallery_groups", "be None with an index of the gallery",
            "a value", "Give them to GalleryIndex.build.",
        )  # fmt: skip
        return gallery_ids
    if drop == "none":
        return GalleryIndex.build(gallery_ids)
    _checks.require(
        gallery_groups is not None, what, "gallery_groups", f'be given for drop="{drop}"', None,
        "Pass the camera or place of each item.",
    )  # fmt: skip
    return GalleryIndex.build(gallery_ids, gallery_groups)


def joined(parts: Sequence[RankStatistics]) -> RankStatistics:
    """Statistics of consecutive blocks of queries as one."""
    return RankStatistics(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def blocks_of(num_query: int, block: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of the blocks of queries; one empty block for no query."""
    for begin in range(0, max(num_query, 1), block):
        yield begin, min(begin + block, num_query)


def require_rows(what: str, rows: DistanceRows) -> None:
    """Raise TypeError unless `rows` follows the protocol `DistanceRows`."""
    _checks.require(
        isinstance(rows, DistanceRows), what, "rows",
        "have num_query, num_gallery, dtype, device and block(begin, end)", type(rows).__name__,
        "Wrap features in FeatureRows, a matrix in MatrixRows.", TypeError,
    )  # fmt: skip


def block_size(rows: DistanceRows, fitting: int) -> int:
    """Queries of a block, where distances of `fitting` queries fit the workspace."""
    return max(fitting, _TILED_QUERIES) if isinstance(rows, FeatureRows) else fitting


def row_bytes(rows: DistanceRows) -> int:
    """Bytes of the distances of one query."""
    return max(1, rows.num_gallery * rows.dtype.itemsize)


def rows_per_block(what: str, rows: DistanceRows, workspace: int) -> int:
    """Rows of distances that fit a workspace in bytes.

    Raises:
        ValueError: Not one does. TypeError: The workspace is no integer.
    """
    workspace = _checks.positive_int(what, "workspace", workspace)
    needed = row_bytes(rows)
    _checks.require(
        workspace >= needed, what, "workspace",
        f"be at least {needed} bytes, one row of {rows.num_gallery} distances", workspace,
    )  # fmt: skip
    return workspace // needed
