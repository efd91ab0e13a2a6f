"""Augmented, identity-balanced batches of clips for the video methods."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vireid_fast.data.draws import Draws
from vireid_fast.data.table import INFRARED, VISIBLE
from vireid_fast.data.views import infrared_view, visible_exchange_view, visible_view
from vireid_fast.engine.runtime import Runtime
from vireid_fast.engine.seeds import derive_seed, generator
from vireid_fast.engine.stages.image_batches import describe_identities
from vireid_fast.engine.stages.plan import identity_sampler
from vireid_fast.engine.training_data import TrainingTracklets, build_augmentation

View = Callable[..., Tensor]


@dataclass(frozen=True)
class ClipBatch:
    """Aligned clips, those of this process.

    Attributes:
        visible: Shape (b, T, 3, H, W).
        infrared: Shape (b, T, 3, H, W); clip i has the identity of visible clip i.
        labels: Labels of the whole batch, of all processes. Shape (B,), int64.
    """

    visible: Tensor
    infrared: Tensor
    labels: Tensor


class ClipBatches:
    """P identities x K clips of each modality, a pure function of (seed, place, epoch).

    The frames of a clip are cropped, mirrored and erased alike (M3-ReID), as patch shift relies on
    places that correspond. Of an identity's K visible clips every second one has its channels
    exchanged; VLD draws this.

    Args:
        tracklets: Training tracklets.
        runtime: The run.
        place: Names the draws, usually the stage.
        steps: Batches of an epoch; 0: as many as the sampler gives.
    """

    def __init__(
        self, tracklets: TrainingTracklets, runtime: Runtime, place: str, steps: int
    ) -> None:
        config = runtime.config
        self._tracklets = tracklets
        self._runtime = runtime
        self._place = place
        self._augmentation = build_augmentation(config.augment)
        self._sampler = identity_sampler(
            tracklets.labels, config.sampler, derive_seed(config.seed, place)
        )
        self._steps = steps or len(self._sampler)
        self._own = runtime.world.identity_slice(
            config.sampler.identities, config.sampler.instances
        )

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int) -> Iterator[ClipBatch]:
        """Batches of one epoch."""
        passes = -(-self._steps // len(self._sampler))
        pairs = itertools.chain.from_iterable(
            self._sampler.epoch(epoch * passes + part) for part in range(passes)
        )
        for index, (visible, infrared) in enumerate(itertools.islice(pairs, self._steps)):
            place = (epoch, index)
            frames = generator(self._runtime.seed, self._place, "frames", *place)
            clips = [self._read(m, indices, frames)
                     for m, indices in ((VISIBLE, visible), (INFRARED, infrared))]  # fmt: skip
            yield ClipBatch(
                self._visible(clips[VISIBLE], place, len(visible)),
                self._clips(infrared_view, clips[INFRARED], place, len(infrared), self._rows()),
                self._tracklets.label_tensor(VISIBLE, visible).to(self._runtime.device),
            )

    def describe(self, batch: ClipBatch) -> str:
        """The identities of a batch, as numbered in the data set, for an error."""
        return describe_identities(self._tracklets.identities, batch.labels)

    def _rows(self) -> Tensor:
        """This process's rows of a batch."""
        return torch.arange(self._own.start, self._own.stop)

    def _read(self, modality: int, indices: np.ndarray, frames: torch.Generator) -> Tensor:
        """Frames of this process's clips; frames are drawn for the whole batch. (b, T, H, W, 3)."""
        pixels = self._tracklets.clips(modality, indices, frames, self._own)
        return pixels.to(self._runtime.device).unflatten(0, (-1, self._tracklets.sampling.frames))

    def _visible(self, clips: Tensor, place: tuple[int, int], total: int) -> Tensor:
        rows = self._rows()
        views: list[Tensor] = [torch.empty(0)] * len(rows)
        for view, odd in ((visible_view, 0), (visible_exchange_view, 1)):
            chosen = torch.nonzero(rows % 2 == odd).flatten()
            if len(chosen):
                made = self._clips(view, clips[chosen], place, total, rows[chosen])
                for position, clip in zip(chosen.tolist(), made, strict=True):
                    views[position] = clip
        return torch.stack(views)

    def _clips(
        self, view: View, clips: Tensor, place: tuple[int, int], total: int, rows: Tensor
    ) -> Tensor:
        """Views of clips (b, T, H, W, 3), the draws of a clip the same for its frames.

        Each kind of view has draws of its own, since a process may hold no clip of one.
        """
        source = generator(
            self._runtime.seed, self._place, view.__name__, *place, device=self._runtime.device
        )
        frames = clips.shape[1]
        draws = Draws(source, total, rows.repeat_interleave(frames))
        return view(clips.flatten(0, 1), self._augmentation, draws).unflatten(0, (-1, frames))
