"""The public evaluators against loops in which a short ranking keeps the last value it has."""

import numpy as np
import pytest
import torch

from vireid_fast.retrieval import dropin_metrics as module
from vireid_fast.retrieval import eval_func, eval_llcm, eval_regdb, eval_sysu
from vireid_fast.testing import limit_threads


def drops(rule: str, q_pid: int, q_cam: int, g_pid: int, g_cam: int) -> bool:
    if rule == "sysu":
        return q_cam == 3 and g_cam == 2
    return rule != "regdb" and (q_pid, q_cam) == (g_pid, g_cam)


def oracle(rule: str, distances, q_pids, g_pids, q_cams, g_cams, max_rank: int):
    """CMC, mAP and mINP query by query; the curve is as long as the longest ranking."""
    curves, lengths, precisions, penalties = [], [], [], []
    for q, row in enumerate(np.asarray(distances, np.float64)):
        ranking = [
            int(g_pids[g])
            for g in sorted(range(len(row)), key=lambda g, row=row: (row[g], g))
            if not drops(rule, q_pids[q], q_cams[q], g_pids[g], g_cams[g])
        ]
        counted = list(dict.fromkeys(ranking)) if rule in ("sysu", "llcm") else ranking
        hits = [r for r, pid in enumerate(ranking, start=1) if pid == q_pids[q]]
        if hits or rule in ("sysu", "llcm"):
            lengths.append(min(len(counted), max_rank))
        if not hits:
            continue
        first = counted.index(q_pids[q])
        curves.append([float(rank >= first) for rank in range(max_rank)])
        precisions.append(sum(n / r for n, r in enumerate(hits, start=1)) / len(hits))
        penalties.append(len(hits) / hits[-1])
    cmc = np.mean(curves, axis=0)[: max(lengths)]
    return cmc, np.mean(precisions), np.mean(penalties), len(set(lengths)) == 1


EVALUATORS = {"market": eval_func, "sysu": eval_sysu, "llcm": eval_llcm, "regdb": eval_regdb}


def make_case(num_query, num_gallery, identities, cameras, seed=0, levels=None):
    generator = np.random.default_rng(seed)
    distances = generator.random((num_query, num_gallery)).astype(np.float32)
    if levels is not None:
        distances = np.floor(distances * levels)  # ties
    sizes = (num_query, num_gallery)
    pids = [generator.integers(10, 10 + identities, size=n) for n in sizes]
    cams = [generator.integers(1, 1 + cameras, size=n) for n in sizes]
    return distances, *pids, *cams


def check(rule, case, max_rank=20, **changes):
    distances, q_pids, g_pids, q_cams, g_cams = case
    arguments = case[:3] if rule == "regdb" else case
    expected = oracle(rule, distances, q_pids, g_pids, q_cams, g_cams, max_rank)
    found = EVALUATORS[rule](*arguments, max_rank=max_rank)
    assert isinstance(found, tuple) and len(found) == (2 if rule == "market" else 3)
    assert found[0].dtype == np.float32 and isinstance(found[0], np.ndarray)
    assert found[0].shape == expected[0].shape
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found[1:], expected[1 : len(found)], rtol=1e-13)
    assert all(isinstance(value, np.float64) for value in found[1:])
    return expected[3]


# (Q, G, identities, cameras); in some of them rankings differ in length
CASES = [
    (40, 90, 6, 4),
    (17, 61, 30, 3),
    (23, 31, 4, 2),
    (5, 200, 3, 6),
    (1, 30, 1, 3),
    (30, 7, 3, 2),
]


@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("rule", EVALUATORS)
def test_equals_the_loops(rule, case, levels):
    for seed in range(3):
        check(rule, make_case(*case, seed=seed, levels=levels))


def test_default_ranks():
    case = make_case(30, 400, 80, 6)
    assert eval_func(*case)[0].shape == (50,)
    for evaluator in (eval_sysu, eval_llcm):
        assert evaluator(*case)[0].shape == (20,)
    assert eval_regdb(*case[:3])[0].shape == (20,)


