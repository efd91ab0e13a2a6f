"""Published numbers through the command line, from files that lie beside the checkout."""

import json

import numpy as np
import pytest

RERANK_CASES = ("basic_k20_6", "k1_gt_N", "odd_k7_3", "ties_int_k20")


@pytest.fixture
def synthetic_features(shared_dir, tmp_path):
    """The fixture's arrays under our names."""
    source = np.load(shared_dir / "fixtures" / "sysu_mm01" / "synth_features_test.npz")
    names = {"features": "feat", "person_ids": "pid", "camera_ids": "cam", "image_indices": "idx"}
    path = tmp_path / "features.npz"
    np.savez(path, **{ours: source[theirs] for ours, theirs in names.items()})
    return path


def test_official_protocol_equals_the_official_evaluator(
    vireid, shared_dir, synthetic_features, tmp_path
):
    folder = shared_dir / "fixtures" / "sysu_mm01"
    vireid.ok(
        "eval", "--features", synthetic_features, "--protocol", "sysu/official", "--mode", "all",
        "--shots", 1, "--permutations", folder / "rand_perm_cam.mat",
        "--json", tmp_path / "result.json",
    )  # fmt: skip
    actual = json.loads((tmp_path / "result.json").read_text())
    saved = json.loads((folder / "official_evaluator_all_search_1shot.json").read_text())
    expected = saved["results"]["all_search_1shot"]
    names = ("R1", "R5", "R10", "R20")
    ranks = [[trial[name] for name in names] for trial in actual["per_trial"]]
    np.testing.assert_allclose(ranks, expected["per_trial_r1_r5_r10_r20"], rtol=0, atol=1e-9)
    maps = [trial["mAP"] for trial in actual["per_trial"]]
    np.testing.assert_allclose(maps, expected["per_trial_map"], rtol=0, atol=1e-9)
    assert actual["mAP"] == pytest.approx(expected["map_mean"], abs=1e-9)


@pytest.mark.parametrize("mode", ["all", "indoor"])
def test_agw_gallery_has_the_published_size(vireid, shared_dir, synthetic_features, tmp_path, mode):
    vireid.ok("eval", "--features", synthetic_features, "--mode", mode, "--json",
              tmp_path / "result.json")  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    file = shared_dir / "fixtures" / "sysu_mm01" / "derived_structure.json"
    totals = json.loads(file.read_text())["totals"]
    assert result["gallery_size"] == totals[f"gallery_{mode}_ss"]
    assert result["valid_queries"] <= totals["query_ir"]


@pytest.mark.parametrize("case", RERANK_CASES)
def test_rerank_equals_the_published_code(vireid, shared_dir, write, tmp_path, case):
    golden = np.load(shared_dir / "fixtures" / "rerank" / f"rerank_{case}.npz")
    files = [
        write(f"{key}.npz", features=golden[key], rows=len(golden[key])) for key in ("qf", "gf")
    ]
    options = ("--k1", golden["k1"], "--k2", golden["k2"], "--lambda", golden["lam"])
    vireid.ok("rerank", "--query", files[0], "--gallery", files[1], "--out", tmp_path / "d.npz",
              *options)  # fmt: skip
    actual = np.load(tmp_path / "d.npz")["distances"]
    # The bound that the fixtures' README asks for.
    np.testing.assert_allclose(actual, golden["zhong_stable"], rtol=0, atol=1e-5)
