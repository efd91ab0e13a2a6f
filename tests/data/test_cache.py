import errno
import fcntl
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from vireid_fast.data import cache as cache_module
from vireid_fast.data.cache import open_cache
from vireid_fast.data.datasets.sysu_mm01 import read_sysu_layout
from vireid_fast.data.images import ImageError, load_image

SIZE = (8, 4)


@pytest.fixture
def table(make_layout):
    return read_sysu_layout(make_layout(pixels=True))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def is_built(table, rows, folder, **options):
    """Whether opening had to write the cache."""
    calls = []
    open_cache(table, rows, SIZE, folder, progress=lambda *c: calls.append(c), **options)
    return bool(calls)


def break_file(table, row):
    path = table.file(row)
    path.write_bytes(path.read_bytes()[:200])


def test_images_equal_the_loader(table, folder):
    rows = table.rows("train")[::-1]
    calls = []
    cached = open_cache(table, rows, SIZE, folder, progress=lambda *c: calls.append(c))
    np.testing.assert_array_equal(cached.rows, rows)
    assert calls == [(n, len(rows)) for n in range(1, len(rows) + 1)]
    assert isinstance(cached.images, np.memmap)
    assert cached.images.shape == (len(rows), *SIZE, 3)
    assert not cached.images.flags.writeable
    for position, row in enumerate(rows):
        np.testing.assert_array_equal(cached.images[position], load_image(table.file(row), SIZE))
    assert (len(cached), cached.bad) == (len(rows), ())


def test_batch_is_a_writable_tensor_copy(table, folder):
    cached = open_cache(table, table.rows("train"), SIZE, folder)
    batch = cached.batch(np.array([5, 0, 5]))
    assert batch.dtype == torch.uint8
    np.testing.assert_array_equal(batch.numpy(), cached.images[[5, 0, 5]])
    before = cached.images[5].copy()
    batch.fill_(0)
    np.testing.assert_array_equal(cached.images[5], before)
    assert cached.batch(np.array([], np.int64)).shape == (0, *SIZE, 3)


def test_cache_is_reused_while_nothing_changes(table, folder):
    rows = table.rows("train")
    assert is_built(table, rows, folder)
    assert not is_built(table, rows, folder)
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".npy"]


def test_changed_file_rebuilds_in_place(table, folder):
    rows = table.rows("train")
    assert is_built(table, rows, folder)
    os.utime(table.file(rows[3]), ns=(1, 1))
    assert is_built(table, rows, folder)
    assert len(list(folder.iterdir())) == 2


def test_new_package_version_rebuilds(table, folder, monkeypatch):
    rows = table.rows("train")
    assert is_built(table, rows, folder)
    monkeypatch.setattr(cache_module, "__version__", "999")
    assert is_built(table, rows, folder)


def test_selections_and_sizes_have_caches_of_their_own(table, folder):
    train, test = table.rows("train"), table.rows("test")
    for rows in (train, test):
        assert is_built(table, rows, folder)
    open_cache(table, train, (6, 6), folder)
    for rows in (train, test):
        assert not is_built(table, rows, folder)
    assert len(list(folder.glob("*.npy"))) == 3


@pytest.mark.parametrize(
    "damage", ["no index", "no data", "short data", "bad index", "other index"]
)
def test_half_a_cache_is_rebuilt(table, folder, damage):
    rows = table.rows("train")
    images = open_cache(table, rows, SIZE, folder).images.copy()
    (data,), (index,) = folder.glob("*.npy"), folder.glob("*.json")
    if damage == "no index":
        index.unlink()
    elif damage == "no data":
        data.unlink()
    elif damage == "short data":
        data.write_bytes(data.read_bytes()[:-10])
    elif damage == "bad index":
        index.write_text("{")
    else:
        index.write_text("[]")
    assert is_built(table, rows, folder)
    np.testing.assert_array_equal(open_cache(table, rows, SIZE, folder).images, images)


class KilledError(BaseException):
    """Stands for the end of the process: nothing catches it."""


@pytest.mark.parametrize("moment", ["images", "between", "index"])
@pytest.mark.parametrize("reverted", [False, True])
def test_killed_write_leaves_no_cache(table, folder, monkeypatch, moment, reverted):
    rows = table.rows("train")
    open_cache(table, rows, SIZE, folder)
    first = table.file(rows[0])
    before = first.stat().st_mtime_ns
    os.utime(first, ns=(1, 1))
    real_replace, real_unlink = os.replace, Path.unlink

    def killed_replace(source, target):
        if moment == "images" or str(target).endswith(".json"):
            raise KilledError
        real_replace(source, target)
        if moment == "between":
            raise KilledError

    def unlink_but_leftovers(path, **options):
        if path.suffix != ".tmp":
            real_unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed_replace)
        # A killed process does not clean up.
        patch.setattr(Path, "unlink", unlink_but_leftovers)
        with pytest.raises(KilledError):
            open_cache(table, rows, SIZE, folder)
    if reverted:
        # The old index would fit again, but the images may be the new ones.
        os.utime(first, ns=(before, before))
    assert is_built(table, rows, folder)
    assert not is_built(table, rows, folder)


