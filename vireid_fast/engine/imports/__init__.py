"""Reading checkpoints of other programs: CSDN's, CLIP-ReID's, AGW's."""

from vireid_fast.engine.imports.agw import AGWFormat
from vireid_fast.engine.imports.clip_reid import CLIPReIDFormat
from vireid_fast.engine.imports.csdn import CSDNFormat
from vireid_fast.engine.imports.format import CheckpointFormat
from vireid_fast.engine.imports.settings import ImportOptions

FORMATS: dict[str, CheckpointFormat] = {
    format.name: format for format in (CSDNFormat(), CLIPReIDFormat(), AGWFormat())
}

__all__ = ["FORMATS", "CheckpointFormat", "ImportOptions"]
