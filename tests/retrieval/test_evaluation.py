"""Whole evaluations against plain Python loops and against the official evaluator's numbers."""

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from vireid_fast.data.feature_files import read_features, write_features
from vireid_fast.data.permutations import read_permutations
from vireid_fast.retrieval.evaluation import evaluate, evaluate_pair
from vireid_fast.retrieval.feature_set import FeatureSet, feature_set_from_arrays
from vireid_fast.retrieval.metrics import METRIC_NAMES
from vireid_fast.retrieval.rerank import rerank as rerank_features

GALLERY_CAMERAS = {"all": (1, 2, 4, 5), "indoor": (1, 2)}
PLACES = {1: 1, 2: 2, 3: 2, 4: 4, 5: 5, 6: 6}
PARAMETERS = (4, 2, 0.3)


def make_set(seed, *, ties=False, identities=7, width=3):
    """A random set in SYSU-MM01's layout; ties: small integers, so that distances repeat."""
    generator = random.Random(seed)
    rows = [
        (3 * identity + 1, camera, index + 1)
        for identity in range(identities)
        for camera in range(1, 7)
        if generator.random() < 0.8
        for index in range(generator.randint(1, 4))
    ]
    generator.shuffle(rows)
    person_ids, camera_ids, image_indices = torch.tensor(rows).unbind(1)
    if ties:
        features = torch.randint(-1, 2, (len(rows), width)).float()
    else:
        features = torch.randn(len(rows), width) + 0.3 * person_ids[:, None]
    return FeatureSet(features, person_ids, camera_ids, image_indices=image_indices)


def make_permutations(features, trials=10):
    """Random permutations that fit the set: {(camera, identity): (trials, images)}."""
    counts = {}
    for key in zip(features.camera_ids.tolist(), features.person_ids.tolist(), strict=True):
        counts[key] = counts.get(key, 0) + 1
    generator = np.random.default_rng(0)
    return {
        key: np.stack([generator.permutation(count) + 1 for _ in range(trials)])
        for key, count in counts.items()
    }


def naive_distance(metric, first, second):
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    if metric == "dot":
        return -dot
    if metric == "cosine":
        return 1 - dot / math.hypot(*first) / math.hypot(*second)
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(first, second, strict=True)))


def naive_gallery(features, protocol, mode, shots, trial, permutations):
    """Rows of the gallery, from the rules as the two evaluators state them."""
    rows = {}
    for row, key in enumerate(
        zip(features.camera_ids.tolist(), features.person_ids.tolist(), strict=True)
    ):
        rows.setdefault(key, {})[int(features.image_indices[row])] = row
    identities, cameras = sorted(set(features.person_ids.tolist())), GALLERY_CAMERAS[mode]
    random.seed(trial)
    gallery = []
    if protocol == "sysu/official":
        for camera in cameras:
            for identity in identities:
                order = permutations.get((camera, identity), np.zeros((10, 0)))
                gallery += [rows[camera, identity][index] for index in order[trial][:shots]]
    else:
        for identity in identities:
            for camera in cameras:
                images = sorted(rows.get((camera, identity), {}))
                if images and shots == 1:
                    gallery.append(rows[camera, identity][random.choice(images)])
                elif images:
                    drawn = random.sample(images, min(shots, len(images)))
                    gallery += [rows[camera, identity][index] for index in drawn]
    return gallery


def naive_metrics(distances, query, gallery):
    """Metrics of one ranked gallery; query and gallery are lists of (identity, camera)."""
    found = {key: [] for key in METRIC_NAMES}
    for row, (identity, camera) in enumerate(query):
        kept = [g for g, (_, other) in enumerate(gallery) if PLACES[other] != PLACES[camera]]
        ranked = [gallery[g][0] for g in sorted(kept, key=lambda g: (distances[row][g], g))]
        hits = [rank for rank, other in enumerate(ranked, start=1) if other == identity]
        if not hits:
            continue
        distinct = list(dict.fromkeys(ranked))
        for k in (1, 5, 10, 20):
            found[f"R{k}"].append(identity in distinct[:k])
        found["mAP"].append(sum(n / rank for n, rank in enumerate(hits, start=1)) / len(hits))
        found["mINP"].append(len(hits) / hits[-1])
    metrics = {key: sum(values) / len(values) for key, values in found.items()}
    return metrics | {"valid_queries": len(found["mAP"]), "gallery_size": len(gallery)}


def columns(features, rows):
    """(identity, camera) of some rows."""
    return [(int(features.person_ids[row]), int(features.camera_ids[row])) for row in rows]


