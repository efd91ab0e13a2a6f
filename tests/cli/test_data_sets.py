"""`vireid synth` and `vireid check-data` with every layout, good and broken."""

import json
import re
import shutil
from pathlib import Path

import pytest
from command_line import TINY
from PIL import Image

from vireid_fast.data.datasets import DATASETS
from vireid_fast.data.synthetic import LAYOUTS

SIZE = ("--height", 32, "--width", 16)


@pytest.fixture(scope="session")
def pristine_sets(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sets")


@pytest.fixture
def drawn(pristine_sets, tmp_path, vireid):
    """`drawn(layout, *options)`: a small set that a test may damage."""

    def draw(layout: str, *options: object) -> Path:
        name = "_".join(map(str, (layout, *options)))
        if not (pristine_sets / name).exists():
            vireid.ok("synth", "--layout", layout, "--out", pristine_sets / name,
                      "--identities", 4, *SIZE, *options)  # fmt: skip
        return Path(shutil.copytree(pristine_sets / name, tmp_path / name))

    return draw


def check(vireid, layout, root, *options):
    return vireid("check-data", "--data", layout, "--root", root, *options)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_help_names_every_layout_and_data_set(vireid, layout):
    assert layout in " ".join(vireid.ok("synth", "--help").out.replace("│", " ").split())
    assert all(name in vireid.ok("check-data", "--help").out for name in DATASETS)


@pytest.mark.parametrize(
    ("layout", "images"), [("regdb", 16), ("llcm", 4 * 2 * 7), ("manifest", 4 * 2 * 6)]
)
def test_synth_then_check_data(vireid, tmp_path, drawn, layout, images):
    root = drawn(layout, "--views", 2)
    report, sheet = tmp_path / "report.json", tmp_path / "sheet.png"
    done = check(vireid, layout, root, "--decode", "--json", report)
    assert done.code == 0, done.out
    values = json.loads(report.read_text())
    first = values["splits"][0] if layout == "regdb" else values
    assert first["ok"] is first["synthetic"] is True and first["decoded"] == images
    assert sum(first["images"]["all"].values()) == images
    published = DATASETS[layout].published
    words = "A sound synthetic set; it differs from" if published else "No published structure"
    assert words in done.out
    # A set that is not ours has to equal the published one.
    (root / "synth.json").unlink()
    assert check(vireid, layout, root).code == (1 if published else 0)
    vireid.ok("synth", "--layout", layout, "--out", tmp_path / "sheet set", "--identities", 3,
              "--views", 1, *SIZE, "--sheet", sheet)  # fmt: skip
    assert min(Image.open(sheet).size) > 100


def test_regdb_is_checked_split_by_split(vireid, tmp_path, drawn):
    root = drawn("regdb", "--views", 2)
    (root / "idx" / "train_thermal_4.txt").unlink()
    done = check(vireid, "regdb", root)
    assert done.code == 1 and f"regdb in {root}, splits 1, 2, 3, 5, 6, 7, 8, 9, 10" in done.out
    assert f"regdb in {root}, split 4\n" in done.out
    assert "problem: " in done.out and "train_thermal_4.txt: the index file is missing" in done.out
    assert check(vireid, "regdb", root, "--split", 4).code == 1
    report = tmp_path / "report.json"
    assert check(vireid, "regdb", root, "--split", 5, "--json", report).code == 0
    assert json.loads(report.read_text())["split"] == 5
    for split in (0, 11):
        message = vireid.error("check-data", "--data", "regdb", "--root", root, "--split", split)
        assert f"--split must be 1 to 10, got {split}" in message
    message = vireid.error("check-data", "--data", "llcm", "--root", root, "--split", 1)
    assert "--split must be left out for llcm, got 1. The set has one split only." in message


def test_a_manifest_of_tracklets_is_checked_by_its_file(vireid, tmp_path, drawn):
    root = drawn("manifest", "--tracklets", 1, "--tracklet-frames", 3)
    done = check(vireid, "manifest", root / "manifest.csv")
    assert done.code == 0 and done.out.splitlines()[1].split()[2:4] == ["visible", "frames"]
    assert "infrared queries: 2 tracklets" in done.out
    lines = (root / "manifest.csv").read_text().splitlines()
    (root / "manifest.csv").write_text("\n".join(line.rsplit(",", 4)[0] for line in lines))
    message = vireid.error("check-data", "--data", "manifest", "--root", root)
    assert "got 'path', 'person_id', 'camera_id' without modality, split." in message


def _leak(root):
    person = int((root / "idx" / "test_id.txt").read_text().split(",")[0])
    for word in ("vis", "nir"):
        with open(root / "idx" / f"train_{word}.txt", "a") as stream:
            for file in sorted((root / word / f"{person:04d}").iterdir()):
                stream.write(f"{word}/{person:04d}/{file.name} 7\n")
    return f"in train and test: {person}."


def _empty_index(root):
    (root / "idx" / "train_vis.txt").write_text("")
    return "train_vis.txt: the index file holds no line"


def _lose_image(root):
    lines = (root / "idx" / "train_nir.txt").read_text().splitlines()
    path = lines[0].split()[0]
    (root / path).unlink()
    return f"every listed image must exist, got 1 of {len(lines)} that do not: {path}."


@pytest.mark.parametrize("damage", [_leak, _empty_index, _lose_image])
def test_a_broken_copy_of_llcm(vireid, drawn, damage):
    root = drawn("llcm", "--views", 1)
    expected = damage(root)
    done = check(vireid, "llcm", root)
    assert done.code == 1 and expected in done.out, done.out
    assert done.out.rstrip().endswith("The data set is not complete and sound.")


def _without(root, kind, pattern, replacement):
    """Change every row of the manifest by a regular expression."""
    lines = (root / "manifest.csv").read_text().splitlines()
    rows = [re.sub(pattern, replacement, line) for line in lines[1:]]
    kept = [row for row in rows if row]
    (root / f"{kind}.csv").write_text("\n".join([lines[0], *kept]) + "\n")
    return root / f"{kind}.csv"


@pytest.mark.parametrize(
    ("pattern", "replacement", "protocol", "message"),
    [
        (r",\d,(visible|infrared)", r",,\1", "llcm/paper", "be one without cameras .* has 12 val"),
        ("query|gallery", "test", "market1501", "be one without fixed queries where .* does not"),
        (r".*,train\b.*", "", "regdb/agw", "train split must hold at least one image to train on"),
    ],
    ids=["cameras", "roles", "train"],
)
def test_training_is_refused_before_it_begins(
    vireid, tmp_path, drawn, pattern, replacement, protocol, message
):
    """What an evaluation or the training would lack in the end."""
    file = _without(drawn("manifest", "--views", 2), "own", pattern, replacement)
    assert vireid("check-data", "--data", "manifest", "--root", file).code == 0
    run = tmp_path / "run"
    answer = vireid.error(
        "train", "--config", "csdn/manifest_small", "--data-root", file, "--run", run,
        *TINY, f"evaluation.protocol={protocol}", "data.validation_share=0",
    )  # fmt: skip
    assert re.search(message, answer), answer
    assert not run.exists()
