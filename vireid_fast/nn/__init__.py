"""Modules over the ops: pooling, necks, prompts, semantic integration."""

from vireid_fast.nn.bnneck import BNNeck
from vireid_fast.nn.pooling import GeMPooling
from vireid_fast.nn.prompts import PromptLearner
from vireid_fast.nn.semantic_integration import SemanticIntegration

__all__ = ["BNNeck", "GeMPooling", "PromptLearner", "SemanticIntegration"]
