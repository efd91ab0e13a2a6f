"""Readers of the data sets, one file each, and their registry."""

from vireid_fast.data.datasets.registry import DATASETS, Dataset

__all__ = ["DATASETS", "Dataset"]
