"""Registry of the methods: how each builds its model, its stages and its encoder."""

from vireid_fast.engine.methods.base import Method
from vireid_fast.engine.methods.csdn import CSDNMethod

METHODS: dict[str, type[Method]] = {"csdn": CSDNMethod}

__all__ = ["METHODS", "Method"]
