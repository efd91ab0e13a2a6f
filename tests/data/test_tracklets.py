"""Choosing tracklets of a table, and what the readers of tracklets share."""

import numpy as np
import pytest
from tracklet_tables import ROWS, make_tracklets

from vireid_fast.data.datasets.findings import Findings, existing
from vireid_fast.data.structure import count_long, count_structure
from vireid_fast.data.tracklets import drop_short, select_tracklets

PARTNER = [1, 0, 3, 2, -1, -1, 7, 6]


def test_selected_tracklets_keep_their_frames_and_partners():
    table = make_tracklets(partner=PARTNER)
    chosen = select_tracklets(table, np.array([7, 2, 6, 0]))
    assert chosen.person_ids.tolist() == [9, 5, 9, 3]
    assert chosen.length.tolist() == [1, 9, 7, 2]
    assert chosen.frame_rows(3).tolist() == [0, 1]
    assert chosen.partner.tolist() == [2, -1, 0, -1]
    assert chosen.roles.tolist() == [1, -1, 0, -1]
    assert chosen.frames is table.frames
    assert table.partner.tolist() == PARTNER
    nothing = select_tracklets(table, np.empty(0, np.int64))
    assert len(nothing) == 0 and nothing.partner.tolist() == []
    assert select_tracklets(make_tracklets(), np.array([1])).partner is None


@pytest.mark.parametrize("frames", [1, 3, 5, 10])
def test_short_tracklets_are_dropped_from_all_splits(frames):
    kept = drop_short(make_tracklets(partner=PARTNER), frames)
    expected = [row for row, (*_, length, _) in enumerate(ROWS) if length >= frames]
    assert kept.start.tolist() == make_tracklets().start[expected].tolist()
    for place, row in enumerate(expected):
        other = PARTNER[row]
        assert kept.partner[place] == (expected.index(other) if other in expected else -1)


def test_long_tracklets_are_counted():
    assert count_long(make_tracklets(), 5) == {
        "visible training, 5 frames or more": 1,
        "infrared training, 5 frames or more": 2,
        "visible queries, 5 frames or more": 0,
        "infrared queries, 5 frames or more": 0,
        "visible gallery, 5 frames or more": 1,
        "infrared gallery, 5 frames or more": 0,
    }
    assert len(count_long(make_tracklets(roles=False), 5)) == 2
    assert count_structure(make_tracklets()).total_frames == 2 + 5 + 9 + 4 + 3 + 6 + 7 + 1
    assert count_structure(make_tracklets().frames).total_frames is None


def test_existing_files(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "1.jpg").touch()
    (tmp_path / "a" / "b" / "2.jpg").touch()
    (tmp_path / "3.jpg").touch()
    findings = Findings()
    paths = ["a/1.jpg", "a/b", "a/b/2.jpg", "3.jpg", "a/9.jpg", "none/1.jpg", "3.jpg/4.jpg"]
    present = existing(tmp_path, [*paths, "3.jpg"], "list.txt", findings)
    assert present == {"a/1.jpg", "a/b/2.jpg", "3.jpg"}
    (problem,) = findings.problems
    assert problem.startswith(
        "list.txt: every listed image must exist, got 4 of 7 that do not: a/b, a/9.jpg, "
        "none/1.jpg, 3.jpg/4.jpg. Restore them in"
    )
