"""Every named protocol against plain Python loops, and the rules that make it what it is."""

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.io
import torch
from protocol_oracles import CASES, RULES, evaluation, rows_of, trials_of

from vireid_fast.retrieval.evaluation import evaluate, evaluate_modes, evaluate_pair
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.protocols import PROTOCOLS, default_modes, protocol_modes

NEED_CAMERAS = ("llcm/paper", "llcm/official-code", "vcm/mitml", "market1501")
NEED_ROLES = ("vcm/mitml", "bupt/full", "bupt/official-bs64", "market1501")
NEED_MODALITY = [name for name in RULES if name not in ("vcm/mitml", "market1501")]


def make_set(seed, *, ties=False, width=3, persons=9):
    """Images or tracklets of nine cameras, most of them of both modalities, in any order.

    Camera 3 has no infrared images. Person 4 is seen by camera 5 alone, so that where the query's
    camera is dropped nothing remains; person 7 has visible images only, some of which query; the
    lists let nobody query for -1 (junk) and 0 (a distractor).
    """
    generator = random.Random(seed)
    rows = []
    for person in (-1, 0, *range(3, 3 + persons)):
        for camera in (5,) if person == 4 else generator.sample(range(1, 10), 5):
            for modality in (0,) if person == 7 or camera == 3 else (0, 1):
                for index in range(1, generator.randint(2, 5)):
                    role = generator.choice((-1, 0, 0, 0, 0, 0, 0, 1, 1, 1))
                    role = {-1: 0, 0: 0, 4: modality, 7: index % 2}.get(person, role)
                    rows.append((person, camera, modality, index, role))
    generator.shuffle(rows)
    person_ids, camera_ids, modality, image_indices, roles = torch.tensor(rows).unbind(1)
    if ties:
        features = torch.randint(-1, 2, (len(rows), width)).float()
    else:
        features = torch.randn(len(rows), width) + 0.2 * person_ids[:, None]
    return FeatureSet(features, person_ids, camera_ids, modality, image_indices, roles)


def assert_equal_trials(result, expected):
    """Each trial equals the oracle's; 1e-12: order of float64 sums only."""
    assert len(result.trials) == len(expected)
    for trial, values in zip(result.trials, expected, strict=True):
        for key, value in values.items():
            assert getattr(trial, key) == pytest.approx(value, abs=1e-12), key


def equals_oracle(features, protocol, mode, metric):
    result = evaluate(features, protocol, mode, metric=metric)
    assert_equal_trials(result, evaluation(protocol, mode, features, metric))
    return result


