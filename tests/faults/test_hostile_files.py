"""Files written to do harm: refused in one sentence, or harmless; nothing in them ever runs."""

from pathlib import Path

import hostile
import pytest
from kinds import KINDS
from reading import read_all, state

# Kind of file (tests/faults/kinds.py) -> its hostile contents, and the file they replace.
CASES = {
    "configurations": (hostile.configurations, "config.yaml"),
    "safetensors features": (hostile.safetensors, "features.safetensors"),
    "safetensors weights": (hostile.safetensors, "model.safetensors"),
    "npz features": (hostile.npz, "features.npz"),
    "torch weights": (hostile.torch_weights, "weights.pt"),
    "images": (hostile.images, "b.png"),
    "manifests in CSV": (hostile.manifests, "manifest.csv"),
    "manifests in Parquet": (hostile.parquet, "manifest.parquet"),
    "checkpoints": (hostile.cards, "checkpoints/latest.json"),
    "cards": (hostile.cards, "checkpoints/0-visual-0002/card.json"),
    "weights of checkpoints": (hostile.safetensors, "checkpoints/0-visual-0002/model.safetensors"),
    "permutations": (hostile.matlab, "rand_perm_cam.mat"),
}
# What may be read as it is, with the right result.
HARMLESS = {
    "configurations": {"empty", "sexagesimal"},
    "safetensors features": set(),
    "npz features": {"fortran", "big-endian", "leaving name", "twice", "lying sizes"},
    "permutations": {"cell of zero"},
    "images": {"16 bit", "broken profile", "broken EXIF", "animated", "TIFF in a circle",
               "text bomb", "profile bomb"},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_hostile_files_are_refused(case, tmp_path, count):
    build, name = CASES[case]
    kind = KINDS.get(case, KINDS["checkpoints"])
    folder, canary = tmp_path / "files", tmp_path / "canary"
    folder.mkdir()
    kind.write(folder)
    before, files = state(folder), build(f"touch {canary}")
    outcomes = read_all(kind.read, folder, folder / name, [c for _, c in files])
    for (label, _), outcome in zip(files, outcomes, strict=True):
        allowed = ("result", "error") if label in HARMLESS.get(case, ()) else ("error",)
        assert outcome.kind in allowed, f"{label}: {outcome.kind}: {outcome.detail}"
    assert not canary.exists()
    assert state(folder) == before
    count(f"hostile {case}", len(files))


def test_the_canary_would_sing(tmp_path):
    """What the files hold does run where a program trusts them."""
    import pickle

    canary: Path = tmp_path / "canary"
    pickle.loads(pickle.dumps(hostile.Payload(f"touch {canary}")))
    assert canary.exists()
