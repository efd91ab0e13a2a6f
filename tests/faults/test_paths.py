"""Paths in manifests, lists and pointers cannot leave their folder, whatever they are made of."""

import json
import os
import unicodedata
from pathlib import Path

import pytest

from vireid_fast.data.datasets import DATASETS
from vireid_fast.data.datasets.manifest import read_manifest
from vireid_fast.data.synthetic import write_layout
from vireid_fast.data.table import DatasetError
from vireid_fast.engine.checkpoint import CheckpointError, follow

# Each leads, or could be thought to lead, to the file `secret.png` beside the data set.
OUTSIDE = (
    "../secret.png", "..", "a/../../secret.png", "./../secret.png", "a/b/../../../secret.png",
    "..\\secret.png", "a\\..\\..\\secret.png", "{secret}", "//{secret}", "C:\\secret.png",
    "c:secret.png", "\\\\server\\share\\secret.png", "{secret}\0.png", "..\0/secret.png",
    "a\n../secret.png", "\x1b[2J../secret.png", "../\u2028secret.png", ".", "", " ../secret.png ",
)  # fmt: skip
# These stay inside and name nothing.
ABSENT = (
    "~/secret.png", "$HOME/secret.png", "file://{secret}", "https://example.org/secret.png",
    "%2e%2e/secret.png", "..%2fsecret.png", "…/secret.png", "．．/secret.png", "a" * 5000,
    "a/" * 3000 + "x.png", "loop/x.png", "*.png", "a;touch canary", "`touch canary`",
    "$(touch canary)", "|touch canary",
)  # fmt: skip


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder with a manifest's images, beside a file that it must not reach."""
    root = tmp_path / "set"
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "loop").symlink_to(root / "loop")
    (tmp_path / "secret.png").touch()
    return root


def _rows(path: str) -> list[tuple[str, ...]]:
    return [
        ("path", "person_id", "modality", "split"), ("a/1.png", "1", "visible", "train"),
        ("a/2.png", "1", "infrared", "train"), ("b/1.png", "2", "visible", "train"),
        (path, "2", "infrared", "train"),
    ]  # fmt: skip


def _write_csv(root: Path, path: str) -> None:
    quoted = [[f'"{cell}"' for cell in row] for row in _rows(path)]
    text = "\n".join(",".join(row) for row in quoted) + "\n"
    (root / "manifest.csv").write_text(text, encoding="utf-8", newline="")