@pytest.mark.parametrize("rule", EVALUATORS)
def test_small_gallery_shortens_the_curve_and_prints_the_note(rule, capsys):
    case = make_case(12, 9, 2, 4)
    check(rule, case)
    note = "Note: number of gallery samples is quite small, got 9\n"
    assert capsys.readouterr().out == note
    check(rule, case, max_rank=9)
    assert capsys.readouterr().out == ""


def test_equally_short_rankings_shorten_the_curve():
    # Every query drops one of the four items, as the public code allows: three entries.
    pids, cams = np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2])
    case = np.arange(16.0).reshape(4, 4) % 5, pids, pids, cams, cams
    assert check("market", case)
    assert eval_func(*case)[0].shape == (3,)
    # Two identities are fewer than four items.
    assert check("llcm", case)
    assert eval_llcm(*case)[0].shape == (2,)


def test_ragged_rankings_keep_their_last_value():
    # The first query drops two items and is found at once; the second drops none.
    distances = np.array([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]])
    case = (
        distances,
        np.array([1, 2]),
        np.array([1, 1, 1, 2]),
        np.array([1, 1]),
        np.array([1, 1, 2, 2]),
    )
    assert not check("market", case)
    assert eval_func(*case)[0].tolist() == [0.5, 0.5, 0.5, 1.0]


def test_sysu_drops_camera_2_for_queries_of_camera_3_alone():
    distances = np.array([[0.1, 0.2, 0.3]] * 3)
    pids = np.array([7, 7, 7])
    case = distances, pids, np.array([7, 8, 7]), np.array([3, 6, 2]), np.array([2, 2, 1])
    check("sysu", case)
    cmc, mean_precision, mean_penalty = eval_sysu(*case)
    assert cmc.tolist() == [1.0, 1.0]
    np.testing.assert_allclose(mean_precision, (1 + 2 * (1 + 2 / 3) / 2) / 3)
    np.testing.assert_allclose(mean_penalty, (1 + 2 * 2 / 3) / 3)
    # All queries of camera 3: the identities of camera 2 are left out of every ranking.
    only = case[0], pids, case[2], np.array([3, 3, 3]), case[4]
    check("sysu", only)
    assert eval_sysu(*only)[0].shape == (1,)


def test_queries_that_are_not_valid_count_nowhere():
    distances = np.array([[0.2, 0.1], [0.1, 0.2]])
    case = distances, np.array([1, 99]), np.array([1, 2]), np.array([1, 1]), np.array([4, 4])
    for rule in EVALUATORS:
        check(rule, case)
    assert eval_regdb(*case[:3])[0].tolist() == [0, 1]


def test_ties_go_to_the_lower_index():
    distances = np.zeros((2, 3))
    cmc, mean_precision, _ = eval_regdb(distances, np.array([5, 6]), np.array([6, 5, 5]))
    assert cmc.tolist() == [0.5, 1.0, 1.0]
    np.testing.assert_allclose(mean_precision, ((1 / 2 + 2 / 3) / 2 + 1) / 2)


def test_kinds_dtypes_and_strides(tmp_path, monkeypatch):
    distances, *labels = make_case(13, 60, 8, 3, levels=50)
    expected = eval_func(distances, *labels, 20)

    def same(matrix, ids):
        found = eval_func(matrix, *ids, 20)
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[1] == expected[1]

    np.save(tmp_path / "d.npy", distances)
    for elements in (1 << 24, 100):
        monkeypatch.setattr(module, "_BLOCK_ELEMENTS", elements)
        for kind in (np.float16, np.float64, np.int32, np.uint8):
            same(distances.astype(kind), labels)
        same(np.load(tmp_path / "d.npy", mmap_mode="r"), labels)
        same(np.asfortranarray(distances), labels)
        same(np.repeat(distances, 2, axis=1)[:, ::2][::-1][::-1], labels)
        for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64):
            same(torch.from_numpy(distances).to(kind), labels)
        same(torch.from_numpy(distances.T.copy()).T, [torch.from_numpy(ids) for ids in labels])
    same(distances, [ids.astype(np.int32) for ids in labels])
    same(distances, [ids.astype(np.float32) for ids in labels])
    same(distances, [ids.tolist() for ids in labels])


