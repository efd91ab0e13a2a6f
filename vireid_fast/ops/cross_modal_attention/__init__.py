"""Attention between the tokens of two modalities, or within any sequences of rows."""

from vireid_fast.ops.cross_modal_attention.api import cross_modal_attention
from vireid_fast.ops.cross_modal_attention.index import MODES, AttentionIndex, Mode
from vireid_fast.ops.cross_modal_attention.plan import (
    BACKENDS,
    AttentionBackend,
    AttentionPlan,
    attention_plan,
)

__all__ = [
    "BACKENDS",
    "MODES",
    "AttentionBackend",
    "AttentionIndex",
    "AttentionPlan",
    "Mode",
    "attention_plan",
    "cross_modal_attention",
]
