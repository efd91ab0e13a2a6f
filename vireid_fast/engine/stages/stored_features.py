"""Projected features of the training images, extracted once for the stages that train texts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vireid_fast.data.table import INFRARED, MODALITY_NAMES, VISIBLE
from vireid_fast.data.views import test_view
from vireid_fast.engine.progress import progress_bar
from vireid_fast.engine.runtime import Runtime
from vireid_fast.engine.seeds import derive_seed, generator
from vireid_fast.engine.stages.image_batches import describe_identities
from vireid_fast.engine.stages.plan import identity_sampler
from vireid_fast.engine.training_data import TrainingImages, build_augmentation
from vireid_fast.losses import scale_for_scores, supervised_contrast
from vireid_fast.losses.precision import at_least_float32


@dataclass(frozen=True)
class Pairs:
    """Stored projected features of aligned visible / infrared images."""

    visible: Tensor
    infrared: Tensor
    labels: Tensor


class StoredFeatures:
    """Projected features of the training images, extracted without augmentation.

    As in CSDN's released code the list comes from the identity sampler, so it holds aligned,
    identity-balanced pairs; some images are repeated and some are absent.

    Args:
        model: Has `encode_images(visible, infrared)`.
        images: Training images.
        runtime: The run.
    """

    def __init__(self, model: nn.Module, images: TrainingImages, runtime: Runtime) -> None:
        self._model: Any = model
        self._images = images
        self._runtime = runtime
        self._augmentation = build_augmentation(runtime.config.augment)

    @torch.no_grad()
    def extract(self, *, place: str, batch_statistics: bool = False) -> Pairs:
        """Aligned pairs.

        Args:
            place: Names the draw of the sampler.
            batch_statistics: Leave BatchNorm in training mode, as CSDN's released stage 2 does.
        """
        config = self._runtime.config
        sampler = identity_sampler(
            self._images.labels, config.sampler, derive_seed(config.seed, place)
        )
        visible, infrared = sampler.aligned_pairs(0)
        self._model.train(batch_statistics)
        tables = [self._encode(modality) for modality in (VISIBLE, INFRARED)]
        self._model.eval()
        return Pairs(
            tables[VISIBLE][torch.from_numpy(visible)],
            tables[INFRARED][torch.from_numpy(infrared)],
            self._images.label_tensor(VISIBLE, visible).to(tables[VISIBLE].device),
        )

    def _encode(self, modality: int) -> Tensor:
        """Projected features of every image of a modality, each encoded once by one process."""
        config, world = self._runtime.config, self._runtime.world
        total = len(self._images.positions[modality])
        parts = []
        with progress_bar(f"extracting {MODALITY_NAMES[modality]} training features") as advance:
            for start in range(0, total, config.evaluation.batch_size):
                stop = min(start + config.evaluation.batch_size, total)
                own = np.arange(start, stop)[world.row_slice(stop - start)]
                images = self._images.images(modality, own).to(config.device)
                views = test_view(images, self._augmentation)
                pair = (views, None) if modality == VISIBLE else (None, views)
                with self._runtime.precision.autocast():
                    projected = self._model.encode_images(*pair).projected
                parts.append(world.gather(at_least_float32(projected)))
                advance(stop, total)
        return torch.cat(parts)

    def describe(self, labels: Tensor) -> str:
        """Names the identities of some labels."""
        return describe_identities(self._images.identities, labels)


class RowOrder:
    """Every row of a table once an epoch, in random order, in blocks.

    Args:
        count: Rows.
        block: Rows of a batch.
        runtime: The run.
        place: Names the draws, usually the stage.
    """

    def __init__(self, count: int, block: int, runtime: Runtime, place: str) -> None:
        self._count, self._block = count, block
        self._runtime, self._place = runtime, place

    def __len__(self) -> int:
        return -(-self._count // self._block)

    def epoch(self, epoch: int) -> Iterator[Tensor]:
        """Rows of each batch, those of all processes. Shape (B,), int64."""
        draws = generator(self._runtime.seed, self._place, "order", epoch)
        order = torch.randperm(self._count, generator=draws)
        yield from order.to(self._runtime.device).split(self._block)


class StoredStage:
    """Batches of a stage on stored features; `prepare` and `step` are the stage's own.

    Args:
        model: The method's model.
        stored: What is extracted when the stage's turn comes.
        runtime: The run.
    """

    name: str
    chooses_epoch = False
    _labels: Tensor
    _order: RowOrder

    def __init__(self, model: nn.Module, stored: StoredFeatures, runtime: Runtime) -> None:
        self._model: Any = model
        self._stored = stored
        self._runtime = runtime

    def num_batches(self) -> int:
        """See `Stage.num_batches`."""
        return len(self._order)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Rows of the stored features, every row once in random order."""
        return self._order.epoch(epoch)

    def describe(self, batch: Tensor) -> str:
        """See `Stage.describe`."""
        return self._stored.describe(self._labels[batch])

    def _plan_rows(self, labels: Tensor, block: int) -> None:
        """To be called by `prepare`: label of each row, and rows of a batch."""
        self._labels = labels
        self._order = RowOrder(len(labels), block, self._runtime, self.name)


def both_directions(
    images: Tensor, texts: Tensor, labels: Tensor, temperature: float
) -> dict[str, Tensor]:
    """L_i2t + L_t2i of aligned images and texts; `temperature` as of `scale_for_scores`."""
    images, texts = (scale_for_scores(x, temperature) for x in (images, texts))
    i2t = supervised_contrast(images, texts, labels, labels)
    t2i = supervised_contrast(texts, images, labels, labels)
    return {"loss": i2t + t2i, "i2t": i2t, "t2i": t2i}
