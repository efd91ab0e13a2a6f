"""Registry of the methods: how each builds its model, its stages and its encoder."""

from vireid_fast.engine.methods.base import Method
from vireid_fast.engine.methods.clip4vi_reid import CLIP4VIReIDMethod
from vireid_fast.engine.methods.clip_mc import CLIPMCMethod
from vireid_fast.engine.methods.csdn import CSDNMethod
from vireid_fast.engine.methods.lsmrl import LSMRLMethod

METHODS: dict[str, type[Method]] = {
    "csdn": CSDNMethod,
    "clip4vi_reid": CLIP4VIReIDMethod,
    "clip_mc": CLIPMCMethod,
    "lsmrl": LSMRLMethod,
}

__all__ = ["METHODS", "Method"]
