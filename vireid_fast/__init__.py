"""Visible-infrared person re-identification on CLIP, with fast kernels."""

from vireid_fast._version import __version__

__all__ = ["__version__"]
