"""Images below a folder of one's own, which no data set's rules describe."""

import os
from pathlib import Path

from vireid_fast._checks import require

IMAGE_SUFFIXES = (
    ".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip


def folder_images(folder: Path) -> list[str]:
    """Images below a folder, hidden ones aside.

    Args:
        folder: The folder; links to other folders are not followed.

    Returns:
        Paths relative to it with forward slashes, sorted.

    Raises:
        ValueError: There is no such folder, or it holds no image.
    """
    require(folder.is_dir(), "images", "folder", "be an existing folder", folder)
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            (Path(parent) / name).relative_to(folder).as_posix()
            for name in files
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)
        ]
    require(
        bool(found), "images", str(folder), f"hold an image ({', '.join(IMAGE_SUFFIXES)})", "none"
    )
    return sorted(found)


def folder_clips(folder: Path) -> list[list[str]]:
    """Clips below a folder: the images of each folder that holds some, in the order of their names.

    Returns:
        For each clip its frames, as `folder_images` gives them; clips sorted by their folder.

    Raises:
        ValueError: As of `folder_images`.
    """
    clips: dict[str, list[str]] = {}
    for name in folder_images(folder):
        clips.setdefault(name.rpartition("/")[0], []).append(name)
    return [clips[parent] for parent in sorted(clips)]
