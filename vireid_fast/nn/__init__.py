"""Modules over the ops: attention, pooling, necks, prompts and their encoder, text semantics."""

from vireid_fast.nn.attention_pool import AttentionPool2d
from vireid_fast.nn.bnneck import BNNeck
from vireid_fast.nn.cross_modal_attention import CrossModalAttention
from vireid_fast.nn.cross_modal_interaction import CrossModalInteraction
from vireid_fast.nn.global_batch_norm import global_batch_norm
from vireid_fast.nn.instance_prompts import InstancePromptGenerator
from vireid_fast.nn.modality_compensation import ModalityCompensation
from vireid_fast.nn.modality_context import ModalityContext
from vireid_fast.nn.pooling import GeMPooling
from vireid_fast.nn.prompt_group import PromptGroup
from vireid_fast.nn.prompt_text_encoder import PromptTextEncoder
from vireid_fast.nn.prompts import PromptLearner
from vireid_fast.nn.semantic_diffusion import SemanticDiffusion
from vireid_fast.nn.semantic_integration import SemanticIntegration
from vireid_fast.nn.token_injection import TokenInjection
from vireid_fast.nn.tower_check import check_tower

__all__ = [
    "AttentionPool2d",
    "BNNeck",
    "CrossModalAttention",
    "CrossModalInteraction",
    "GeMPooling",
    "InstancePromptGenerator",
    "ModalityCompensation",
    "ModalityContext",
    "PromptGroup",
    "PromptLearner",
    "PromptTextEncoder",
    "SemanticDiffusion",
    "SemanticIntegration",
    "TokenInjection",
    "check_tower",
    "global_batch_norm",
]
