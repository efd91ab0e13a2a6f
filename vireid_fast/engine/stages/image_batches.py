"""Augmented, identity-balanced batches of the image methods."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vireid_fast.data.draws import Draws
from vireid_fast.data.table import INFRARED, VISIBLE
from vireid_fast.data.views import infrared_view, visible_exchange_view, visible_view
from vireid_fast.engine.runtime import Runtime
from vireid_fast.engine.seeds import derive_seed, generator
from vireid_fast.engine.stages.plan import identity_sampler
from vireid_fast.engine.training_data import TrainingImages, build_augmentation


@dataclass(frozen=True)
class ViewBatch:
    """Views of aligned visible and infrared images, those of this process.

    Attributes:
        visible: First visible view. Shape (b, 3, H, W).
        exchanged: Second view of the same visible images. Shape (b, 3, H, W).
        infrared: Shape (b, 3, H, W); image i has the identity of visible image i.
        labels: Labels of the whole batch, of all processes. Shape (B,), int64.
        progress: Part of the stage that is over, in [0, 1).
    """

    visible: Tensor
    exchanged: Tensor
    infrared: Tensor
    labels: Tensor
    progress: float


class ImageBatches:
    """P identities x K instances of each modality, a pure function of (seed, place, epoch).

    Several processes share a batch: each takes its part of the identities and makes the views that
    one process alone would make of them.

    Args:
        images: Training images.
        runtime: The run.
        place: Names the draws, usually the stage.
        epochs: Epochs of the stage.
    """

    def __init__(self, images: TrainingImages, runtime: Runtime, place: str, epochs: int) -> None:
        config = runtime.config
        self._images = images
        self._runtime = runtime
        self._place = place
        self._epochs = epochs
        self._augmentation = build_augmentation(config.augment)
        self._sampler = identity_sampler(
            images.labels, config.sampler, derive_seed(config.seed, place)
        )
        self._own = runtime.world.identity_slice(
            config.sampler.identities, config.sampler.instances
        )

    def __len__(self) -> int:
        return len(self._sampler)

    def epoch(self, epoch: int) -> Iterator[ViewBatch]:
        """Batches of one epoch."""
        device, own = self._runtime.device, self._own
        for index, (visible, infrared) in enumerate(self._sampler.epoch(epoch)):
            place = generator(self._runtime.seed, self._place, epoch, index, device=device)
            rows = torch.arange(own.start, own.stop)
            draws = Draws(place, len(visible), None if len(rows) == len(visible) else rows)
            v = self._images.images(VISIBLE, visible[own]).to(device)
            r = self._images.images(INFRARED, infrared[own]).to(device)
            yield ViewBatch(
                visible_view(v, self._augmentation, draws),
                visible_exchange_view(v, self._augmentation, draws),
                infrared_view(r, self._augmentation, draws),
                self._images.label_tensor(VISIBLE, visible).to(device),
                (epoch + index / len(self)) / self._epochs,
            )

    def describe(self, batch: ViewBatch) -> str:
        """The identities of a batch, as numbered in the data set, for an error."""
        return describe_identities(self._images.identities, batch.labels)


def describe_identities(identities: np.ndarray, labels: Tensor) -> str:
    """ "identities 3, 17, 20" of labels."""
    named = ", ".join(str(identities[label]) for label in labels.unique().tolist())
    return f"identities {named}"
