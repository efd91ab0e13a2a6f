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
