"""`vireid eval` of feature files under the protocols of every data set."""

import json

import numpy as np
import pytest

from vireid_fast.retrieval.protocols import PROTOCOLS, default_modes

ROWS = 400


@pytest.fixture
def features(tmp_path):
    """Features of both modalities that fit every protocol but sysu's."""
    rows = np.arange(ROWS)
    path = tmp_path / "features.npz"
    np.savez(
        path,
        features=np.random.default_rng(0).standard_normal((ROWS, 4)), person_ids=rows % 20,
        camera_ids=rows // 40 + 1, modality=rows // 20 % 2, roles=rows // 3 % 2,
        metadata=np.array('{"processing.flip": "summed", "method": "somebody\'s"}'),
    )  # fmt: skip
    return path


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if not name.startswith("sysu")])
def test_every_protocol_prints_what_it_did(vireid, features, tmp_path, protocol):
    file = tmp_path / "result.json"
    out = vireid.ok("eval", "--features", features, "--protocol", protocol, "--json", file).out
    first, *others = default_modes(protocol)
    values = json.loads(file.read_text())
    assert (values["protocol"], values["mode"]) == (protocol, first)
    assert values["metric"] == PROTOCOLS[protocol].metric
    assert values["processing"] == {"flip": "summed"} and values["total_queries"] > 0
    assert [values[mode]["mode"] for mode in others] == others
    assert out.count("re-ranking: none") == 1 + len(others) == out.count(f"{protocol}, mode ")
    for mode in (first, *others):
        assert f"{protocol}, mode {mode}" in out
    for metric in (values["mAP"], *(values[mode]["mAP"] for mode in others)):
        assert f"{100 * metric:.2f}" in out


def test_one_direction(vireid, features, tmp_path):
    options = ("eval", "--features", features, "--protocol", "llcm/paper", "--json")
    vireid.ok(*options, tmp_path / "both.json")
    vireid.ok(*options, tmp_path / "one.json", "--mode", "visible-infrared")
    both, one = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("both", "one"))
    assert one == both["visible-infrared"]
    vireid.ok(*options, tmp_path / "each.json", "--mode", "each", "--rerank", "4,2,0.3")
    each = json.loads((tmp_path / "each.json").read_text())
    assert each["rerank"] == each["visible-infrared"]["rerank"] != one["rerank"]


def test_features_without_cameras(vireid, write, pair):
    blind = write("blind.npz", camera_ids=None, modality=np.arange(12) // 3 % 2)
    vireid.ok("eval", "--features", blind, "--protocol", "regdb/agw")
    message = vireid.error("eval", "--features", blind)
    assert "sysu/agw: camera_ids must be known" in message and "regdb/agw" in message
    message = vireid.error("eval", "--query", blind, *pair[2:])
    assert "sysu/agw: query camera_ids must be known" in message
    message = vireid.error("eval", "--features", write("no.npz"), "--protocol", "market1501")
    assert "market1501: roles must be given" in message and "(1 query, 0 gallery" in message


def test_help_names_protocols_and_modes(vireid, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    out = vireid.ok("eval", "--help").out
    named = {mode for name in PROTOCOLS for mode in PROTOCOLS[name].modes} | {"each"}
    for word in (*PROTOCOLS, *named):
        assert word in out, word


LISTS = ("--mode", "all,indoor", "--shots", "1,2")


@pytest.fixture
def sysu_features(tmp_path):
    """Features of six cameras, several images each."""
    rows = np.arange(360)
    path = tmp_path / "sysu.npz"
    features = np.random.default_rng(0).standard_normal((360, 4)) + rows[:, None] % 12 / 4
    np.savez(path, features=features, person_ids=rows % 12, camera_ids=rows // 12 % 6 + 1)
    return path


def test_lists_of_modes_and_shots_give_one_table(vireid, sysu_features, tmp_path):
    file = tmp_path / "all.json"
    out = vireid.ok("eval", "--features", sysu_features, *LISTS, "--json", file).out
    values = json.loads(file.read_text())
    names = [f"{mode}, {shots}-shot" for mode in ("all", "indoor") for shots in (1, 2)]
    assert out.count("re-ranking: none") == out.count("mAP") == 1
    assert (values["mode"], values["shots"]) == ("all", 1)
    for name, result in zip(names, [values, *(values[name] for name in names[1:])], strict=True):
        mode, shots = name.removesuffix("-shot").split(", ")
        vireid.ok("eval", "--features", sysu_features, "--mode", mode, "--shots", shots,
                  "--json", file)  # fmt: skip
        alone = json.loads(file.read_text())
        assert alone == {key: result[key] for key in alone}
        assert f"{name}: {alone['valid_queries']} of {alone['total_queries']} queries valid" in out
        assert f"gallery {alone['gallery_size']}" in out and f"{100 * alone['mAP']:.2f}" in out


def test_a_list_of_one_kind(vireid, sysu_features, tmp_path):
    options = ("eval", "--features", sysu_features, "--rerank", "4,2,0.3", "--json")
    out = vireid.ok(*options, tmp_path / "a.json", "--mode", "indoor", "--shots", "2, 1").out
    values = json.loads((tmp_path / "a.json").read_text())
    assert values["shots"] == 2 and values["indoor, 1-shot"]["shots"] == 1
    assert out.count("re-ranking: (4, 2, 0.3)") == 1
    out = vireid.ok(*options, tmp_path / "b.json", "--mode", "indoor, all").out
    values = json.loads((tmp_path / "b.json").read_text())
    assert values["mode"] == "indoor" and values["all"]["mode"] == "all"
    assert out.count("mAP") == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--mode", "all,,indoor"), "sysu/agw: mode must be one of ['all', 'indoor'], got ''"),
        (("--mode", "all,outdoor"), "mode must be one of ['all', 'indoor'], got 'outdoor'"),
        (("--mode", "each,all"), "mode must be one of ['all', 'indoor'], got 'each'"),
        (("--mode", "all,all"), "mode must be distinct, got ['all', 'all']"),
        (("--shots", "1,10,1"), "shots must be distinct, got [1, 10, 1]"),
        (("--shots", "1,0"), "shots must be an integer of at least 1, got 0"),
        (("--protocol", "regdb/agw", "--mode", "all"), "mode must be one of ['infrared-visible'"),
    ],
)
def test_bad_lists(vireid, sysu_features, options, expected):
    assert expected in vireid.error("eval", "--features", sysu_features, *options)


@pytest.mark.parametrize("text", ["1,,10", ",", "1,x", "1.5", ""])
def test_lists_of_shots_that_are_no_integers(vireid, sysu_features, text):
    done = vireid("eval", "--features", sysu_features, "--shots", text)
    assert done.code == 2 and "Usage:" in done.err and "--shots" in done.err


def test_lists_need_a_feature_file(vireid, pair):
    message = vireid.error("eval", *pair, "--shots", "1,10")
    assert "--shots must be left out with --query and --gallery, got 1,10" in message
