"""CSDN's three training stages: prompts, semantic integration, visual embedding.

The stages follow the released code (nengdong96/CSDN@2224959); its quirks are switches of the
`csdn` section. See docs/csdn.md for what is the paper's and what is ours.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireid_fast.clip.templates import TEMPLATES
from vireid_fast.config import Config, OptimizerConfig
from vireid_fast.data.samplers import IdentitySampler
from vireid_fast.data.table import INFRARED, VISIBLE
from vireid_fast.data.views import (
    infrared_view,
    test_view,
    visible_exchange_view,
    visible_view,
)
from vireid_fast.engine.clip_setup import Backbone
from vireid_fast.engine.methods.base import Method
from vireid_fast.engine.optim import Schedule, parameter_groups
from vireid_fast.engine.progress import progress_bar
from vireid_fast.engine.seeds import derive_seed, generator
from vireid_fast.engine.stage import Stage, StagePlan
from vireid_fast.engine.training_data import TrainingImages, build_augmentation
from vireid_fast.losses import (
    FeatureGram,
    cross_modal_contrast,
    image_to_text,
    modality_shared_enhancement,
    scale_for_scores,
    supervised_contrast,
    weighted_regularized_triplet,
)
from vireid_fast.losses.precision import at_least_float32
from vireid_fast.models import CSDN

HEADS = ("neck", "pooling")


class CSDNMethod(Method):
    """CSDN for the engine."""

    model: CSDN

    def build_model(self, backbone: Backbone, num_identities: int) -> nn.Module:
        """See `Method.build_model`."""
        own = self.config.csdn
        names = {"visible": own.visible_template, "infrared": own.infrared_template}
        ids = {
            m: torch.tensor(backbone.template_ids(name, own.context_length))
            for m, name in names.items()
        }
        return CSDN(
            backbone.clip,
            num_identities,
            ids,
            {m: TEMPLATES[name].context_start for m, name in names.items()},
            own.context_length,
            integration=own.integration,
            dropout=own.dropout,
            backend=self.config.backend,
        )

    def stages(self, images: TrainingImages) -> list[Stage]:
        """Prompts, fusion, visual; the visual stage alone without text terms."""
        visual = VisualStage(self.model, images, self.config)
        if not self.config.csdn.text_terms:
            return [visual]
        stored = StoredFeatures(self, images)
        return [
            PromptStage(self.model, stored, self.config),
            FusionStage(self.model, stored, self.config),
            visual,
        ]

    def encode(self, images: Tensor, modality: str) -> Tensor:
        """See `Method.encode`."""
        return self.model.test_features(images, modality)


def _sampler(images: TrainingImages, config: Config, seed: int) -> IdentitySampler:
    return IdentitySampler(
        images.labels[VISIBLE],
        images.labels[INFRARED],
        config.sampler.identities,
        config.sampler.instances,
        seed,
        replace=config.sampler.replacement,
    )


def _plan(
    named: Iterator[tuple[str, nn.Parameter]], settings: OptimizerConfig, *, decay_vectors: bool
) -> StagePlan:
    groups = parameter_groups(
        named,
        weight_decay=settings.weight_decay,
        head_lr_factor=settings.head_lr_factor,
        is_head=HEADS,
        decay_vectors=decay_vectors,
    )
    schedule = Schedule(
        settings.schedule, settings.lr, settings.epochs, settings.warmup_epochs,
        settings.warmup_lr, settings.min_lr, settings.milestones,
    )  # fmt: skip
    return StagePlan(settings.epochs, settings.kind, groups, schedule, settings.per_step)


def _both_directions(
    images: Tensor, texts: Tensor, labels: Tensor, temperature: float
) -> dict[str, Tensor]:
    """L_i2t + L_t2i of aligned images and texts."""
    images, texts = (scale_for_scores(x, temperature) for x in (images, texts))
    i2t = supervised_contrast(images, texts, labels, labels)
    t2i = supervised_contrast(texts, images, labels, labels)
    return {"loss": i2t + t2i, "i2t": i2t, "t2i": t2i}


@dataclass(frozen=True)
class _Pairs:
    """Stored projected features of aligned visible / infrared images."""

    visible: Tensor
    infrared: Tensor
    labels: Tensor


class StoredFeatures:
    """Projected features of the training images, extracted without augmentation.

    As in the released code the list comes from the identity sampler, so it holds aligned,
    identity-balanced pairs; some images are repeated and some are absent.
    """

    def __init__(self, method: CSDNMethod, images: TrainingImages) -> None:
        self._method = method
        self._images = images

    @torch.no_grad()
    def extract(self, *, place: str, batch_statistics: bool = False) -> _Pairs:
        """Aligned pairs.

        Args:
            place: Names the draw of the sampler.
            batch_statistics: Leave BatchNorm in training mode, as the released stage 2 does.
        """
        config = self._method.config
        sampler = _sampler(self._images, config, derive_seed(config.seed, place))
        visible, infrared = sampler.aligned_pairs(0)
        model = self._method.model
        model.train(batch_statistics)
        tables = [
            self._encode(modality, batch_statistics=batch_statistics)
            for modality in (VISIBLE, INFRARED)
        ]
        model.eval()
        return _Pairs(
            tables[VISIBLE][torch.from_numpy(visible)],
            tables[INFRARED][torch.from_numpy(infrared)],
            self._images.label_tensor(VISIBLE, visible).to(tables[VISIBLE].device),
        )

    def _encode(self, modality: int, *, batch_statistics: bool) -> Tensor:
        """Projected features of every image of a modality, each encoded once."""
        config, model = self._method.config, self._method.model
        total = len(self._images.positions[modality])
        parts = []
        with progress_bar("extracting training features") as advance:
            for start in range(0, total, config.evaluation.batch_size):
                stop = min(start + config.evaluation.batch_size, total)
                block = self._images.images(modality, np.arange(start, stop)).to(config.device)
                views = test_view(block, self._method.augmentation)
                pair = (views, None) if modality == VISIBLE else (None, views)
                parts.append(model.encode_images(*pair).projected)
                advance(stop, total)
        return at_least_float32(torch.cat(parts))


class PromptStage:
    """Stage 1: the learned tokens of both modalities, on stored image features.

    L = L_i2t + L_t2i over [visible; infrared] images and texts in one softmax.
    """

    name = "prompts"
    chooses_epoch = False

    def __init__(self, model: CSDN, stored: StoredFeatures, config: Config) -> None:
        self._model = model
        self._stored = stored
        self._settings = config.csdn.prompts
        self._temperature = config.csdn.text_temperature
        self._seed = config.seed

    def prepare(self) -> StagePlan:
        """See `Stage.prepare`."""
        self._pairs = self._stored.extract(place=self.name)
        self._model.eval()
        named = self._model.prompts.named_parameters()
        return _plan(named, self._settings, decay_vectors=True)

    def num_batches(self) -> int:
        """See `Stage.num_batches`."""
        return -(-len(self._pairs.labels) // self._settings.batch_size)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Positions of pairs, every pair once in random order."""
        order = torch.randperm(
            len(self._pairs.labels), generator=generator(self._seed, self.name, "order", epoch)
        )
        yield from order.to(self._pairs.labels.device).split(self._settings.batch_size)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """Both directions of the image-text contrast."""
        pairs, labels = self._pairs, self._pairs.labels[batch]
        images = torch.cat((pairs.visible[batch], pairs.infrared[batch]))
        texts = torch.cat(self._model.encode_texts(labels))
        return _both_directions(images, texts, labels.repeat(2), self._temperature)


