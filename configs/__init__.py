"""Presets, one YAML file each: the package `vireid_fast.configs`, so that wheels carry them."""
