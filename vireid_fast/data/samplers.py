"""Identity-balanced sampling of aligned visible and infrared images."""

from collections.abc import Iterator

import numpy as np

from vireid_fast._checks import require
from vireid_fast.data.grouping import segment_plan
from vireid_fast.data.table import name_some


def relabel(person_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number identities from 0.

    Args:
        person_ids: Identities as on disk. Shape (n,).

    Returns:
        labels in 0..C-1, shape (n,), and the ascending identities, shape (C,), both int64;
        ids[labels] equals `person_ids`.
    """
    ids, labels = np.unique(np.asarray(person_ids, np.int64), return_inverse=True)
    return labels.reshape(-1).astype(np.int64), ids


class IdentitySampler:
    """Batches of P identities with K visible and K infrared images each (AGW, CSDN).

    The identities of a batch differ. Positions n of both index lists show the same identity, K in
    a row. Every batch is a pure function of (seed, epoch, number of the batch), so a resumed run
    draws what an uninterrupted one would have drawn.

    Args:
        visible_labels: Label of each visible image, 0..C-1. Shape (N_V,).
        infrared_labels: Label of each infrared image, 0..C-1. Shape (N_R,).
        identities_per_batch: P.
        instances: K.
        seed: Seed of all draws, at least 0.
        replace: Draw the K images of an identity with replacement, as published. False draws
            distinct images from identities that have at least K.

    Raises:
        ValueError: Fewer than P identities, an identity with one modality only, or a number out
            of range.
    """

    def __init__(
        self,
        visible_labels: np.ndarray,
        infrared_labels: np.ndarray,
        identities_per_batch: int,
        instances: int,
        seed: int,
        *,
        replace: bool = True,
    ):
        what = "IdentitySampler"
        require(instances >= 1, what, "instances", "be at least 1", instances)
        require(
            identities_per_batch >= 1,
            what, "identities_per_batch", "be at least 1", identities_per_batch,
        )  # fmt: skip
        require(seed >= 0, what, "seed", "be at least 0", seed)
        visible = np.asarray(visible_labels, np.int64)
        infrared = np.asarray(infrared_labels, np.int64)
        self.identities = _common_labels(visible, infrared)
        require(
            len(self.identities) >= identities_per_batch,
            what, "identities_per_batch", f"be at most the {len(self.identities)} identities",
            identities_per_batch, "Lower it or add identities.",
        )  # fmt: skip
        self.identities_per_batch = identities_per_batch
        self.instances = instances
        self.seed = seed
        self.replace = replace
        segments = int(self.identities[-1]) + 1
        self._visible = segment_plan(visible, segments)
        self._infrared = segment_plan(infrared, segments)
        batch = identities_per_batch * instances
        self._batches = max(len(visible), len(infrared)) // batch + 1

    def __len__(self) -> int:
        """Batches of an epoch: floor(max(N_V, N_R) / (P K)) + 1."""
        return self._batches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draw the batches of one epoch.

        Args:
            epoch: Number of the epoch, at least 0.
            start: First batch to draw; a run that stopped inside an epoch goes on from there.

        Yields:
            (visible_indices, infrared_indices), positions in the label arrays. Shape (P K,) each,
            int64.
        """
        for batch in range(start, self._batches):
            generator = np.random.default_rng((self.seed, epoch, batch))
            identities = generator.choice(self.identities, self.identities_per_batch, replace=False)
            yield (
                self._draw(generator, *self._visible, identities),
                self._draw(generator, *self._infrared, identities),
            )

    def aligned_pairs(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """All batches of an epoch in one list: aligned, identity-balanced V / R pairs.

        CSDN's first stage extracts the features of exactly such a list: some images are in it
        repeatedly, some not at all.

        Returns:
            visible and infrared positions. Shape (len(self) P K,) each, int64.
        """
        visible, infrared = zip(*self.epoch(epoch), strict=True)
        return np.concatenate(visible), np.concatenate(infrared)

    def _draw(
        self,
        generator: np.random.Generator,
        order: np.ndarray,
        offsets: np.ndarray,
        identities: np.ndarray,
    ) -> np.ndarray:
        first = offsets[identities][:, None]
        counts = offsets[identities + 1][:, None] - first
        picks = generator.integers(0, counts, (len(identities), self.instances))
        if not self.replace:
            for row, count in enumerate(counts[:, 0]):
                if count >= self.instances:
                    picks[row] = generator.choice(count, self.instances, replace=False)
        return order[(first + picks).reshape(-1)]


def _common_labels(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Ascending labels, all of which both modalities must have."""
    require(
        visible.size > 0 and infrared.size > 0,
        "IdentitySampler", "labels", "hold visible and infrared images",
        f"{visible.size} visible and {infrared.size} infrared",
    )  # fmt: skip
    lowest = min(visible.min(), infrared.min())
    require(lowest >= 0, "IdentitySampler", "labels", "be at least 0", lowest)
    alone = np.setxor1d(visible, infrared)
    require(
        alone.size == 0,
        "IdentitySampler", "labels", "have images of both modalities",
        f"one modality only for {name_some(alone)}", "Exclude these identities.",
    )  # fmt: skip
    return np.unique(visible)
