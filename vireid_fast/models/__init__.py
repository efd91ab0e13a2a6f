"""The methods as modules, and networks of other programs for test time.

Training stages live in `vireid_fast.engine.methods`.
"""

from vireid_fast.models.agw import AGW
from vireid_fast.models.clip4vi_reid import CLIP4VIReID
from vireid_fast.models.clip_mc import ClipMC
from vireid_fast.models.clip_reid import CLIPReID
from vireid_fast.models.csdn import CSDN
from vireid_fast.models.csdn_images import CSDNImages
from vireid_fast.models.lsmrl import LSMRL

__all__ = ["AGW", "CLIP4VIReID", "CLIPReID", "CSDN", "CSDNImages", "LSMRL", "ClipMC"]
