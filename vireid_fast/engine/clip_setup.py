"""Build the configured CLIP model: architecture, vocabulary, weights."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from vireid_fast.clip import CLIP, build_clip, load_weights
from vireid_fast.clip.architectures import ARCHITECTURES
from vireid_fast.clip.templates import TEMPLATE_WORDS, TEMPLATES
from vireid_fast.clip.vocabulary import WordVocabulary
from vireid_fast.config import ClipConfig, ConfigError
from vireid_fast.data.synthetic import CAPTION_WORDS
from vireid_fast.engine.progress import say

VOCABULARY_KEY = "vocabulary"


@dataclass(frozen=True)
class Backbone:
    """A CLIP model and, for the small pair, its word vocabulary (None: CLIP's byte pairs)."""

    clip: CLIP
    vocabulary: WordVocabulary | None

    def template_ids(self, name: str) -> tuple[int, ...]:
        """Token ids of a template, start of text to end of text."""
        if name not in TEMPLATES:
            raise ConfigError(
                f"config: template must be one of {sorted(TEMPLATES)}, got {name!r}. "
                "A custom one is made with clip.tokenizer.custom_template and a tokenizer file."
            )
        template = TEMPLATES[name]
        if self.vocabulary is None:
            return template.token_ids
        return template.ids_for(self.vocabulary)


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
    if vocabulary is not None:
        overrides["vocabulary_size"] = len(vocabulary)
    if ARCHITECTURES[config.architecture].family == "resnet":
        overrides |= {"layer4_stride": config.layer4_stride, "stem_relu": config.stem_relu}
    # Convolutions follow their weights' layout; channels last is the faster one.
    clip = build_clip(config.architecture, **overrides).to(memory_format=torch.channels_last)
    if load and config.weights:
        _load(clip, config)
    return Backbone(clip, vocabulary)


def _load(clip: CLIP, config: ClipConfig) -> None:
    path = Path(config.weights)
    card = path.with_suffix(".json")
    activation = config.activation or None
    if activation is None and card.is_file():
        activation = json.loads(card.read_text(encoding="utf-8")).get("activation")
    report = load_weights(clip, path, trust=config.trust, activation=activation)
    say(str(report))