def test_float64_is_ranked_in_float64():
    # All one value in float32, of every layout.
    distances = 1 + 1e-12 * np.random.default_rng(0).random((8, 40))
    _, *labels = make_case(8, 40, 5, 3)
    check("market", (distances, *labels), max_rank=20)
    expected = eval_func(distances, *labels)[1]
    for matrix in (
        np.asfortranarray(distances),
        torch.from_numpy(distances),
        torch.from_numpy(distances.T.copy()).T,
    ):
        assert eval_func(matrix, *labels)[1] == expected


@pytest.mark.gpu
def test_runs_on_the_gpu():
    distances, *labels = make_case(13, 60, 8, 3)
    for rule, evaluator in EVALUATORS.items():
        ids = labels[:2] if rule == "regdb" else labels
        for expected, found in zip(
            evaluator(distances, *ids),
            evaluator(torch.from_numpy(distances).cuda(), *ids),
            strict=True,
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_threads_and_blocks_change_no_bit(monkeypatch):
    case = make_case(40, 90, 6, 4, levels=30)
    expected = eval_sysu(*case)
    with limit_threads(2):
        found = eval_sysu(*case)
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 500)
    for result in (found, eval_sysu(case[0].astype(np.float16), *case[1:])):
        np.testing.assert_array_equal(result[0], expected[0])
        assert result[1:] == expected[1:]


def test_infinite_distances_stand_last():
    case = list(make_case(9, 30, 3, 3))
    case[0][:, ::3] = np.inf
    case[0][2, 5] = -np.inf
    for rule in EVALUATORS:
        check(rule, case)


@pytest.mark.parametrize("rule", EVALUATORS)
def test_errors(rule, monkeypatch):
    evaluator = EVALUATORS[rule]
    distances, *labels = make_case(6, 25, 2, 3)
    labels = labels[:2] if rule == "regdb" else labels

    def refuses(error, match, matrix=distances, ids=labels, **options):
        with pytest.raises(error, match=match):
            evaluator(matrix, *ids, **options)

    refuses(
        ValueError,
        rf"{evaluator.__name__}: q_pids must have shape \(6,\)",
        distances,
        labels[1:] + labels[:1],
    )
    refuses(
        ValueError, r"g_pids must have shape \(25,\)", ids=[labels[0], labels[1][:3], *labels[2:]]
    )
    refuses(TypeError, "q_pids must hold integers", ids=[labels[0] + 0.5, *labels[1:]])
    refuses(TypeError, "q_pids must hold integers", ids=[labels[0].astype(str), *labels[1:]])
    refuses(ValueError, r"distmat must have shape \(Q, G\) with at least one", distances[0])
    refuses(ValueError, "with at least one row and one column", distances[:, :0])
    refuses(TypeError, "distmat must hold real numbers", distances + 1j)
    refuses(TypeError, "distmat must hold real numbers", distances > 0)
    refuses(TypeError, r"distmat must be a torch\.Tensor, got list", distances.tolist())
    refuses(
        RuntimeError, "must not require a gradient", torch.from_numpy(distances).requires_grad_()
    )
    refuses(ValueError, "max_rank must be at least 1, got 0", max_rank=0)
    strangers = [labels[0] + 100, *labels[1:]]
    refuses(ValueError, "query must hold at least one valid query, got 6 queries", ids=strangers)
    elsewhere = [torch.empty(6, device="meta"), *labels[1:]]
    refuses(ValueError, "must be on one device", torch.from_numpy(distances), elsewhere)
    broken = distances.copy()
    broken[4, 2] = np.nan
    refuses(ValueError, "hold no NaN, got nan in row 4", broken)
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 50)
    refuses(ValueError, "hold no NaN, got nan in row 4", broken.astype(np.float16))
    broken.setflags(write=False)
    refuses(ValueError, "hold no NaN, got nan in row 4", broken)