def naive_evaluation(features, protocol, mode, shots, permutations, metric):
    """Metrics of ten trials, in plain Python."""
    points = features.features.double().tolist()
    query = [row for row, camera in enumerate(features.camera_ids.tolist()) if camera in (3, 6)]
    trials = []
    for trial in range(10):
        gallery = naive_gallery(features, protocol, mode, shots, trial, permutations)
        distances = [[naive_distance(metric, points[q], points[g]) for g in gallery] for q in query]
        trials.append(
            naive_metrics(distances, columns(features, query), columns(features, gallery))
        )
    return trials


def assert_equal_trials(result, expected):
    """Each trial equals the naive one; 1e-12: order of float64 sums only."""
    assert len(result.trials) == len(expected)
    for trial, values in zip(result.trials, expected, strict=True):
        for key, value in values.items():
            assert getattr(trial, key) == pytest.approx(value, abs=1e-12), key


@pytest.mark.parametrize("protocol", ["sysu/agw", "sysu/official"])
@pytest.mark.parametrize("mode", ["all", "indoor"])
@pytest.mark.parametrize("shots", [1, 2, 10])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_equals_plain_loops(protocol, mode, shots, ties):
    features = make_set(seed=shots, ties=ties)
    permutations = make_permutations(features) if protocol == "sysu/official" else None
    default = "dot" if protocol == "sysu/agw" else "euclidean"
    # Rounding would break ties of the cosine differently in any two implementations.
    for metric in (None, "euclidean", "dot") if ties else (None, "euclidean", "dot", "cosine"):
        result = evaluate(features, protocol, mode, shots, permutations=permutations, metric=metric)
        assert result.metric == (metric or default)
        expected = naive_evaluation(
            features, protocol, mode, shots, permutations, metric or default
        )
        assert_equal_trials(result, expected)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_reranking_replaces_the_distances(metric):
    features = make_set(seed=5)
    points = features.features
    if metric == "cosine":
        points = points.double()
        points = (points / points.norm(dim=1, keepdim=True)).to(features.features.dtype)
    query = [row for row, camera in enumerate(features.camera_ids.tolist()) if camera in (3, 6)]
    expected = []
    for trial in range(10):
        gallery = naive_gallery(features, "sysu/agw", "all", 1, trial, None)
        distances = rerank_features(points[query], points[gallery], *PARAMETERS).tolist()
        expected.append(
            naive_metrics(distances, columns(features, query), columns(features, gallery))
        )
    result = evaluate(features, metric=metric, rerank=PARAMETERS)
    assert_equal_trials(result, expected)
    assert result.to_json()["rerank"] == {"k1": 4, "k2": 2, "lambda_value": 0.3}


@pytest.mark.parametrize("rerank", [None, PARAMETERS])
def test_pair_equals_the_trial_it_holds(rerank):
    features = make_set(seed=8, ties=True)
    cameras = features.camera_ids
    query = features.subset((cameras == 3) | (cameras == 6))
    whole = evaluate(features, "sysu/agw", "indoor", 2, rerank=rerank)
    for trial in (0, 9):
        rows = naive_gallery(features, "sysu/agw", "indoor", 2, trial, None)
        pair = evaluate_pair(query, features.subset(torch.tensor(rows)), rerank=rerank)
        expected = {key: getattr(whole.trials[trial], key) for key in METRIC_NAMES}
        assert_equal_trials(pair, [expected])
    content = pair.to_json()
    assert content["mode"] is None and content["shots"] is None and content["trials"] == 1
    assert set(content["std"].values()) == {0.0}


def test_pair_of_any_cameras_and_modalities():
    features = make_set(seed=2)
    visible = features.subset((features.camera_ids == 4) | (features.camera_ids == 2))
    infrared = replace(features.subset(features.camera_ids == 3), image_indices=None)
    result = evaluate_pair(visible, infrared, "sysu/official", metric="dot")
    points = [part.features.double().tolist() for part in (visible, infrared)]
    distances = [[naive_distance("dot", q, g) for g in points[1]] for q in points[0]]
    expected = naive_metrics(
        distances,
        columns(visible, range(len(visible))),
        columns(infrared, range(len(infrared))),
    )
    assert_equal_trials(result, [expected])


