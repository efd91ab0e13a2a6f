"""How many items of a row stand before given ones, in (distance, index) order."""

from vireid_fast.ops.count_nearer.api import count_nearer

__all__ = ["count_nearer"]
