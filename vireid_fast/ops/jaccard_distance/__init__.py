"""Sparse k-reciprocal rows to Jaccard and to re-ranked distances."""

from vireid_fast.ops.jaccard_distance.api import (
    InvertedRows,
    blend_jaccard,
    invert_rows,
    jaccard_distance,
)

__all__ = ["InvertedRows", "blend_jaccard", "invert_rows", "jaccard_distance"]