class FusionStage:
    """Stage 2: semantic integration, on stored features and frozen texts.

    The prompts are frozen, so the texts of all identities are two constant tables, computed once.
    """

    name = "fusion"
    chooses_epoch = False

    def __init__(self, model: CSDN, stored: StoredFeatures, config: Config) -> None:
        self._model = model
        self._stored = stored
        self._own = config.csdn
        self._seed = config.seed

    def prepare(self) -> StagePlan:
        """See `Stage.prepare`."""
        pairs = self._stored.extract(
            place=self.name, batch_statistics=self._own.extract_with_batch_statistics
        )
        self._images = torch.cat((pairs.visible, pairs.infrared))
        self._labels = pairs.labels.repeat(2)
        self._texts = [self._model.text_bank(m) for m in ("visible", "infrared")]
        named = self._model.integration.named_parameters()
        return _plan(named, self._own.fusion, decay_vectors=True)

    def num_batches(self) -> int:
        """See `Stage.num_batches`."""
        return -(-len(self._labels) // self._own.fusion.batch_size)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Positions of images of both modalities, every image once in random order."""
        order = torch.randperm(
            len(self._labels), generator=generator(self._seed, self.name, "order", epoch)
        )
        yield from order.to(self._labels.device).split(self._own.fusion.batch_size)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """Both directions of the contrast with the integrated texts."""
        labels = self._labels[batch]
        self._model.integration.train()
        texts = self._model.integration(*(table[labels] for table in self._texts))
        return _both_directions(self._images[batch], texts, labels, self._own.text_temperature)


@dataclass(frozen=True)
class _Batch:
    visible: Tensor
    exchanged: Tensor
    infrared: Tensor
    labels: Tensor
    progress: float
    """Part of the stage that is over, in [0, 1)."""


class VisualStage:
    """Stage 3: the image encoder, with identity, MSEL, WRT and image-to-text losses."""

    name = "visual"
    chooses_epoch = True

    def __init__(self, model: CSDN, images: TrainingImages, config: Config) -> None:
        self._model = model
        self._images = images
        self._config = config
        self._loss = config.csdn.loss
        self._augmentation = build_augmentation(config.augment)

    def prepare(self) -> StagePlan:
        """See `Stage.prepare`."""
        config, own = self._config, self._config.csdn
        self._sampler = _sampler(self._images, config, derive_seed(config.seed, self.name))
        self._bank = None
        if own.text_terms:
            self._model.eval()
            self._model.integration.train(own.bank_dropout)
            self._bank = scale_for_scores(
                self._model.integrated_bank(), own.text_temperature
            )
        named = (
            (name, parameter)
            for name, parameter in self._model.named_parameters()
            if name.startswith(("encoder.", "pooled_neck.", "projected_neck."))
        )
        return _plan(named, own.visual, decay_vectors=own.visual.kind == "adam")

    def num_batches(self) -> int:
        """See `Stage.num_batches`."""
        return len(self._sampler)

    def batches(self, epoch: int) -> Iterator[_Batch]:
        """Augmented views of identity-balanced batches."""
        self._model.train()
        device = self._config.device
        for index, (visible, infrared) in enumerate(self._sampler.epoch(epoch)):
            draws = generator(self._config.seed, self.name, epoch, index, device=device)
            v = self._images.images(VISIBLE, visible).to(device)
            r = self._images.images(INFRARED, infrared).to(device)
            yield _Batch(
                visible_view(v, self._augmentation, draws),
                visible_exchange_view(v, self._augmentation, draws),
                infrared_view(r, self._augmentation, draws),
                self._images.label_tensor(VISIBLE, visible).to(device),
                (epoch + index / self.num_batches()) / self._config.csdn.visual.epochs,
            )

    def step(self, batch: _Batch) -> dict[str, Tensor]:
        """All losses of one step; "loss" is their weighted sum."""
        weights, labels = self._loss, batch.labels
        count = len(labels)
        features = self._model.encode_images(
            torch.cat((batch.visible, batch.exchanged)), batch.infrared
        )
        necks = (self._model.pooled_neck, self._model.projected_neck)
        all_labels = labels.repeat(3)
        terms: dict[str, Tensor] = {}
        for name, feature, neck in zip(("f", "p"), features, necks, strict=True):
            logits = neck(feature).logits
            terms[f"identity_{name}"] = weights.identity * F.cross_entropy(
                at_least_float32(logits), all_labels, label_smoothing=weights.label_smoothing
            )
            metric = self._metric_terms(feature, labels)
            terms |= {f"{term}_{name}": value for term, value in metric.items()}
        if self._bank is not None:
            p = scale_for_scores(features.projected, self._config.csdn.text_temperature)
            factor = 0.5 * (1 + math.cos(math.pi * batch.progress)) if weights.text_decay else 1.0
            for name, rows, weight in (
                ("visible", p[:count], weights.visible_text),
                ("infrared", p[2 * count :], weights.infrared_text),
            ):
                loss = image_to_text(rows, self._bank, labels, backend=self._config.backend)
                terms[f"text_{name}"] = factor * weight * loss
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def _metric_terms(self, feature: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Weighted metric losses of one feature tensor, whose rows are (V, V', R)."""
        weights, count = self._loss, len(labels)
        rows = FeatureGram(feature) if self._config.backend == "fused" else feature
        visible, infrared = rows[:count], rows[2 * count :]
        terms: dict[str, Tensor] = {}
        if weights.msel:
            terms["msel"] = weights.msel * modality_shared_enhancement(
                visible, infrared, labels, normalized=weights.msel_normalized
            )
        if weights.wrt:
            terms["wrt"] = weights.wrt * weighted_regularized_triplet(
                rows, labels.repeat(3), parity=weights.wrt_parity
            )
        if weights.contrast:
            terms["contrast"] = weights.contrast * cross_modal_contrast(
                rows[: 2 * count], infrared, labels.repeat(2), labels
            )
        return terms
