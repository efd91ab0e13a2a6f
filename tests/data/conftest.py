"""A small data set in SYSU-MM01's layout, with images or with empty stand-ins."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SPLITS = {"train": [1, 2, 3], "val": [4], "test": [5, 6]}


@pytest.fixture
def make_layout(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes `views` images of each identity and camera."""

    def make(splits=SPLITS, views=2, cameras=range(1, 7), pixels=False) -> Path:
        root = tmp_path / "dataset"
        generator = np.random.default_rng(0)
        for identity in sorted({i for ids in splits.values() for i in ids}):
            for camera in cameras:
                folder = root / f"cam{camera}" / f"{identity:04d}"
                folder.mkdir(parents=True)
                for view in range(1, views + 1):
                    file = folder / f"{view:04d}.jpg"
                    if pixels:
                        noise = generator.integers(0, 256, (12, 6, 3), dtype=np.uint8)
                        Image.fromarray(noise).save(file)
                    else:
                        file.touch()
        (root / "exp").mkdir(parents=True)
        for split, ids in splits.items():
            (root / "exp" / f"{split}_id.txt").write_text(",".join(map(str, ids)) + "\n")
        return root

    return make
