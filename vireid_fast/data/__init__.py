"""Data sets on disk: readers, checker, image cache, augmentation, samplers."""
