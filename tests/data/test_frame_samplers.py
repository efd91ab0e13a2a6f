import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tracklet_tables import make_tracklets

from vireid_fast.data.draws import Draws
from vireid_fast.data.frame_samplers import (
    SAMPLERS,
    require_long_enough,
    sample_chunks,
    sample_uniform,
)
from vireid_fast.data.table import DatasetError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def padded_chunks(length, frames):
    """The frames of each chunk, from lists."""
    listed = list(range(length))
    size = 1
    while size * frames < length:
        size += 1
    while len(listed) < size * frames:
        listed.append(length - 1)
    return [listed[size * part : size * part + size] for part in range(frames)]


@pytest.mark.parametrize(
    ("length", "frames", "expected"),
    [
        (24, 6, [0, 4, 8, 12, 16, 20]),
        (13, 6, [0, 3, 6, 9, 12, 12]),
        (12, 6, [0, 2, 4, 6, 8, 10]),
        (7, 6, [0, 2, 4, 6, 6, 6]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (4, 6, [0, 1, 2, 3, 3, 3]),
        (1, 3, [0, 0, 0]),
        (5, 1, [0]),
        (25, 16, [*range(0, 24, 2), 24, 24, 24, 24]),
    ],
)
def test_chunks_at_test(length, frames, expected):
    assert sample_chunks(length, frames, None).tolist() == expected
    assert expected == [chunk[0] for chunk in padded_chunks(length, frames)]


@pytest.mark.parametrize(
    ("length", "frames", "expected"),
    [
        (20, 10, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]),
        (24, 10, [0, 2, 4, 7, 9, 12, 14, 16, 19, 21]),
        (10, 10, [*range(10)]),
        (3, 10, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]),
        (1, 4, [0, 0, 0, 0]),
        (9, 1, [0]),
    ],
)
def test_uniform_at_test(length, frames, expected):
    assert sample_uniform(length, frames, None).tolist() == expected


def test_uniform_at_test_rounds_as_the_public_code():
    for frames, length in itertools.product([1, 3, 6, 7, 10, 49], range(1, 200)):
        published = np.linspace(0, length, frames, endpoint=False, dtype=int)
        np.testing.assert_array_equal(sample_uniform(length, frames, None), published)
    # With T = 10 the product is never below a whole fraction.
    exact = [[i * n // 10 for i in range(10)] for n in range(1, 200)]
    assert sample_uniform(np.arange(1, 200), 10, None).tolist() == exact


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 60), frames=st.integers(1, 20), seed=st.integers(0, 99))
def test_chunks_in_training_stay_in_their_chunks(length, frames, seed):
    drawn = sample_chunks(length, frames, seeded(seed))
    uniforms = torch.rand((1, frames), generator=seeded(seed), dtype=torch.float64)[0].tolist()
    chunks = padded_chunks(length, frames)
    expected = [
        chunk[math.floor(u * len(chunk))] for chunk, u in zip(chunks, uniforms, strict=True)
    ]
    assert drawn.tolist() == expected
    if length <= frames:
        assert drawn.tolist() == sample_chunks(length, frames, None).tolist()


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 40), frames=st.integers(1, 15), seed=st.integers(0, 99))
def test_uniform_in_training_is_sorted_and_distinct_where_it_can_be(length, frames, seed):
    drawn = sample_uniform(length, frames, seeded(seed)).tolist()
    assert drawn == sorted(drawn)
    assert drawn[0] >= 0
    assert drawn[-1] < length
    if length >= frames:
        assert len(set(drawn)) == frames
    else:
        uniforms = torch.rand((1, frames), generator=seeded(seed), dtype=torch.float64)[0].tolist()
        assert drawn == sorted(math.floor(u * length) for u in uniforms)


def test_chunks_draw_padded_frames_more_often():
    drawn = sample_chunks(np.full(6000, 11), 4, seeded())
    # Chunks 0-2, 3-5, 6-8 and 9, 10, 10; 4.5 standard deviations of each share.
    for column, shares in enumerate([*[[1 / 3] * 3] * 3, [1 / 3, 2 / 3]]):
        counts = np.bincount(drawn[:, column] - 3 * column)
        deviation = 4.5 * np.sqrt(6000 * np.array(shares) * (1 - np.array(shares)))
        assert (np.abs(counts - 6000 * np.array(shares)) < deviation).all()


def test_every_set_of_frames_is_equally_likely():
    drawn = sample_uniform(np.full(6000, 5), 3, seeded())
    sets, counts = np.unique(drawn, axis=0, return_counts=True)
    assert sets.tolist() == [list(s) for s in itertools.combinations(range(5), 3)]
    # 600 expected of each of 10 sets; 4.5 standard deviations.
    assert (np.abs(counts - 600) < 4.5 * math.sqrt(600)).all()


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_batch_is_its_tracklets(sampler):
    lengths = np.array([1, 5, 6, 13, 24, 300])
    at_test = sampler(lengths, 6, None)
    assert at_test.dtype == np.int64
    assert at_test.tolist() == [sampler(n, 6, None).tolist() for n in lengths]
    drawn = sampler(lengths, 6, seeded(3))
    one_by_one = seeded(3)
    assert drawn.tolist() == [sampler(n, 6, one_by_one).tolist() for n in lengths]
    assert not np.array_equal(drawn, sampler(lengths, 6, seeded(4)))
    assert sampler(np.empty(0, np.int64), 6, seeded()).shape == (0, 6)
    assert lengths.tolist() == [1, 5, 6, 13, 24, 300]


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_process_draws_for_its_part(sampler):
    """Whatever the lengths in its part, the draws are those of the whole batch."""
    lengths = np.array([30, 2, 400, 9, 7])
    alone, rows = seeded(5), torch.tensor([3, 1])
    draws = Draws(seeded(5), 5, rows)
    for _ in range(2):
        expected = sampler(lengths, 4, alone)
        np.testing.assert_array_equal(sampler(lengths[rows.numpy()], 4, draws), expected[[3, 1]])


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_samplers_reject(sampler):
    with pytest.raises(ValueError, match=r"sample_\w+: frames must be at least 1, got 0"):
        sampler(5, 0, None)
    with pytest.raises(TypeError, match=r"sample_\w+: frames must be an integer, got 2\.5"):
        sampler(5, 2.5, None)
    with pytest.raises(ValueError, match=r"sample_\w+: lengths must be at least 1, got 0"):
        sampler(np.array([3, 0]), 4, None)
    with pytest.raises(TypeError, match=r"sample_\w+: lengths must be integers, got float64"):
        sampler(np.array([3.0]), 4, None)
    with pytest.raises(ValueError, match=r"must have shape \(\) or \(B,\), got \(1, 1\)"):
        sampler(np.array([[3]]), 4, None)


def test_short_tracklets_are_named():
    table = make_tracklets()
    require_long_enough(table, table.rows("train"), 2)
    require_long_enough(table, np.array([1, 2]), 5)
    with pytest.raises(DatasetError) as error:
        require_long_enough(table, table.rows("train"), 4)
    message = str(error.value)
    assert "tracks: every tracklet must have at least 4 frames, got 2 shorter ones" in message
    assert "0/1.jpg (identity 3, visible, 2 frames), 4/1.jpg (identity 8, visible" in message
    with pytest.raises(DatasetError, match=r"got 8 shorter ones, .* and 4 more"):
        require_long_enough(table, np.arange(8), 99)
