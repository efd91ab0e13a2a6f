"""The kinds of modules that `accelerate` knows, one per file."""

from vireid_fast.dropin.kinds.attention_pool import ATTENTION_POOL
from vireid_fast.dropin.kinds.base import Kind
from vireid_fast.dropin.kinds.huggingface import HUGGINGFACE_CLIP
from vireid_fast.dropin.kinds.multihead_attention import CROSS_ATTENTION
from vireid_fast.dropin.kinds.openai_clip import OPENAI_CLIP
from vireid_fast.dropin.kinds.prompt_learner import PROMPT_LEARNER
from vireid_fast.dropin.kinds.text_encoder import TEXT_ENCODER
from vireid_fast.dropin.kinds.vision_transformer import VISION_TRANSFORMER

KINDS: tuple[Kind, ...] = (
    HUGGINGFACE_CLIP, OPENAI_CLIP, TEXT_ENCODER, PROMPT_LEARNER, VISION_TRANSFORMER,
    ATTENTION_POOL, CROSS_ATTENTION,
)  # fmt: skip

__all__ = ["KINDS", "Kind"]
