"""CLIP in plain torch: towers, published weights, prompt templates, vocabularies."""

from vireid_fast.clip.architectures import ARCHITECTURES, Architecture
from vireid_fast.clip.checkpoint_files import WeightsError
from vireid_fast.clip.features import VisualFeatures
from vireid_fast.clip.model import CLIP, build_clip
from vireid_fast.clip.positions import resize_positions
from vireid_fast.clip.resnet import ResNetVisual
from vireid_fast.clip.templates import TEMPLATE_WORDS, TEMPLATES, PromptTemplate
from vireid_fast.clip.text import TextTower
from vireid_fast.clip.tokenizer import custom_template
from vireid_fast.clip.vit import ViTVisual
from vireid_fast.clip.vocabulary import WordVocabulary, split_words
from vireid_fast.clip.weights import LoadReport, load_weights, openai_state_dict

__all__ = [
    "ARCHITECTURES", "Architecture", "CLIP", "LoadReport", "PromptTemplate", "ResNetVisual",
    "TEMPLATES", "TEMPLATE_WORDS", "TextTower", "ViTVisual", "VisualFeatures", "WeightsError",
    "WordVocabulary", "build_clip", "custom_template", "load_weights", "openai_state_dict",
    "resize_positions", "split_words",
]  # fmt: skip
