from dataclasses import replace

import numpy as np
import pytest
from tracklet_tables import make_tracklets

from vireid_fast.data.holdout import hold_out
from vireid_fast.data.table import ImageTable


def make_images(people=20, roles=False) -> ImageTable:
    """Two visible and one infrared image of each identity 1..people, the last two tested."""
    ids = np.repeat(np.arange(1, people + 1), 3)
    table = make_tracklets().frames
    return replace(
        table,
        paths=tuple(f"{n}.jpg" for n in range(len(ids))),
        person_ids=ids,
        camera_ids=np.tile([1, 1, 3], people),
        modality=np.tile([0, 0, 1], people),
        image_indices=np.tile([1, 2, 1], people),
        splits={
            "train": np.arange(1, people - 1),
            "val": np.empty(0, np.int64),
            "test": np.array([people - 1, people]),
        },
        roles=np.where(ids > people - 2, 1, -1) if roles else None,
    )


@pytest.mark.parametrize(("share", "count"), [(0.2, 4), (0.25, 4), (0.01, 1), (0.99, 17), (0.5, 9)])
def test_a_share_moves(share, count):
    table = make_images()
    result = hold_out(table, share, seed=3)
    assert len(result.splits["val"]) == count
    assert len(result.splits["train"]) == 18 - count
    joined = np.concatenate([result.splits["train"], result.splits["val"]])
    assert sorted(joined) == table.splits["train"].tolist()
    assert (np.diff(result.splits["val"]) > 0).all()
    assert result.splits["test"].tolist() == [19, 20]
    assert result.rows("val").tolist() == [
        row for row in range(60) if result.person_ids[row] in result.splits["val"]
    ]
    # The given table keeps its splits.
    assert len(table.splits["train"]) == 18
    assert result.roles is None


def test_the_seed_decides():
    table = make_images()
    first = hold_out(table, 0.4, seed=1).splits["val"].tolist()
    assert hold_out(table, 0.4, seed=1).splits["val"].tolist() == first
    others = {tuple(hold_out(table, 0.4, seed=seed).splits["val"]) for seed in range(5)}
    assert len(others) == 5
    rows = np.arange(60)[::-1]
    turned = replace(
        table, paths=table.paths[::-1], person_ids=table.person_ids[rows],
        camera_ids=table.camera_ids[rows], modality=table.modality[rows],
        image_indices=table.image_indices[rows],
    )  # fmt: skip
    assert hold_out(turned, 0.4, seed=1).splits["val"].tolist() == first


def test_every_identity_is_moved_by_some_seed():
    table = make_images()
    moved = [hold_out(table, 0.2, seed=seed).splits["val"] for seed in range(60)]
    assert set(np.concatenate(moved)) == set(range(1, 19))


def test_infrared_rows_of_the_moved_become_queries():
    table = make_images(roles=True)
    result = hold_out(table, 0.3, seed=0)
    for row in range(60):
        person, modality = result.person_ids[row], result.modality[row]
        expected = 1 if person > 18 else modality if person in result.splits["val"] else -1
        assert result.roles[row] == expected
    assert (table.roles[:54] == -1).all()


def test_tracklets_move_with_their_frames():
    table = make_tracklets()
    result = hold_out(table, 0.4, seed=2)
    (person,) = result.splits["val"].tolist()
    assert result.rows("val").tolist() == np.flatnonzero(table.person_ids == person).tolist()
    assert result.rows("train").tolist() == [
        row for row in range(6) if table.person_ids[row] != person
    ]
    expected = [
        m if p == person else -1
        for p, m in zip(table.person_ids[:6], table.modality[:6], strict=True)
    ]
    assert result.roles.tolist() == [*expected, 0, 1]
    assert result.start is table.start
    assert hold_out(make_tracklets(roles=False), 0.4, seed=2).roles is None


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5])
def test_shares_out_of_range(share):
    with pytest.raises(ValueError, match="hold_out: share must lie between 0 and 1, got"):
        hold_out(make_images(), share, seed=0)


def test_published_validation_identities_are_kept():
    table = make_tracklets(splits={"train": [3, 5], "val": [8], "test": [9]})
    with pytest.raises(ValueError, match="must have no validation identities, got 1"):
        hold_out(table, 0.5, seed=0)


def test_one_identity_cannot_be_split():
    table = make_tracklets(splits={"train": [3], "val": [], "test": [9]})
    with pytest.raises(ValueError, match="must have at least 2 training identities, got 1"):
        hold_out(table, 0.5, seed=0)
