"""The methods as modules. Training stages live in `vireid_fast.engine.methods`."""

from vireid_fast.models.clip4vi_reid import CLIP4VIReID
from vireid_fast.models.clip_mc import ClipMC
from vireid_fast.models.csdn import CSDN
from vireid_fast.models.lsmrl import LSMRL

__all__ = ["CLIP4VIReID", "CSDN", "LSMRL", "ClipMC"]
