"""Positions of each label: the host kernel where it is built, NumPy otherwise."""

import numpy as np

from vireid_fast._extension import host


def segment_plan(labels: np.ndarray, segments: int) -> tuple[np.ndarray, np.ndarray]:
    """Stable sort of positions by label.

    Args:
        labels: Numbers in [0, segments). Shape (n,), int64.
        segments: Number of labels.

    Returns:
        order (n,) and offsets (segments + 1,), both int64; the positions of label s are
        order[offsets[s] : offsets[s + 1]], ascending.

    Raises:
        ValueError: A label is out of range.
    """
    labels = np.ascontiguousarray(labels, np.int64)
    if host is not None:
        return host.segment_plan(labels, segments)
    if labels.size and (labels.min() < 0 or labels.max() >= segments):
        raise ValueError(
            f"segment_plan: labels must be in [0, {segments}), got {labels.min()}..{labels.max()}."
        )
    counts = np.bincount(labels, minlength=segments)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    return np.argsort(labels, kind="stable").astype(np.int64, copy=False), offsets
