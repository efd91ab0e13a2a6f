import numpy as np
import pytest

from vireid_fast.data import grouping
from vireid_fast.data.grouping import segment_plan
from vireid_fast.data.samplers import IdentitySampler, relabel

GENERATOR = np.random.default_rng(0)
VISIBLE = GENERATOR.permutation(np.r_[np.arange(7), GENERATOR.integers(0, 7, 60)])
INFRARED = GENERATOR.permutation(np.r_[np.arange(7), GENERATOR.integers(0, 7, 30)])


def make(p=3, k=4, seed=0, **options):
    return IdentitySampler(VISIBLE, INFRARED, p, k, seed, **options)


def batches(sampler, epoch=0, **options):
    return [(v.tolist(), r.tolist()) for v, r in sampler.epoch(epoch, **options)]


def test_relabel():
    labels, ids = relabel(np.array([30, 5, 30, 9]))
    assert (labels.tolist(), ids.tolist()) == ([2, 0, 2, 1], [5, 9, 30])
    assert labels.dtype == ids.dtype == np.int64


@pytest.mark.parametrize(("p", "k", "count"), [(3, 4, 6), (7, 1, 10), (2, 33, 2), (1, 67, 2)])
def test_batches_of_an_epoch(p, k, count):
    sampler = make(p, k)
    assert len(sampler) == max(len(VISIBLE), len(INFRARED)) // (p * k) + 1 == count
    assert len(batches(sampler)) == count


@pytest.mark.parametrize("replace", [True, False])
def test_batches_are_balanced_and_aligned(replace):
    for visible, infrared in make(replace=replace).epoch(0):
        assert visible.dtype == infrared.dtype == np.int64
        labels = VISIBLE[visible]
        np.testing.assert_array_equal(labels, INFRARED[infrared])
        blocks = labels.reshape(3, 4)
        assert (blocks == blocks[:, :1]).all()
        assert len(set(blocks[:, 0])) == 3


def test_draws_are_a_function_of_seed_and_epoch():
    assert batches(make(), 3) == batches(make(), 3)
    assert batches(make(), 3) != batches(make(), 4)
    assert batches(make(seed=1), 3) != batches(make(), 3)


def test_global_random_state_is_neither_read_nor_changed():
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    first = batches(make())
    assert np.random.get_state()[1].tolist() == before
    np.random.seed(2)
    assert batches(make()) == first


def test_epoch_resumes_at_a_batch():
    assert batches(make(), 5, start=4) == batches(make(), 5)[4:]
    assert batches(make(), 5, start=6) == []


def test_draws_are_uniform():
    sampler = make(p=2, k=8)
    visible = np.concatenate([v for epoch in range(400) for v, _ in sampler.epoch(epoch)])
    identities = np.bincount(VISIBLE[visible], minlength=7) / len(visible)
    # 4 standard deviations of the share of an identity, drawn 2000 x 2 times in blocks of 8.
    np.testing.assert_allclose(identities, 1 / 7, atol=4 * np.sqrt(1 / 7 * 6 / 7 / 4000))
    images = np.bincount(visible, minlength=len(VISIBLE))
    for label in range(7):
        counts = images[label == VISIBLE]
        np.testing.assert_allclose(counts, counts.mean(), atol=5 * np.sqrt(counts.mean()))


def test_with_replacement_repeats_images():
    assert any(len(set(v)) < len(v) for v, _ in batches(make(p=2, k=5)))


def test_without_replacement_where_there_are_enough():
    visible = np.repeat([0, 1], [5, 2])
    infrared = np.repeat([0, 1], [4, 9])
    sampler = IdentitySampler(visible, infrared, 2, 4, seed=0, replace=False)
    drawn = set()
    for epoch in range(50):
        for v, r in sampler.epoch(epoch):
            first = visible[v[0]]
            v, r = v.reshape(2, 4)[[first, 1 - first]], r.reshape(2, 4)[[first, 1 - first]]
            assert len(set(v[0])) == len(set(r[0])) == len(set(r[1])) == 4
            assert set(v[1]) <= {5, 6}
            drawn |= {*v[0], *v[1]}
    assert drawn == set(range(7))


def test_identity_with_one_image_is_repeated():
    sampler = IdentitySampler(np.array([0]), np.array([0]), 1, 4, seed=0)
    assert batches(sampler) == [([0] * 4, [0] * 4)]


def test_labels_may_have_gaps():
    sampler = IdentitySampler(np.array([2, 9]), np.array([9, 2]), 2, 1, seed=0)
    for visible, infrared in sampler.epoch(0):
        np.testing.assert_array_equal(visible, 1 - infrared)


def test_aligned_pairs_join_the_epoch():
    sampler = make()
    visible, infrared = sampler.aligned_pairs(2)
    assert len(visible) == len(infrared) == len(sampler) * 12
    np.testing.assert_array_equal(VISIBLE[visible], INFRARED[infrared])
    assert visible.tolist() == [index for v, _ in batches(sampler, 2) for index in v]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"identities_per_batch": 8},
            "identities_per_batch must be at most the 7 identities, got 8",
        ),
        ({"identities_per_batch": 0}, "identities_per_batch must be at least 1, got 0"),
        ({"instances": 0}, "instances must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"visible_labels": []}, "labels must hold visible and infrared images, got 0 visible and"),
        ({"infrared_labels": [0, -1]}, "labels must be at least 0, got -1"),
        (
            {"infrared_labels": [0, 1, 2]},
            "labels must have images of both modalities, got .* for 3, 4, 5, 6",
        ),
    ],
)
def test_rejects(change, message):
    arguments = {
        "visible_labels": VISIBLE,
        "infrared_labels": INFRARED,
        "identities_per_batch": 3,
        "instances": 4,
        "seed": 0,
    }
    with pytest.raises(ValueError, match=f"IdentitySampler: {message}"):
        IdentitySampler(**{**arguments, **change})


@pytest.mark.parametrize("native", [True, False])
def test_segment_plan_is_a_stable_sort(native, monkeypatch):
    if native and grouping.host is None:
        pytest.skip("the extension _host is not built")
    if not native:
        monkeypatch.setattr(grouping, "host", None)
    labels = np.random.default_rng(0).integers(0, 9, 200)
    labels[labels == 4] = 5
    order, offsets = segment_plan(labels, 11)
    assert order.dtype == offsets.dtype == np.int64
    assert len(offsets) == 12
    for label in range(11):
        expected = [position for position in range(200) if labels[position] == label]
        assert order[offsets[label] : offsets[label + 1]].tolist() == expected
    assert [a.tolist() for a in segment_plan(np.array([], np.int64), 2)] == [[], [0, 0, 0]]
    for wrong in (11, -1):
        with pytest.raises(ValueError, match=r"segment_plan: labels must be in \[0, 11\)"):
            segment_plan(np.array([0, wrong]), 11)
