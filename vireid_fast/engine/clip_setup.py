"""Build the configured CLIP model: architecture, vocabulary, weights."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from vireid_fast.clip import CLIP, LoadReport, WeightsError, build_clip, load_weights
from vireid_fast.clip.architectures import ARCHITECTURES
from vireid_fast.clip.templates import TEMPLATE_WORDS, TEMPLATES, PromptTemplate
from vireid_fast.clip.transformer import ACTIVATIONS
from vireid_fast.clip.vocabulary import WordVocabulary
from vireid_fast.config import ClipConfig, ConfigError
from vireid_fast.data.synthetic import CAPTION_WORDS
from vireid_fast.engine.progress import say

CARD_REMEDY = "Correct it, or remove it and set clip.activation."


@dataclass(frozen=True)
class Backbone:
    """A CLIP model and, for the small pair, its word vocabulary (None: CLIP's byte pairs)."""

    clip: CLIP
    vocabulary: WordVocabulary | None

    def template_ids(self, name: str, context_length: int) -> tuple[int, ...]:
        """Token ids of a template, start of text to end of text.

        Args:
            name: Key of `TEMPLATES`.
            context_length: Learned tokens, which must be as many as the template has marks.
        """
        template = named_template(name)
        if context_length != template.context_length:
            raise ConfigError(
                f"config: context_length must be {template.context_length}, the number of tokens "
                f"that the template {name!r} leaves to be learned, got {context_length}."
            )
        return self.ids_of(template)

    def ids_of(self, template: PromptTemplate) -> tuple[int, ...]:
        """Token ids of a template in this model's vocabulary."""
        if self.vocabulary is None:
            return template.token_ids
        return template.ids_for(self.vocabulary)


def named_template(name: str) -> PromptTemplate:
    """The template called `name` in a configuration."""
    if name not in TEMPLATES:
        raise ConfigError(
            f"config: template must be one of {sorted(TEMPLATES)}, got {name!r}. "
            "A custom one is made with clip.tokenizer.custom_template and a tokenizer file."
        )
    return TEMPLATES[name]


def build_backbone(config: ClipConfig, size: tuple[int, int], *, load: bool = True) -> Backbone:
    """Build CLIP for images of `size` (H, W) and load the configured weights.

    The small pair has a word vocabulary: the captions' and templates' words, in a fixed order.

    Args:
        config: The `clip` section.
        size: Height and width of the images.
        load: False leaves random weights, as when a checkpoint follows.
    """
    if config.architecture not in ARCHITECTURES:
        raise ConfigError(
            f"config: clip.architecture must be one of {sorted(ARCHITECTURES)}, "
            f"got {config.architecture!r}."
        )
    small = ARCHITECTURES[config.architecture].vocabulary_size is None
    vocabulary = WordVocabulary.from_texts(CAPTION_WORDS, TEMPLATE_WORDS) if small else None
    overrides: dict[str, object] = {"image_size": size}
    if config.activation:
        overrides["activation"] = config.activation
    if vocabulary is not None:
        overrides["vocabulary_size"] = len(vocabulary)
    if ARCHITECTURES[config.architecture].family == "resnet":
        overrides |= {"layer4_stride": config.layer4_stride, "stem_relu": config.stem_relu}
    # Convolutions follow their weights' layout; channels last is the faster one.
    clip = build_clip(config.architecture, **overrides).to(
        memory_format=torch.channels_last  # type: ignore[call-overload]  # absent in its stub
    )
    if load and config.weights:
        _load(clip, config)
    return Backbone(clip, vocabulary)


def _load(clip: CLIP, config: ClipConfig) -> None:
    path = Path(config.weights)
    activation = config.activation or _card_activation(path.with_suffix(".json"))
    say(_describe(load_weights(clip, path, trust=config.trust, activation=activation)))


def _card_activation(card: Path) -> str | None:
    """What the card beside a weight file says of the activation; None without card or word."""
    if not card.is_file():
        return None
    try:
        content = json.loads(card.read_bytes())
    except (ValueError, RecursionError) as error:
        raise WeightsError(card, f"must be JSON, got {error}", CARD_REMEDY) from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise WeightsError(card, f"must hold a JSON object, got {kind}", CARD_REMEDY)
    activation = content.get("activation")
    if activation not in (None, *ACTIVATIONS):
        raise WeightsError(
            card, f"must name one of {sorted(ACTIVATIONS)} as activation, got {activation!r}",
            CARD_REMEDY,
        )  # fmt: skip
    return activation


def _describe(report: LoadReport) -> str:
    parts = [f"weights: {report.path}", f"format {report.format}, {report.activation}"]
    parts += [
        f"{title} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''} ({len(names)})"
        for title, names in (("missing", report.missing), ("ignored", report.unexpected))
        if names
    ]
    parts += [
        f"{name} resized from {old[0]} x {old[1]} to {new[0]} x {new[1]}"
        for name, (old, new) in report.resized.items()
    ]
    return "; ".join(parts)