def _write_parquet(root: Path, path: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    names, *rows = _rows(path)
    table = pyarrow.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    parquet.write_table(table, root / "manifest.parquet")


@pytest.fixture(params=[_write_csv, _write_parquet], ids=["csv", "parquet"])
def write(request):
    return request.param


def _refusal(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        read_manifest(root)
    message = str(caught.value)
    assert str(root / "manifest.") in message
    # Control characters of the file do not reach the terminal.
    assert not any(unicodedata.category(c) == "Cc" and c != "\n" for c in message)
    lenient = read_manifest(root, strict=False)
    inside = {"a/1.png", "a/2.png", "b/1.png"}
    assert set(lenient.paths) == inside and lenient.problems
    return message


@pytest.mark.parametrize("path", OUTSIDE, ids=range(len(OUTSIDE)))
def test_manifests_cannot_name_what_lies_outside(root, write, path, tmp_path, count):
    write(root, path.format(secret=tmp_path / "secret.png"))
    assert "path must be a path below the manifest's folder" in _refusal(root)
    count("hostile paths")


@pytest.mark.parametrize("path", ABSENT, ids=range(len(ABSENT)))
def test_nothing_in_a_path_is_expanded_fetched_or_run(root, write, path, tmp_path, count):
    write(root, path.format(secret=tmp_path / "secret.png"))
    message = _refusal(root)
    assert "every listed image must exist, got 1 of 4 that do not" in message
    assert not list(tmp_path.rglob("canary*"))
    count("hostile paths")


def _link_file(root: Path, outside: Path) -> str:
    (root / "b" / "link.png").symlink_to(outside / "x.png")
    return "b/link.png"


def _link_folder(root: Path, outside: Path) -> str:
    (root / "links").symlink_to(outside)
    return "links/x.png"


def _link_deep_folder(root: Path, outside: Path) -> str:
    (outside / "deep").mkdir()
    (outside / "deep" / "x.png").touch()
    (root / "links").symlink_to(outside)
    return "links/deep/x.png"


def _link_to_link(root: Path, outside: Path) -> str:
    (root / "second").symlink_to(outside)
    (root / "first").symlink_to("second")
    return "first/x.png"


def _link_back_in(root: Path, outside: Path) -> str:
    """Through a folder outside, from which a link leads on to another file outside."""
    (outside / "y.png").symlink_to(outside / "x.png")
    (root / "links").symlink_to(outside)
    return "links/y.png"


LINKS = (_link_file, _link_folder, _link_deep_folder, _link_to_link, _link_back_in)


@pytest.mark.parametrize("link", LINKS)
def test_links_cannot_lead_out_unless_asked_for(root, write, link, tmp_path, count):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.png").touch()
    path = link(root, outside)
    write(root, path)
    message = _refusal(root)
    assert f"every listed image must lie in {root} when links are followed, got 1" in message
    assert "data.follow_links=true" in message and path in message
    assert path in read_manifest(root, follow_links=True).paths
    count("hostile paths")


def test_links_within_the_folder_and_to_it_are_fine(root, write, tmp_path):
    (root / "inner").symlink_to(root / "b")
    (root / "one.png").symlink_to("b/2.png")
    (tmp_path / "elsewhere").symlink_to(root)
    for path in ("inner/2.png", "one.png"):
        for name in ("manifest.csv", "manifest.parquet"):
            (root / name).unlink(missing_ok=True)
        write(root, path)
        assert path in read_manifest(root).paths
        assert path in read_manifest(tmp_path / "elsewhere").paths


def test_a_sibling_with_the_same_beginning_is_outside(root, tmp_path):
    sibling = tmp_path / "set-of-others"
    sibling.mkdir()
    (sibling / "x.png").touch()
    (root / "links").symlink_to(sibling)
    _write_csv(root, "links/x.png")
    assert "must lie in" in _refusal(root)


def test_names_of_another_unicode_form_are_other_files(root):
    """No form is changed: what the file system holds is what must be listed."""
    (root / "b" / unicodedata.normalize("NFD", "é.png")).touch()
    _write_csv(root, unicodedata.normalize("NFC", "b/é.png"))
    assert "every listed image must exist" in _refusal(root)
    _write_csv(root, unicodedata.normalize("NFD", "b/é.png"))
    assert len(read_manifest(root)) == 4


# List, and the line that is put in the place of its first one.
LISTS = {
    "regdb": ("idx/train_visible_1.txt", "{path} 0"),
    "llcm": ("idx/train_vis.txt", "{path} 0"),
    "hitsz_vcm": ("info/train_name.txt", "0001M2D3T1F{path}"),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    "path", ["../1/x.png", "/etc/1/x.png", "a/../../1/x.png", "..\\1\\x.png", "../" * 9 + "1/x.png"]
)
def test_lists_of_published_sets_cannot_leave_the_folder(tmp_path, name, path, count):
    root = tmp_path / "set"
    write_layout(name, root, identities=4, size=(32, 16), seed=3)
    file, line = root / LISTS[name][0], LISTS[name][1]
    _, *rest = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([line.format(path=path), *rest]) + "\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"every line must .* in line 1"):
        DATASETS[name].read(root)
    count("hostile paths")


@pytest.mark.parametrize("path", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "..\\x.jpg"])
def test_paths_of_bupt_campus_cannot_leave_the_folder(tmp_path, path, count):
    root = tmp_path / "set"
    write_layout("bupt_campus", root, identities=4, size=(32, 16), seed=3)
    file = root / "data_paths.json"
    listing = json.loads(file.read_text(encoding="utf-8"))
    cameras = next(iter(listing.values()))["RGB"]
    track = next(iter(cameras.values()))
    track[next(iter(track))] = [path]
    file.write_text(json.dumps(listing), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"every line must name a tracklet of data_paths\.json"):
        DATASETS["bupt_campus"].read(root)
    count("hostile paths")


@pytest.mark.parametrize(
    "name", ["../other", "/etc", "..", ".", "", "a/b", "a/../../b", "x\0y", 3, None, ["a"], {}]
)
def test_pointers_name_a_folder_beside_them(tmp_path, name, count):
    pointer = tmp_path / "checkpoints" / "latest.json"
    pointer.parent.mkdir()
    (tmp_path / "other").mkdir()
    pointer.write_text(json.dumps({"checkpoint": name}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"latest\.json must name a folder beside it, got"):
        follow(pointer)
    count("hostile paths")


def test_check_data_names_links_and_takes_them_when_told(root, tmp_path):
    from vireid_fast.data.check import check_folder

    (tmp_path / "outside").mkdir()
    os.link(tmp_path / "secret.png", tmp_path / "outside" / "x.png")
    _write_csv(root, _link_folder(root, tmp_path / "outside"))
    report = check_folder("manifest", root)
    assert not report.ok and "--follow-links" in str(report)
    assert check_folder("manifest", root, follow_links=True).reports[0].problems == ()
