"""Thousands of damaged files of every kind: a clear error or a right result, nothing else.

The files are read in processes of their own, so that a crash, a hang or a blow-up of memory is
seen as what it is; afterwards the folder is as it was.
"""

from pathlib import Path

import pytest
from kinds import KINDS
from mutations import damaged
from reading import Outcome, read_all, state

FULL, SHORT = 600, 12


def _targets(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    found = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    assert found
    return found


def _report(name: str, target: Path, bad: list[tuple[bytes, Outcome]]) -> str:
    content, outcome = bad[0]
    return (
        f"{len(bad)} damaged files of {name} ({target.name}), the first: {outcome.kind}: "
        f"{outcome.detail}\nContent: {content[:2000]!r}"
    )


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_or_read_right(name, tmp_path, faults_full, count):
    kind, folder = KINDS[name], tmp_path / "files"
    folder.mkdir()
    kind.write(folder)
    before, targets = state(folder), _targets(folder, kind.targets)
    share = -(-(FULL if faults_full else SHORT) // len(targets) // kind.cost)
    for target in targets:
        is_text = kind.text or target.suffix == ".json"
        files = damaged([target.read_bytes()], share, text=is_text)
        whole, *outcomes = read_all(kind.read, folder, target, [None, *files])
        assert whole.kind == "result", whole.detail
        pairs = list(zip(files, outcomes, strict=True))
        bad = [(content, outcome) for content, outcome in pairs if not outcome.is_good]
        assert not bad, _report(name, target, bad)
        if kind.exact:
            wrong = [(content, outcome) for content, outcome in pairs
                     if outcome.kind == "result" and outcome.detail != whole.detail]  # fmt: skip
            assert not wrong, "a wrong result of " + _report(name, target, wrong)
        count(f"mutated {name}", len(files))
    assert state(folder) == before
