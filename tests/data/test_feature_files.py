"""Feature files: round trips, files of others, damaged files."""

import os

import numpy as np
import pytest
import safetensors.torch
import torch

from vireid_fast.data import feature_files, feature_formats, h5_reading
from vireid_fast.data.feature_files import (
    read_features,
    read_metadata,
    read_paths,
    write_features,
)


def make_arrays(rows=5, width=3):
    generator = np.random.default_rng(0)
    return {
        "features": generator.standard_normal((rows, width)).astype(np.float32),
        "person_ids": np.arange(rows),
        "camera_ids": np.arange(rows) % 6 + 1,
        "modality": np.arange(rows) % 2,
        "image_indices": np.arange(rows) + 1,
        "roles": np.arange(rows) % 3 - 1,
    }


@pytest.fixture(params=[".npz", ".safetensors", ".h5"])
def path(request, tmp_path):
    return tmp_path / f"features{request.param}"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8])
def test_round_trip(path, dtype):
    arrays = make_arrays()
    arrays["features"] = (10 * arrays["features"]).astype(dtype)
    notes = {"checkpoint": "stage3", "note": 'Gänse "quoted"'}
    write_features(path, arrays, notes)
    back = read_features(path)
    assert back.keys() == arrays.keys()
    for key, array in arrays.items():
        assert back[key].dtype == array.dtype
        np.testing.assert_array_equal(back[key], array)
    assert read_metadata(path) == notes
    assert os.listdir(path.parent) == [path.name]


def test_round_trip_without_optional_keys_and_of_views(path):
    arrays = {key: make_arrays()[key] for key in feature_files.REQUIRED_KEYS}
    arrays["features"] = arrays["features"].T[::-1].T
    write_features(path, arrays)
    back = read_features(path)
    assert back.keys() == arrays.keys()
    np.testing.assert_array_equal(back["features"], arrays["features"])
    assert read_metadata(path) == {}


def test_reads_a_file_of_another_program(tmp_path):
    arrays = make_arrays()
    np.savez_compressed(tmp_path / "other.npz", **arrays, paths=np.array(["a", "b"]))
    assert read_features(tmp_path / "other.npz").keys() == arrays.keys()
    assert read_metadata(tmp_path / "other.npz") == {}
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    tensors["features"] = tensors["features"].bfloat16()
    safetensors.torch.save_file(tensors, tmp_path / "other.safetensors")
    back = read_features(tmp_path / "other.safetensors")
    assert back["features"].dtype == np.float32
    np.testing.assert_array_equal(back["features"], tensors["features"].float().numpy())


