"""Contrastive pre-training of a small CLIP, so that its texts and images share one space.

CLIP's premise, encoders that are already aligned, does not hold for random weights. The synthetic
pedestrians carry captions made from their attributes, and the training images carry pairs:

    L = w_c L_caption + w_p L_pair + w_i L_identity
    L_caption: synthetic images of either modality against the captions of their identities,
    L_pair: visible against infrared training images of one identity,
    L_identity: cross-entropy of a neck, thrown away later, on the training images.

The contrasts are symmetric and supervised, of L2-normalised projected features. The identity term
is what gets random weights moving: without it their features, all nearly parallel, give the
contrasts hardly a gradient. Validation and test identities are not seen. Ours; no paper describes
it.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireid_fast.clip import CLIP
from vireid_fast.clip.vocabulary import WordVocabulary
from vireid_fast.config import Config
from vireid_fast.data.samplers import IdentitySampler
from vireid_fast.data.table import INFRARED, VISIBLE
from vireid_fast.data.views import infrared_view, visible_view
from vireid_fast.engine.optim import Schedule, parameter_groups
from vireid_fast.engine.seeds import derive_seed, generator
from vireid_fast.engine.stage import StagePlan
from vireid_fast.engine.stages.image_batches import describe_identities
from vireid_fast.engine.training_data import TrainingImages, build_augmentation
from vireid_fast.losses import cross_modal_contrast
from vireid_fast.nn import BNNeck


@dataclass(frozen=True)
class Captions:
    """Token ids of every identity's captions, and which captions are equal.

    Attributes:
        ids: For each modality the captions. Shape (C, L), int64.
        groups: For each modality the number of the distinct caption. Shape (C,), int64.
    """

    ids: tuple[Tensor, Tensor]
    groups: tuple[Tensor, Tensor]


def read_captions(root: Path, identities: np.ndarray, vocabulary: WordVocabulary) -> Captions:
    """Captions of the given identities of a synthetic set.

    Raises:
        ValueError: `captions.json` is absent or lacks an identity.
    """
    path = root / "captions.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        texts = [[table[f"{person:04d}"][name] for person in identities.tolist()]
                 for name in ("visible", "infrared")]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"pretrain: {path} must hold a caption for every identity, got {error!r}. "
            "Make the set with `vireid synth`."
        ) from error
    longest = max(len(vocabulary.encode(text)) for own in texts for text in own)
    ids = [vocabulary.encode_batch(own, longest) for own in texts]
    groups = []
    for own in texts:
        numbers = {text: n for n, text in enumerate(dict.fromkeys(own))}
        groups.append(torch.tensor([numbers[text] for text in own]))
    return Captions((ids[0], ids[1]), (groups[0], groups[1]))


@dataclass(frozen=True)
class _Views:
    """Augmented visible and infrared images of the same identities, and their labels."""

    images: Tensor
    labels: Tensor


class Pretraining(nn.Module):
    """What pre-training trains: CLIP, and an identity neck that is thrown away."""

    def __init__(self, clip: CLIP, num_identities: int) -> None:
        super().__init__()
        self.clip = clip
        self.neck = BNNeck(clip.visual.projected_width, num_identities)


class PretrainStage:
    """The pre-training as one stage of the trainer."""

    name = "pretrain"
    chooses_epoch = False

    def __init__(
        self,
        model: Pretraining,
        captioned: TrainingImages,
        captions: Captions,
        paired: TrainingImages,
        config: Config,
    ) -> None:
        self._model = model
        self._clip = model.clip
        self._sources = (captioned, paired)
        self._captions = captions
        self._config = config
        self._augmentation = replace(build_augmentation(config.augment), erase=0.0)

    def prepare(self) -> StagePlan:
        """See `Stage.prepare`."""
        own = self._config.pretrain
        groups = parameter_groups(
            self._model.named_parameters(), weight_decay=own.weight_decay, decay_vectors=False
        )
        schedule = Schedule("cosine", own.lr, own.epochs, warmup_epochs=0.1 * own.epochs)
        return StagePlan(own.epochs, "adamw", groups, schedule, per_step=True)

    def num_batches(self) -> int:
        """See `Stage.num_batches`."""
        return self._config.pretrain.steps

    def batches(self, epoch: int) -> Iterator[tuple[_Views, _Views]]:
        """Captioned and paired views of each step."""
        self._model.train()
        own = self._config.pretrain
        captioned, paired = self._sources
        draws = (
            self._draws(captioned, "captions", own.captioned_per_batch, epoch),
            self._draws(paired, "pairs", own.paired_per_batch, epoch),
        )
        for index in range(self.num_batches()):
            place = generator(
                self._config.seed, self.name, epoch, index, device=self._config.device
            )
            yield (
                self._views(captioned, next(draws[0]), place),
                self._views(paired, next(draws[1]), place),
            )

    def describe(self, batch: tuple[_Views, _Views]) -> str:
        """See `Stage.describe`."""
        captioned, paired = (
            describe_identities(images.identities, views.labels)
            for images, views in zip(self._sources, batch, strict=True)
        )
        return f"captioned {captioned}; paired {paired}"

    def step(self, batch: tuple[_Views, _Views]) -> dict[str, Tensor]:
        """Weighted terms; both sources pass the encoder together."""
        own = self._config.pretrain
        features = self._clip.encode_image(torch.cat([views.images for views in batch]))
        captioned, paired = features.split([len(views.images) for views in batch])
        labels = batch[1].labels
        identity = F.cross_entropy(self._model.neck(paired).logits, labels.repeat(2))
        first, second = paired.chunk(2)
        terms = {
            "caption": own.caption_weight * self._caption_loss(captioned, batch[0].labels),
            "pair": own.pair_weight * cross_modal_contrast(
                first, second, labels, labels, own.temperature
            ),
            "identity": own.identity_weight * identity,
        }  # fmt: skip
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def _caption_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        losses = []
        for own, ids, groups in zip(
            features.chunk(2), self._captions.ids, self._captions.groups, strict=True
        ):
            texts = self._clip.encode_text(ids.to(labels.device)[labels])
            group = groups.to(labels.device)[labels]
            temperature = self._config.pretrain.temperature
            losses.append(cross_modal_contrast(own, texts, group, group, temperature))
        return torch.stack(losses).mean()

    def _draws(
        self, images: TrainingImages, place: str, count: int, epoch: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Endless aligned pairs, one image per identity and modality."""
        for part in itertools.count():
            seed = derive_seed(self._config.seed, self.name, place, epoch, part)
            yield from IdentitySampler(
                images.labels[VISIBLE],
                images.labels[INFRARED],
                min(count, len(images.identities)),
                1,
                seed,
            ).epoch(0)

    def _views(
        self, images: TrainingImages, pair: tuple[np.ndarray, np.ndarray], draws: torch.Generator
    ) -> _Views:
        device, augmentation = self._config.device, self._augmentation
        visible = images.images(VISIBLE, pair[0]).to(device)
        infrared = images.images(INFRARED, pair[1]).to(device)
        views = (
            visible_view(visible, augmentation, draws),
            infrared_view(infrared, augmentation, draws),
        )
        return _Views(torch.cat(views), images.label_tensor(VISIBLE, pair[0]).to(device))
