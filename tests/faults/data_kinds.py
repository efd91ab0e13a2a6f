"""Writers and readers of the lists, manifests, permutations and images of data sets."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from digests import digest
from PIL import Image

from vireid_fast.data.synthetic import write_layout


def layout(name: str, **options: object) -> Callable[[Path], None]:
    """A writer of a synthetic data set."""

    def write(folder: Path) -> None:
        write_layout(name, folder, identities=4, size=(32, 16), seed=3, **options)
        # Readers look at names alone, so that images need no content here.
        for file in folder.rglob("*"):
            if file.suffix in (".jpg", ".png", ".bmp"):
                file.write_bytes(b"")

    return write


def write_parquet(folder: Path) -> None:
    import pyarrow.csv
    import pyarrow.parquet

    layout("manifest")(folder)
    table = pyarrow.csv.read_csv(folder / "manifest.csv")
    pyarrow.parquet.write_table(table, folder / "manifest.parquet")
    (folder / "manifest.csv").unlink()


def _read_dataset(folder: Path, name: str) -> str:
    from vireid_fast.data.datasets import DATASETS
    from vireid_fast.data.tracklets import TrackletTable

    table = DATASETS[name].read(folder)
    images = table.frames if isinstance(table, TrackletTable) else table
    root = folder.resolve()
    assert all((root / path).resolve().is_relative_to(root) for path in images.paths)
    assert all((root / path).is_file() for path in images.paths)
    columns = (images.person_ids, images.camera_ids, images.modality, images.image_indices)
    assert all(column.shape == (len(images),) for column in columns)
    return digest(images.paths, *columns)


def read_regdb(folder: Path) -> str:
    return _read_dataset(folder, "regdb")


def read_llcm(folder: Path) -> str:
    return _read_dataset(folder, "llcm")


def read_sysu(folder: Path) -> str:
    return _read_dataset(folder, "sysu_mm01")


def read_vcm(folder: Path) -> str:
    return _read_dataset(folder, "hitsz_vcm")


def read_bupt(folder: Path) -> str:
    return _read_dataset(folder, "bupt_campus")


def read_manifest(folder: Path) -> str:
    return _read_dataset(folder, "manifest")


def write_permutations(folder: Path) -> None:
    write_layout("sysu_mm01", folder / "set", identities=4, size=(32, 16), seed=3)
    (folder / "set" / "exp" / "rand_perm_cam.mat").rename(folder / "rand_perm_cam.mat")
    shutil.rmtree(folder / "set")


def read_permutations(folder: Path) -> str:
    from vireid_fast.data.permutations import read_permutations as read

    found = read(folder / "rand_perm_cam.mat")
    for order in found.values():
        assert (np.sort(order, axis=1) == np.arange(1, order.shape[1] + 1)).all()
    return digest(sorted(found), *(found[key] for key in sorted(found)))


def write_images(folder: Path) -> None:
    generator = np.random.default_rng(0)
    smooth = generator.integers(0, 255, (6, 4, 3), np.uint8)
    picture = Image.fromarray(smooth).resize((24, 48), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x010E] = "a person"
    exif[0x0112] = 6
    picture.save(folder / "a.jpg", exif=exif, icc_profile=b"\0" * 132)
    picture.save(folder / "progressive.jpg", progressive=True)
    picture.save(folder / "b.png")
    picture.convert("I").point(lambda v: v * 256).convert("I;16").save(folder / "deep.png")
    picture.convert("P").save(folder / "palette.png", transparency=0)
    picture.save(folder / "c.bmp")
    picture.save(folder / "d.tif", compression="tiff_lzw")
    picture.save(folder / "e.webp")
    picture.save(folder / "f.gif", save_all=True, append_images=[picture.rotate(180)])


def read_images(folder: Path) -> str:
    """All images, so that the damaged one is among them."""
    from vireid_fast.data.images import load_image

    images = [load_image(file) for file in sorted(folder.iterdir())]
    for image in images:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        assert image.size > 0
    return digest(*images)
