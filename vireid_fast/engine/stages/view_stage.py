"""What the stages on augmented views of images have in common."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from vireid_fast.engine.runtime import Runtime
from vireid_fast.engine.stages.image_batches import ImageBatches, ViewBatch
from vireid_fast.engine.training_data import TrainingImages


class ViewStage:
    """Batches of a stage on augmented views; `prepare` and `step` are the stage's own.

    Args:
        model: The method's model.
        images: Training images.
        runtime: The run.
    """

    name: str
    _batches: ImageBatches

    def __init__(self, model: nn.Module, images: TrainingImages, runtime: Runtime) -> None:
        self._model: Any = model
        self._images = images
        self._runtime = runtime

    def num_batches(self) -> int:
        """See `Stage.num_batches`."""
        return len(self._batches)

    def batches(self, epoch: int) -> Iterator[ViewBatch]:
        """Augmented views of identity-balanced batches."""
        self._model.train()
        return self._batches.epoch(epoch)

    def describe(self, batch: ViewBatch) -> str:
        """See `Stage.describe`."""
        return self._batches.describe(batch)

    def _plan_batches(self, epochs: int) -> None:
        """To be called by `prepare`."""
        self._batches = ImageBatches(self._images, self._runtime, self.name, epochs)