def test_result_as_json():
    result = evaluate(make_set(seed=1), "sysu/agw", "all", 2)
    content = json.loads(json.dumps(result.to_json()))
    head = {
        key: content[key] for key in ("protocol", "mode", "shots", "metric", "rerank", "trials")
    }
    assert head == {
        "protocol": "sysu/agw", "mode": "all", "shots": 2, "metric": "dot", "rerank": None,
        "trials": 10,
    }  # fmt: skip
    assert len(content["per_trial"]) == 10
    for key in METRIC_NAMES:
        values = [trial[key] for trial in content["per_trial"]]
        assert all(0 <= value <= 1 for value in values)
        assert content[key] == pytest.approx(sum(values) / 10)
        variance = sum((value - content[key]) ** 2 for value in values) / 10
        assert content["std"][key] == pytest.approx(math.sqrt(variance))
    assert isinstance(content["valid_queries"], int) and isinstance(content["gallery_size"], int)


def test_valid_queries_are_listed_where_trials_differ():
    trials = evaluate(make_set(seed=1)).trials
    changed = (replace(trials[0], valid_queries=1, gallery_size=2), *trials[1:3])
    result = replace(evaluate(make_set(seed=1)), trials=changed)
    assert result.valid_queries == [1, trials[1].valid_queries, trials[2].valid_queries]
    assert result.gallery_size == [2, trials[1].gallery_size, trials[2].gallery_size]


def test_result_does_not_depend_on_the_precision_or_order_of_rows():
    features = make_set(seed=3)
    halves = replace(features, features=features.features.half())
    doubles = replace(features, features=halves.features.double())
    order = torch.randperm(len(features))
    results = [evaluate(item).to_json() for item in (halves, doubles, halves.subset(order))]
    assert results[0]["per_trial"] == results[1]["per_trial"]
    for key in METRIC_NAMES:
        assert results[2][key] == pytest.approx(results[0][key], abs=1e-12)


@pytest.mark.parametrize("rerank", [None, PARAMETERS])
def test_same_result_on_every_device(device, rerank):
    features = make_set(seed=6)
    expected, content = (
        evaluate(features.to(place), rerank=rerank).to_json() for place in ("cpu", device)
    )
    for key in METRIC_NAMES:
        assert content[key] == pytest.approx(expected[key], abs=1e-12)


@pytest.mark.parametrize("rerank", [None, PARAMETERS])
def test_progress_counts_to_the_total(rerank):
    calls = []
    evaluate(make_set(seed=4), rerank=rerank, progress=lambda *call: calls.append(call))
    total = calls[-1][1]
    assert calls == [(done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"protocol": "market"}, r"protocol must be one of \['sysu/agw', 'sysu/official', "),
        ({"mode": "outdoor"}, r"sysu/agw: mode must be one of \['all', 'indoor'\], got 'outdoor'"),
        ({"metric": "l1"}, r"metric must be one of \['euclidean', 'cosine', 'dot'\], got 'l1'"),
        ({"shots": 0}, "shots must be an integer of at least 1, got 0"),
        ({"shots": True}, "shots must be an integer of at least 1, got True"),
        ({"rerank": (20, 6)}, r"rerank must be \(k1, k2, lambda_value\), got \(20, 6\)"),
        ({"rerank": (0, 6, 0.3)}, "k1"),
        ({"rerank": (20, -1, 0.3)}, "k2"),
        ({"rerank": (20, 6, -0.1)}, "lambda_value"),
        ({"protocol": "sysu/official"}, "sysu/official: permutations must be given"),
        ({"permutations": {}}, "sysu/agw: permutations must be None"),
    ],
)
def test_rejects_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        evaluate(make_set(seed=0), **arguments)


def test_no_valid_query():
    features = make_set(seed=0)
    infrared = (features.camera_ids == 3) | (features.camera_ids == 6)
    features.person_ids[infrared] += 1
    with pytest.raises(ValueError, match=r"at least one valid query, got .* without a correct"):
        evaluate(features)
    with pytest.raises(ValueError, match="at least one valid query"):
        evaluate_pair(features.subset(infrared), features.subset(~infrared))


def test_pair_rejects_sets_that_do_not_fit():
    features = make_set(seed=0)
    empty = features.subset(torch.tensor([], dtype=torch.int64))
    with pytest.raises(ValueError, match="query must hold at least one row, got 0"):
        evaluate_pair(empty, features)
    with pytest.raises(ValueError, match="gallery must hold at least one row, got 0"):
        evaluate_pair(features, empty)
    wide = replace(features, features=torch.zeros(len(features), 8))
    with pytest.raises(ValueError, match=r"gallery must have features of width 3 .* got 8"):
        evaluate_pair(features, wide)
    features.features[2, 0] = torch.nan
    with pytest.raises(ValueError, match="gallery: features must be finite, got nan at row 2"):
        evaluate_pair(make_set(seed=0), features)


@pytest.fixture(scope="module")
def fixtures(shared_dir):
    return shared_dir / "fixtures"


