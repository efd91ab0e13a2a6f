"""The methods as modules. Training stages live in `vireid_fast.engine.methods`."""

from vireid_fast.models.csdn import CSDN

__all__ = ["CSDN"]
