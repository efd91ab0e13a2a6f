"""Speed for somebody else's model: in place (`accelerate`), or layer by layer."""

from vireid_fast.dropin.accelerate import accelerate, revert
from vireid_fast.dropin.layers import PromptLearner, TextEncoder
from vireid_fast.dropin.report import AccelerationReport, ReportEntry
from vireid_fast.nn.attention_pool import AttentionPool2d

__all__ = [
    "AccelerationReport", "AttentionPool2d", "PromptLearner", "ReportEntry", "TextEncoder",
    "accelerate", "revert",
]  # fmt: skip