@pytest.fixture(scope="module")
def synthetic(fixtures):
    """Random features on the structure of the real test set."""
    stored = np.load(fixtures / "sysu_mm01/synth_features_test.npz")
    names = {"features": "feat", "person_ids": "pid", "camera_ids": "cam", "image_indices": "idx"}
    return {name: stored[key] for name, key in names.items()}


@pytest.fixture(scope="module")
def permutations(fixtures):
    return read_permutations(fixtures / "sysu_mm01/rand_perm_cam.mat")


@pytest.fixture(scope="module")
def official_results(synthetic, permutations):
    """Results of the official protocol with one shot, for both modes."""
    features = feature_set_from_arrays(synthetic, "synthetic")
    return {
        mode: evaluate(features, "sysu/official", mode, permutations=permutations)
        for mode in ("all", "indoor")
    }


def test_official_evaluator(fixtures, official_results):
    name = fixtures / "sysu_mm01/official_evaluator_all_search_1shot.json"
    expected = json.loads(name.read_text())["results"]["all_search_1shot"]
    result = official_results["all"]
    assert result.valid_queries == 3803 and result.gallery_size == 301
    ours = [[trial.R1, trial.R5, trial.R10, trial.R20] for trial in result.trials]
    np.testing.assert_allclose(ours, expected["per_trial_r1_r5_r10_r20"], rtol=0, atol=1e-9)
    ours = [trial.mAP for trial in result.trials]
    np.testing.assert_allclose(ours, expected["per_trial_map"], rtol=0, atol=1e-9)
    mean = [result.mean[key] for key in ("R1", "R5", "R10", "R20")]
    np.testing.assert_allclose(mean, expected["cmc_mean_r1_r5_r10_r20"], rtol=0, atol=1e-9)


# R1, R5, mAP, mINP in percent, measured with AGW's evaluator on these features and galleries.
PUBLISHED = {
    ("sysu/official", "all", 1): (29.22, 59.75, 32.64, 23.66),
    ("sysu/agw", "all", 1): (29.03, 60.47, 32.49, 23.32),
    ("sysu/official", "indoor", 1): (36.77, 69.93, 47.29, 43.39),
    ("sysu/agw", "indoor", 1): (36.34, 71.44, 47.59, 43.81),
    ("sysu/official", "all", 10): (32.31, None, 25.65, 9.30),
    ("sysu/official", "indoor", 10): (40.34, None, 36.31, 18.66),
}


@pytest.mark.parametrize(("protocol", "mode", "shots"), PUBLISHED)
def test_published_means(synthetic, permutations, tmp_path, protocol, mode, shots):
    # Through a file and without image indices, as someone else's features would come.
    arrays = {key: synthetic[key] for key in ("features", "person_ids", "camera_ids")}
    write_features(tmp_path / "all.npz", arrays)
    features = feature_set_from_arrays(read_features(tmp_path / "all.npz"), "all.npz")
    result = evaluate(
        features, protocol, mode, shots, metric="euclidean",
        permutations=permutations if protocol == "sysu/official" else None,
    )  # fmt: skip
    assert result.valid_queries == {"all": 3803, "indoor": 2208}[mode]
    assert result.gallery_size == {"all": 301, "indoor": 112}[mode] * shots
    for key, percent in zip(
        ("R1", "R5", "mAP", "mINP"), PUBLISHED[protocol, mode, shots], strict=True
    ):
        if percent is not None:
            assert 100 * result.mean[key] == pytest.approx(percent, abs=0.00501), key


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("sysu_mm01/result_feat_deep_zero_padding_euclidean_all_search_1shot.mat", "all"),
        ("sysu_mm01_vd/result__euclidean_all_search_1shot.mat", "all"),
        ("sysu_mm01_vd/result__euclidean_all_search_10shot.mat", "all"),
        ("sysu_mm01_vd/result__euclidean_indoor_search_1shot.mat", "indoor"),
        ("sysu_mm01_vd/result__euclidean_indoor_search_10shot.mat", "indoor"),
    ],
)
def test_real_result_curves_count_our_valid_queries(fixtures, official_results, name, mode):
    h5py = pytest.importorskip("h5py", reason="MATLAB 7.3 result files need h5py: pip install h5py")
    with h5py.File(fixtures / name) as file:
        curves = np.array(file["performance/cmc_all"]).T
    # A curve counts queries: its values are integer multiples of 1 / valid queries.
    hits = curves * official_results[mode].valid_queries
    np.testing.assert_allclose(hits, np.round(hits), rtol=0, atol=1e-9)
