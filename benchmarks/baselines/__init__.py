"""Peers, written for the comparison: what one would write without the package."""
