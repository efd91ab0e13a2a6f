"""Squared distances of many pairs from products of centred rows."""

from vireid_fast.ops.centred_distance.api import centred_distance, centred_error

__all__ = ["centred_distance", "centred_error"]
