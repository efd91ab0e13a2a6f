"""Prompt assembly: template tokens, learnable context tokens and positions."""

from vireid_fast.ops.prompt_injection.api import prompt_injection

__all__ = ["prompt_injection"]