@pytest.mark.parametrize(("protocol", "mode"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_equals_plain_loops(protocol, mode, seed, ties):
    # 64 visible queries and as many visible gallery items are the least that bs64 can have.
    features = make_set(seed, ties=ties, persons=40 if protocol == "bupt/official-bs64" else 9)
    own = PROTOCOLS[protocol].metric
    # Rounding would break ties of the cosine differently in any two implementations.
    result = equals_oracle(features, protocol, mode, "euclidean" if ties else own)
    assert result.shots == (1 if protocol in ("llcm/paper", "llcm/official-code") else None)
    if protocol in NEED_CAMERAS or mode == "visible-infrared":
        assert result.trials[0].valid_queries < result.trials[0].total_queries
    if ties:
        equals_oracle(features, protocol, mode, "dot")


@pytest.mark.parametrize(("protocol", "mode"), CASES)
def test_all_points_equal_leaves_the_order_of_the_gallery(protocol, mode):
    features = make_set(3, persons=40 if protocol == "bupt/official-bs64" else 9)
    features = replace(features, features=torch.ones(len(features), 2))
    equals_oracle(features, protocol, mode, "euclidean")


def test_what_was_asked_by_default():
    metrics = {name: PROTOCOLS[name].metric for name in RULES}
    assert metrics == {
        "regdb/agw": "dot", "regdb/mpanet": "euclidean", "llcm/paper": "dot",
        "llcm/official-code": "dot", "llcm/idkl": "euclidean", "vcm/mitml": "dot",
        "bupt/full": "euclidean", "bupt/official-bs64": "euclidean", "market1501": "cosine",
    }  # fmt: skip
    for name in RULES:
        assert evaluate_modes(make_set(0, persons=40), name).keys() == set(default_modes(name))


def test_modes_are_named_alike():
    both = ("infrared-visible", "visible-infrared")
    for name in PROTOCOLS:
        if name.startswith("sysu"):
            assert (protocol_modes(name), default_modes(name)) == (("all", "indoor"), ("all",))
        else:
            expected = ("all",) if name == "market1501" else both
            assert protocol_modes(name) == default_modes(name) == expected
    with pytest.raises(ValueError, match="protocol must be one of"):
        protocol_modes("llcm")
    match = r"mode must be one of \['infrared-visible', 'visible-infrared'\], got 'all'"
    with pytest.raises(ValueError, match=match):
        evaluate(make_set(0), "regdb/agw")


@pytest.mark.parametrize("mode", ["infrared-visible", "visible-infrared"])
def test_regdb_variants_differ_beyond_the_first_rank_only(mode):
    features = make_set(2)
    agw, mpanet = (evaluate(features, f"regdb/{name}", mode, metric="dot").trials[0]
                   for name in ("agw", "mpanet"))  # fmt: skip
    assert (agw.R1, agw.mAP, agw.mINP) == (mpanet.R1, mpanet.mAP, mpanet.mINP)
    # Several items of one wrong person count once among identities.
    assert agw.R5 < mpanet.R5


def test_released_llcm_code_exchanges_the_sides_of_one_direction():
    features = make_set(4)
    infrared = int((features.modality == 1).sum())
    visible = int((features.modality == 0).sum())
    drawn = len({(row.person, row.camera) for row in rows_of(features) if row.modality == 1})
    paper, executed = (evaluate_modes(features, f"llcm/{name}") for name in
                       ("paper", "official-code"))  # fmt: skip
    assert paper["infrared-visible"].trials[0].mAP == executed["infrared-visible"].trials[0].mAP
    assert paper["infrared-visible"].total_queries == infrared
    sizes = [(results["visible-infrared"].total_queries, results["visible-infrared"].gallery_size)
             for results in (paper, executed)]  # fmt: skip
    assert sizes == [(visible, drawn), (drawn, visible)]


def test_llcm_draws_by_seed_in_the_order_of_folders():
    rules, features = PROTOCOLS["llcm/paper"], make_set(5)
    images = rules.gallery_images(features, "visible-infrared")
    rows = rows_of(features)
    for trial, (_, gallery) in enumerate(trials_of("llcm/paper", "visible-infrared", rows)):
        drawn = rules.draw_gallery(images, trial, 1, None)
        assert [rows[row] for row in drawn] == gallery
    assert 3 not in images.cameras
    more = evaluate(features, "llcm/paper", "infrared-visible", shots=2)
    assert more.shots == 2 and more.gallery_size > evaluate(
        features, "llcm/paper", "infrared-visible"
    ).gallery_size


def test_bupt_counts_at_the_published_sizes():
    # 536 infrared and 540 visible queries, 2422 gallery tracklets of each.
    counts = ((1, 1, 536), (0, 1, 540), (0, 0, 2422), (1, 0, 2422))
    rows = [(modality, role) for modality, role, count in counts for _ in range(count)]
    modality, roles = torch.tensor(rows).unbind(1)
    person_ids = torch.arange(len(rows)) % 53
    features = FeatureSet(
        torch.randn(len(rows), 2), person_ids, torch.full_like(person_ids, -1), modality,
        roles=roles,
    )  # fmt: skip
    full, batched = (evaluate_modes(features, f"bupt/{name}") for name in
                     ("full", "official-bs64"))  # fmt: skip
    assert [(r.total_queries, r.gallery_size) for r in full.values()] == [(536, 2422), (540, 2422)]
    sizes = [(r.total_queries, r.gallery_size) for r in batched.values()]
    assert sizes == [(536, 2368), (512, 2422)]
    # It is the last rows of each that are left out.
    cut = torch.cat([torch.arange(536 + 512), torch.arange(1076, 1076 + 2368),
                     torch.arange(1076 + 2422, len(rows))])  # fmt: skip
    expected = evaluate_modes(features.subset(cut), "bupt/full")
    for mode, result in batched.items():
        assert result.mean == expected[mode].mean


@pytest.mark.parametrize("count", [64, 128, 63, 1])
@pytest.mark.parametrize("part", ["query", "gallery"])
def test_bupt_batches_that_leave_nothing_are_refused(count, part):
    role = int(part == "query")
    modality = torch.tensor([0] * count + [1])
    roles = torch.tensor([role] * count + [1 - role])
    same = torch.zeros_like(roles)
    features = FeatureSet(torch.ones(count + 1, 2), same, same, modality, roles=roles)
    mode = "visible-infrared" if part == "query" else "infrared-visible"
    match = f"visible {part} must hold more than 64 rows and no multiple of it, got {count}. "
    with pytest.raises(ValueError, match=match + "The released sampler .* Use bupt/full"):
        evaluate(features, "bupt/official-bs64", mode)
    # Infrared rows are all kept, however many.
    assert evaluate(features, "bupt/full", mode).total_queries == (count if role else 1)


@pytest.mark.parametrize("protocol", RULES)
def test_cameras_are_needed_only_where_they_decide(protocol):
    features = make_set(6, persons=40)
    blind = replace(features, camera_ids=torch.full_like(features.camera_ids, -1))
    mode = default_modes(protocol)[0]
    if protocol not in NEED_CAMERAS:
        assert evaluate(blind, protocol, mode).mean == evaluate(features, protocol, mode).mean
        return
    blind = replace(features, camera_ids=features.camera_ids.clone())
    blind.camera_ids[7] = -1
    match = (
        f"{protocol}: camera_ids must be known, since it draws or drops by camera, got -1 at row 7."
        " Give the array camera_ids, or a protocol that needs none: regdb/agw, regdb/mpanet, "
        "llcm/idkl, bupt/full, bupt/official-bs64."
    )
    with pytest.raises(ValueError, match=re.escape(match)):
        evaluate(blind, protocol, mode)
    with pytest.raises(ValueError, match=r"gallery camera_ids must be known, .* row 7"):
        evaluate_pair(features, replace(blind, person_ids=blind.person_ids.abs()), protocol)


def test_unknown_cameras_under_sysu():
    features = make_set(6)
    features = replace(features, camera_ids=torch.full_like(features.camera_ids, -1))
    with pytest.raises(ValueError, match="sysu/agw: camera_ids must be known"):
        evaluate(features)


@pytest.mark.parametrize("protocol", NEED_ROLES)
def test_roles_are_needed_where_lists_say_who_queries(protocol):
    mode = default_modes(protocol)[0]
    match = rf"{protocol}: roles must be given, .* got None. Add the array roles \(1 query"
    with pytest.raises(ValueError, match=match):
        evaluate(replace(make_set(0), roles=None), protocol, mode)
    nobody = replace(make_set(0), roles=torch.zeros_like(make_set(0).roles))
    with pytest.raises(ValueError, match=r"query must hold at least one image of role 1 \(query"):
        evaluate(nobody, protocol, mode)


@pytest.mark.parametrize("protocol", NEED_MODALITY)
def test_modality_is_needed_where_it_says_who_queries(protocol):
    with pytest.raises(ValueError, match=f"{protocol}: modality must be given"):
        evaluate(replace(make_set(0), modality=None), protocol, default_modes(protocol)[0])


def test_roles_alone_say_who_queries_in_hitsz_vcm():
    features = make_set(1)
    result = evaluate(replace(features, modality=None), "vcm/mitml", "infrared-visible")
    assert result.mean == evaluate(features, "vcm/mitml", "infrared-visible").mean


def test_one_modality_only():
    visible = make_set(0)
    visible = visible.subset(visible.modality == 0)
    match = r"query must hold at least one image of modality 1 \(infrared\), got none among"
    with pytest.raises(ValueError, match=match):
        evaluate(visible, "regdb/agw", "infrared-visible")


@pytest.mark.parametrize("protocol", ["vcm/mitml", "bupt/full", "market1501"])
def test_given_files_equal_the_protocol(protocol):
    features = make_set(2)
    mode = default_modes(protocol)[0]
    rules = PROTOCOLS[protocol]
    query = features.subset(rules.query_rows(features, mode))
    gallery = features.roles == 0
    if protocol == "bupt/full":
        gallery &= features.modality == 0
    # The junk of Market-1501 is left out here too.
    pair = evaluate_pair(query, features.subset(gallery), protocol)
    expected = evaluate(features, protocol, mode)
    assert (pair.mean, pair.gallery_size) == (expected.mean, expected.gallery_size)
    assert pair.mode is None and pair.shots is None


def test_given_files_cannot_be_cut_into_batches():
    features = make_set(2)
    match = "features must come in one set, since it leaves rows out, .* or use bupt/full"
    with pytest.raises(ValueError, match=match):
        evaluate_pair(features, features, "bupt/official-bs64")


def test_a_gallery_of_junk_is_empty():
    features = make_set(2)
    junk = features.person_ids == -1
    with pytest.raises(ValueError, match="gallery must hold at least one row, got 0"):
        evaluate_pair(features.subset(~junk), features.subset(junk), "market1501")


def test_shots_and_splits_belong_to_their_protocols():
    features = make_set(0)
    with pytest.raises(ValueError, match="shots must be 1, since no galleries are drawn, got 2"):
        evaluate(features, "llcm/idkl", "infrared-visible", shots=2)
    assert evaluate(features, "regdb/agw", "infrared-visible", split=10).splits == (10,)
    assert evaluate(features, "regdb/agw", "infrared-visible").splits == ()
    for split in (0, 11):
        with pytest.raises(ValueError, match=rf"split must lie in 1\.\.10, got {split}"):
            evaluate(features, "regdb/mpanet", "infrared-visible", split=split)
    with pytest.raises(ValueError, match="split must be None, since its data set has one split"):
        evaluate(features, "llcm/idkl", "infrared-visible", split=1)


def test_reranking_follows_the_exchange_of_sides():
    features = make_set(3)
    result = evaluate(features, "llcm/official-code", "visible-infrared", rerank=(4, 2, 0.3))
    rules = PROTOCOLS["llcm/official-code"]
    images = rules.gallery_images(features, "visible-infrared")
    visible = features.subset(features.modality == 0)
    for trial in (0, 9):
        drawn = features.subset(torch.tensor(rules.draw_gallery(images, trial, 1, None)))
        pair = evaluate_pair(drawn, visible, "llcm/official-code", rerank=(4, 2, 0.3))
        assert pair.trials[0].mAP == result.trials[trial].mAP


def integer_points(count):
    """Few distinct points, so that most distances are shared."""
    return torch.randint(-2, 3, (count, 3)).double()


def column(path, key):
    return torch.from_numpy(scipy.io.loadmat(path)[key].astype("int64")).flatten()


def test_market1501_on_its_real_lists(shared_dir):
    folder = shared_dir / "fixtures/market1501"
    names = (("queryID", "queryCam"), ("testID", "testCam"))
    lists = [[column(folder / f"{name}.mat", name.replace("Cam", "CAM")) for name in pair]
             for pair in names]  # fmt: skip
    chosen = torch.arange(0, 3368, 211)
    (query_ids, query_cameras), (gallery_ids, gallery_cameras) = lists
    person_ids = torch.cat([gallery_ids, query_ids[chosen]])
    roles = (torch.arange(len(person_ids)) >= len(gallery_ids)).long()
    features = FeatureSet(
        integer_points(len(person_ids)), person_ids,
        torch.cat([gallery_cameras, query_cameras[chosen]]), roles=roles,
        modality=torch.zeros_like(roles), image_indices=torch.ones_like(roles),
    )  # fmt: skip
    result = equals_oracle(features, "market1501", "all", "euclidean")
    # 19732 images without 3819 of junk, distractors included.
    assert result.gallery_size == 15913 and result.total_queries == len(chosen)


def test_hitsz_vcm_on_the_real_lists_of_its_relative(shared_dir):
    folder = shared_dir / "fixtures/mars"
    tracks = torch.from_numpy(scipy.io.loadmat(folder / "tracks_test_info.mat")["track_test_info"])
    _, _, person_ids, camera_ids = tracks.long().unbind(1)
    roles = torch.zeros_like(person_ids)
    roles[column(folder / "query_IDX.mat", "query_IDX") - 1] = 1
    some = torch.isin(person_ids, person_ids[roles == 1].unique()[::40])
    features = FeatureSet(
        integer_points(len(roles)), person_ids, camera_ids, roles=roles,
        modality=roles, image_indices=torch.ones_like(roles),
    ).subset(some)  # fmt: skip
    sizes = []
    for mode in ("infrared-visible", "visible-infrared"):
        result = equals_oracle(features, "vcm/mitml", mode, "dot")
        sizes.append((result.total_queries, result.gallery_size))
    assert sizes[0] == sizes[1][::-1] and min(sizes[0]) > 10


def test_document_lists_every_protocol_as_it_is():
    text = (Path(__file__).resolve().parents[2] / "docs/protocols.md").read_text(encoding="utf-8")
    drops = {"none": "nothing", "same_group": "camera 3 ignores camera 2",
             "same_group_and_id": "same person and camera"}  # fmt: skip
    for name, rules in PROTOCOLS.items():
        cells = [cell.strip() for line in text.splitlines() if line.startswith(f"| `{name}` |")
                 for cell in line.split("|")[1:-1]]  # fmt: skip
        trials = f"{rules.splits} models" if rules.splits else str(rules.trials)
        kind = "identities" if rules.cmc == "identity" else "items"
        assert cells[2:6] == [drops[rules.drop], kind, trials, rules.metric], name