def test_failed_write_keeps_the_previous_file(path, monkeypatch):
    arrays = make_arrays()
    write_features(path, arrays)

    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_formats.np, "savez", full_disk)
    monkeypatch.setattr(feature_formats.safetensors.numpy, "save_file", full_disk)
    monkeypatch.setattr("h5py.File", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_features(path, make_arrays(rows=7))
    np.testing.assert_array_equal(read_features(path)["features"], arrays["features"])
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_file_is_named(path, keep):
    write_features(path, make_arrays())
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    for read in (read_features, read_metadata):
        with pytest.raises(ValueError, match=f"{path.name} must be a complete"):
            read(path)


def test_garbage_is_named(path):
    path.write_bytes(b"no archive at all" * 20)
    with pytest.raises(ValueError, match=f"{path.name} must be a complete"):
        read_features(path)


@pytest.mark.parametrize("name", ["digests", "features"])
def test_damage_to_the_digests_does_not_hide_other_damage(tmp_path, name):
    path = tmp_path / "a.safetensors"
    write_features(path, make_arrays(), {"method": "csdn"})
    content = path.read_bytes()
    at = content.index(name.encode())
    path.write_bytes(content[:at] + b"D" + content[at + 1 :])
    for read in (read_features, read_metadata):
        with pytest.raises(ValueError, match=r"a\.safetensors must be .* other digests"):
            read(path)


def test_flipped_bit_is_found(tmp_path):
    path = tmp_path / "features.npz"
    write_features(path, make_arrays())
    content = bytearray(path.read_bytes())
    content[content.index(make_arrays()["features"].tobytes()) + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"features\.npz must be a complete .* CRC"):
        read_features(path)


def test_single_array_under_the_wrong_name(tmp_path):
    with open(tmp_path / "features.npz", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="one single array"):
        read_features(tmp_path / "features.npz")


def test_objects_are_not_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    arrays = make_arrays() | {"person_ids": np.array([Bomb()], dtype=object)}
    np.savez(tmp_path / "features.npz", **arrays)
    with pytest.raises(ValueError, match="plain numeric arrays, got ValueError: Object arrays"):
        read_features(tmp_path / "features.npz")
    assert not (tmp_path / "exploded").exists()


def test_missing_key_lists_those_present(tmp_path):
    np.savez(tmp_path / "features.npz", feat=np.zeros((2, 2)), person_ids=np.zeros(2, int))
    match = r"features\.npz: key 'features' must be in the file, got only \['feat', 'person_ids'\]"
    with pytest.raises(ValueError, match=match):
        read_features(tmp_path / "features.npz")


def test_absent_file_and_unknown_suffix(tmp_path):
    with pytest.raises(FileNotFoundError, match="path must be an existing file"):
        read_features(tmp_path / "absent.npz")
    (tmp_path / "features.csv").touch()
    match = r"path suffix must be one of \['.npz', '.safetensors', '.h5'\], got '.csv'"
    with pytest.raises(ValueError, match=match):
        read_features(tmp_path / "features.csv")
    with pytest.raises(ValueError, match=match):
        write_features(tmp_path / "features.csv", make_arrays())


def test_write_rejects_wrong_arrays(path):
    arrays = make_arrays()
    with pytest.raises(ValueError, match="arrays must have the key 'person_ids'"):
        write_features(path, {k: v for k, v in arrays.items() if k != "person_ids"})
    with pytest.raises(ValueError, match="array name must be one of"):
        write_features(path, arrays | {"modalities": arrays["modality"]})
    with pytest.raises(TypeError, match="person_ids must be an array of numbers, got object"):
        write_features(path, arrays | {"person_ids": np.array(["a"] * 5, dtype=object)})
    assert not path.exists()


NAMES = ["cam1/a b.jpg", "Gänse/ü.png", "new\nline.jpg", "", "\udcff.jpg"]


def test_paths_come_back_and_do_not_disturb_the_arrays(path):
    write_features(path, make_arrays(), {"root": "/data"}, NAMES)
    assert read_paths(path) == NAMES
    assert read_features(path).keys() == make_arrays().keys()
    assert read_metadata(path) == {"root": "/data"}
    write_features(path, make_arrays(rows=0), paths=[])
    assert read_paths(path) == []
    write_features(path, make_arrays())
    assert read_paths(path) is None


def test_paths_that_do_not_fit_are_refused(path, tmp_path):
    with pytest.raises(ValueError, match="paths must have one name for each of the 5 rows, got 2"):
        write_features(path, make_arrays(), paths=["a", "b"])
    with pytest.raises(ValueError, match="paths must hold no NUL character"):
        write_features(path, make_arrays(), paths=["a\0b"] * 5)
    assert not path.exists()
    # Plain text, as other programs write it, is read as well.
    other = tmp_path / "other.npz"
    np.savez(other, **make_arrays(), paths=np.array(list("abcde")))
    assert read_paths(other) == list("abcde")
    np.savez(other, **make_arrays(), paths=np.array(list("ab")))
    with pytest.raises(ValueError, match="have one name for each of the 5 rows, got 2"):
        read_paths(other)
    np.savez(other, **make_arrays(), paths=np.arange(5))
    with pytest.raises(ValueError, match="not names that each end in NUL"):
        read_paths(other)


def test_notes_that_are_no_object_are_named(tmp_path):
    np.savez(tmp_path / "f.npz", **make_arrays(), metadata=np.array("[1]"))
    with pytest.raises(ValueError, match="got ValueError: metadata that is a list"):
        read_metadata(tmp_path / "f.npz")


def _outside(file, tmp_path, kind):
    """An array `features` that lies in another file, in one of HDF5's four ways."""
    import h5py

    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other["features"] = np.ones((5, 3))
    if kind == "external link":
        file["features"] = h5py.ExternalLink("secret.h5", "/features")
    elif kind == "soft link":
        file["features"] = h5py.SoftLink("/person_ids")
    elif kind == "virtual":
        layout = h5py.VirtualLayout((5, 3), float)
        layout[:] = h5py.VirtualSource("secret.h5", "features", (5, 3))
        file.create_virtual_dataset("features", layout)
    elif kind == "external storage":
        file.create_dataset("features", (5, 3), float, external=[("secret.h5", 0, 120)])
    elif kind == "empty":
        file.create_dataset("features", (10**9, 10**6), np.float32, chunks=(1, 10**6))
    elif kind == "group":
        file.create_group("features")
    else:
        file["features"] = ["a", "b"]


@pytest.mark.parametrize(("kind", "expected"), [
    ("external link", "is a link"), ("soft link", "is a link"), ("virtual", "lies in another"),
    ("external storage", "lies in another file"), ("empty", "with only 0 bytes of content"),
    ("group", "is a group, not an array"), ("text", "holds object, not numbers"),
])  # fmt: skip
def test_hostile_hdf5_reads_nothing_else_and_fills_no_memory(tmp_path, kind, expected):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["person_ids"] = np.arange(5)
        _outside(file, tmp_path, kind)
    with pytest.raises(ValueError, match=rf"f\.h5 must be a complete \.h5 file .*{expected}"):
        read_features(tmp_path / "f.h5")


def test_hdf5_that_crashes_its_library_or_never_ends_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    write_features(path, make_arrays())
    crash, sleep = tmp_path / "crash.py", tmp_path / "sleep.py"
    crash.write_text("import os; os.abort()")
    sleep.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(h5_reading, "_SECONDS", 0.2)
    for script in (crash, sleep):
        monkeypatch.setattr(h5_reading, "_SCRIPT", script)
        with pytest.raises(ValueError, match="a file on which HDF5 crashes or does not end"):
            read_features(path)


def test_hdf5_is_read_where_only_this_process_knows_of_h5py(tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    write_features(path, make_arrays())
    (tmp_path / "known.py").write_text("")
    script = tmp_path / "inner" / "script.py"
    script.parent.mkdir()
    script.write_text(f"import known\n{h5_reading._SCRIPT.read_text(encoding='utf-8')}")
    monkeypatch.setattr(h5_reading, "_SCRIPT", script)
    with pytest.raises(ValueError, match="HDF5 crashes"):
        read_features(path)
    monkeypatch.syspath_prepend(tmp_path)
    assert np.array_equal(read_features(path)["features"], make_arrays()["features"])


@pytest.mark.parametrize("program", [None, "", "/absent/python"])
def test_hdf5_without_a_python_to_start_is_refused(tmp_path, monkeypatch, program):
    write_features(tmp_path / "f.h5", make_arrays())
    monkeypatch.setattr(h5_reading.sys, "executable", program)
    with pytest.raises(RuntimeError, match=r"sys\.executable must name Python's own program"):
        read_features(tmp_path / "f.h5")


def test_hdf5_without_h5py_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(h5_reading.importlib.util, "find_spec", lambda name: None)
    expected = "h5py must be installed for .h5 files, got none. Run: pip install h5py"
    with pytest.raises(RuntimeError, match=expected):
        write_features(tmp_path / "f.h5", make_arrays())
    (tmp_path / "f.h5").touch()
    with pytest.raises(RuntimeError, match=expected):
        read_features(tmp_path / "f.h5")