def test_leftovers_of_killed_runs_are_removed_and_those_of_live_ones_stay(table, folder):
    rows = table.rows("train")
    name = open_cache(table, rows, SIZE, folder).path.name
    dead, live = folder / f".{name}.0123abcd.tmp", folder / f".{name}.0123abce.tmp"
    for path in (dead, live):
        path.write_bytes(b"half")
    os.utime(table.file(rows[0]), ns=(1, 1))
    with live.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        open_cache(table, rows, SIZE, folder)
    assert (dead.exists(), live.exists()) == (False, True)


def test_first_bad_image_is_raised_and_nothing_is_left(table, folder):
    rows = table.rows("train")
    break_file(table, rows[2])
    break_file(table, rows[7])
    with pytest.raises(ImageError, match=f"{table.paths[rows[2]]} must be a readable image"):
        open_cache(table, rows, SIZE, folder)
    assert not folder.exists()


def test_skip_bad_drops_counts_and_names(table, folder):
    rows = table.rows("train")
    break_file(table, rows[2])
    table.file(rows[7]).unlink()
    kept = np.delete(rows, [2, 7])
    for _ in ("written", "reused"):
        cached = open_cache(table, rows, SIZE, folder, skip_bad=True)
        np.testing.assert_array_equal(cached.rows, kept)
        assert cached.images.shape == (len(rows) - 2, *SIZE, 3)
        for position, row in enumerate(kept):
            expected = load_image(table.file(row), SIZE)
            np.testing.assert_array_equal(cached.images[position], expected)
        assert [e.path for e in cached.bad] == [str(table.file(rows[n])) for n in (2, 7)]
        assert cached.bad[1].reason == "no such file"
    with pytest.raises(ImageError, match="must be a readable image"):
        open_cache(table, rows, SIZE, folder)


def test_only_bad_images_is_an_error(table, folder):
    rows = table.rows("train")[:2]
    for row in rows:
        table.file(row).write_bytes(b"")
    with pytest.raises(ValueError, match="name at least one readable image, got 2 bad ones, the f"):
        open_cache(table, rows, SIZE, folder, skip_bad=True)
    assert not folder.exists()


def test_too_little_space_is_found_before_writing(table, folder, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    rows = table.rows("train")
    needed = 128 + len(rows) * 8 * 4 * 3
    with pytest.raises(
        RuntimeError, match=rf"have {needed:,} free bytes in .*got 1,000 free bytes"
    ):
        open_cache(table, rows, SIZE, folder)
    assert not folder.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_disk_that_fills_up_while_writing(table, folder, monkeypatch, code):
    rows = table.rows("train")
    original = cache_module.load_images

    def until_full(*args):
        for position, image in enumerate(original(*args)):
            if position == 5:
                raise OSError(code, os.strerror(code))
            yield image

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "load_images", until_full)
        with pytest.raises(
            RuntimeError, match=r"data.cache must have 3,584 free bytes .*a full disk"
        ):
            open_cache(table, rows, SIZE, folder)
    assert not folder.exists()
    assert is_built(table, rows, folder)


def test_header_size_is_what_numpy_writes(table, folder):
    cached = open_cache(table, table.rows("train"), SIZE, folder)
    assert cached.path.stat().st_size == 128 + cached.images.nbytes
    np.testing.assert_array_equal(np.load(cached.path), cached.images)
    index = json.loads(cached.path.with_suffix(".json").read_text())
    assert index["paths"] == [table.paths[row] for row in cached.rows]


def test_unwritable_folder_names_the_option(table, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeError, match=r"data.cache must be a folder that can be written, got"):
        open_cache(table, table.rows("train"), SIZE, tmp_path / "file")


def test_rejects_rows_and_size(table, folder):
    with pytest.raises(ValueError, match="rows must name at least one image, got none"):
        open_cache(table, np.array([], np.int64), SIZE, folder)
    with pytest.raises(ValueError, match=r"rows must lie in 0\.\.71, got 0, 72"):
        open_cache(table, np.array([0, 72]), SIZE, folder)
    with pytest.raises(ValueError, match="rows must have one dimension"):
        open_cache(table, np.zeros((2, 2), np.int64), SIZE, folder)
    with pytest.raises(ValueError, match=r"size must be \(height, width\)"):
        open_cache(table, table.rows("train"), (0, 4), folder)
