"""Injection of tokens into streams: learned prompts, semantic tokens, positions, first norm."""

from vireid_fast.ops.prompt_injection.api import inject_tokens, prompt_injection
from vireid_fast.ops.prompt_injection.sources import MODES, Injected, Mode, TokenNorm, TokenSource

__all__ = [
    "MODES",
    "Injected",
    "Mode",
    "TokenNorm",
    "TokenSource",
    "inject_tokens",
    "prompt_injection",
]
