"""Neighbour lists and further items to the lists of all of them."""

from vireid_fast.ops.merge_lists.api import merge_lists

__all__ = ["merge_lists"]
