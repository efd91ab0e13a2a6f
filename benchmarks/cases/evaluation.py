"""CMC, mAP and mINP: from a matrix of distances, from features, and by the command.

The drop-in functions are compared to the loops that they replace. Where a loop takes minutes it is
called once.
"""

import json
import subprocess
import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines.evaluators import (
    TorchMetricsMAP,
    market_loop,
    regdb_loop,
    sort_and_search,
    sysu_loop,
    torch_argsort,
    vectorised_argsort,
)
from machine import ROOT
from retrieval_inputs import MARKET, REGDB, SYSU, VCM, Labels, clustered, isotropic, make_labels
from timing import Budget, Provider
from torch import Tensor

from cases.case import Case, Workload, peers_of
from vireid_fast import FeatureSet, evaluate
from vireid_fast.retrieval import eval_func, eval_regdb, eval_sysu
from vireid_fast.retrieval.distance_rows import FeatureRows
from vireid_fast.retrieval.metrics import Metrics, metrics_from_ranks
from vireid_fast.retrieval.streaming import streamed_rank_statistics

_WIDTH = 64
_CAMERAS = ((1, 2, 3, 4, 5, 6), (2, 3, 4, 5, 6, 1))
_SYSU_CAMERAS = ((3, 6), (1, 2, 4, 5))
_SYSU_IDENTITIES = 96
_READ = "one read of the distances"


def _shape(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _distances(size: tuple[int, int], identities: int = 0) -> Tensor:
    """Euclidean distances of few and noisy dimensions, so that ranks are of all kinds."""
    items = clustered(sum(size), _WIDTH, identities=identities)
    items += 0.15 * torch.randn(items.shape, generator=torch.Generator().manual_seed(9))
    query, gallery = items.split(size)
    return torch.cdist(query, gallery)


def _floor(distances: Tensor) -> Provider:
    # Each distance has to be read once: Q G 4 bytes.
    return Provider(_READ, "floor", distances.sum)


def _market(size: tuple[int, int], once: bool, targets: bool, device: torch.device) -> Workload:
    """Drops the query's person and camera; images count."""
    distances = _distances(size)
    labels = make_labels(*size, cameras=_CAMERAS)
    arrays = [part.numpy() for part in (distances, *labels)]
    loop, whole, sorts = "Python loop", "torch argsort of the matrix", "numpy sort + searchsorted"
    argsorts = "numpy argsort per query"
    tenfold = 10.0 if targets else None
    providers = (
        Provider("fused", "fused", partial(eval_func, *arrays)),
        Provider(
            loop, "peer", partial(market_loop, *arrays), target=1000.0 if targets else None,
            once=once,
        ),
        Provider(argsorts, "peer", partial(vectorised_argsort, *arrays), target=tenfold),
        Provider(sorts, "peer", partial(sort_and_search, *arrays), target=tenfold),
        Provider(whole, "peer", partial(torch_argsort, distances, *labels)),
        _floor(distances),
    )  # fmt: skip
    return Workload(providers, partial(_check, providers))


def _sysu(device: torch.device) -> Workload:
    """Camera 3 ignores camera 2; persons count."""
    distances = _distances(SYSU, _SYSU_IDENTITIES)
    labels = make_labels(*SYSU, cameras=_SYSU_CAMERAS, identities=_SYSU_IDENTITIES)
    arrays = [part.numpy() for part in (distances, *labels)]
    providers = (
        Provider("fused", "fused", partial(eval_sysu, *arrays)),
        Provider("Python loop of AGW", "peer", partial(sysu_loop, *arrays), target=200.0),
        _torchmetrics(distances, labels),
        _floor(distances),
    )
    return Workload(providers, partial(_check, providers))


def _regdb(size: tuple[int, int], once: bool, device: torch.device) -> Workload:
    """Nothing is dropped; images count."""
    distances = _distances(size)
    labels = make_labels(*size, cameras=((1,), (2,)))
    arrays = [part.numpy() for part in (distances, *labels[:2])]
    providers = (
        Provider("fused", "fused", partial(eval_regdb, *arrays)),
        Provider("Python loop of AGW", "peer", partial(regdb_loop, *arrays), once=once),
        _torchmetrics(distances, labels),
        _floor(distances),
    )
    return Workload(providers, partial(_check, providers))


def _features(width: int, device: torch.device) -> Workload:
    """From features, Euclidean: no matrix here, a whole one in the peer."""
    query, gallery = clustered(sum(MARKET), width).to(device).split(MARKET)
    labels = make_labels(*MARKET, cameras=_CAMERAS).to(device)
    peer = "torch cdist + argsort"

    def streamed() -> Metrics:
        rows = FeatureRows(query, gallery, "euclidean")
        found = streamed_rank_statistics(rows, *labels, drop="same_group_and_id")
        return metrics_from_ranks(found, len(gallery), "image")

    providers = (
        Provider("fused", "fused", streamed),
        Provider(peer, "peer", lambda: torch_argsort(torch.cdist(query, gallery), *labels)),
        # 2 Q G D FLOP, without which no distance is known.
        Provider("GEMM of the same size", "floor", lambda: query @ gallery.T),
    )

    def check(outputs: dict[str, Any]) -> None:
        curve, precision = outputs[peer]
        np.testing.assert_allclose(outputs["fused"].mAP, float(precision), rtol=1e-5)
        np.testing.assert_allclose(outputs["fused"].R1, float(curve[0]), rtol=1e-3)

    return Workload(providers, check)


_TORCHMETRICS = "torchmetrics RetrievalMAP"


def _torchmetrics(distances: Tensor, labels: Labels) -> Provider:
    if find_spec("torchmetrics") is None:
        reason = "torchmetrics is not installed; pip install torchmetrics"
        return Provider(_TORCHMETRICS, "peer", None, absent=reason)
    same = labels.query_ids[:, None] == labels.gallery_ids
    keep = (labels.query_cameras[:, None] != 3) | (labels.gallery_cameras != 2)
    return Provider(_TORCHMETRICS, "peer", TorchMetricsMAP(distances, same, keep), once=True)


def _check(providers: tuple[Provider, ...], outputs: dict[str, Any]) -> None:
    fused = outputs["fused"]
    for name in peers_of(providers, outputs):
        found = outputs[name]
        if name == _TORCHMETRICS:
            np.testing.assert_allclose(float(found), fused[1], rtol=1e-4)
            continue
        for part, expected in zip(found, fused, strict=True):
            np.testing.assert_allclose(np.asarray(part), np.asarray(expected), rtol=1e-5)


def _command(device: torch.device) -> Workload:
    """`vireid eval` on features as SYSU-MM01's: ten trials, all and indoor, single- and multi-shot.

    The floor is another interpreter that imports torch, plus the three seconds that it may take.
    """
    folder = tempfile.TemporaryDirectory()
    features, result = (str(Path(folder.name) / name) for name in ("all.npz", "result.json"))
    table = _sysu_table()
    np.savez(features, **{name: column.numpy() for name, column in table.items()})
    command = [
        sys.executable, "-m", "vireid_fast", "eval", "--features", features, "--protocol",
        "sysu/agw", "--mode", "all,indoor", "--shots", "1,10", "--json", result,
    ]  # fmt: skip

    def run() -> dict[str, Any]:
        _call(command)
        # The folder lives as long as the function that names it.
        with open(Path(folder.name) / "result.json", encoding="utf-8") as file:
            return json.load(file)

    providers = (
        Provider("fused", "fused", run),
        Provider(
            "import torch + 3 s", "floor", partial(_call, [sys.executable, "-c", "import torch"]),
            allowance=3.0, target=1.0,
        ),
    )  # fmt: skip

    def check(outputs: dict[str, Any]) -> None:
        first = outputs["fused"]
        results = [first, *(one for one in first.values() if isinstance(one, dict))]
        found = {(one["mode"], one["shots"]): one for one in results if "mode" in one}
        assert found.keys() == {(mode, shots) for mode in ("all", "indoor") for shots in (1, 10)}
        for (mode, shots), one in found.items():
            if mode == "indoor":
                expected = evaluate(FeatureSet(**table), "sysu/agw", mode, shots)
                np.testing.assert_allclose(one["mAP"], expected.mean["mAP"], rtol=1e-9)

    return Workload(providers, check)


def _call(command: list[str]) -> None:
    """Run a command from the root of the checkout."""
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def _sysu_table() -> dict[str, Tensor]:
    """Columns of a feature file with the images of SYSU-MM01's test: 3803 and 6775 in 301 pairs."""
    people = torch.arange(_SYSU_IDENTITIES)
    visible = {1: people[:56], 2: people[20:76], 4: people, 5: people[3:]}
    columns = [_images({3: people, 6: people}, SYSU[0]), _images(visible, 6775)]
    ids, cameras = (torch.cat(parts) for parts in zip(*columns, strict=True))
    features = isotropic(_SYSU_IDENTITIES, 2048, seed=1)[ids] + isotropic(len(ids), 2048)
    return {"features": features, "person_ids": ids, "camera_ids": cameras}


def _images(people: dict[int, Tensor], total: int) -> tuple[Tensor, Tensor]:
    """Identity and camera of `total` images, spread over the pairs of both."""
    ids = torch.cat(list(people.values()))
    cameras = torch.cat([torch.full_like(one, camera) for camera, one in people.items()])
    pair = torch.arange(total) % len(ids)
    return ids[pair], cameras[pair]


_case = partial(Case, "evaluation", devices=("cpu",), graphs=False)
CASES = (
    _case(
        "eval_func", "Market-1501", _shape(MARKET), partial(_market, MARKET, True, True),
        budget=Budget(seconds=20.0), slow=True, memory=("fused", "numpy sort + searchsorted"),
        megabytes=10,
    ),
    _case("eval_func", "1000 x 5000", "1000 x 5000", partial(_market, (1000, 5000), True, False)),
    *(
        Case(
            "evaluation", "streamed_rank_statistics", f"Market-1501 from features, D {width}",
            f"{_shape(MARKET)}, D {width}", partial(_features, width), graphs=False, slow=True,
            budget=Budget(seconds=10.0), memory=("fused", "torch cdist + argsort"),
        )
        for width in (512, 2048)
    ),
    _case("eval_sysu", "SYSU", _shape(SYSU), _sysu, budget=Budget(seconds=15.0)),
    _case("eval_regdb", "RegDB", _shape(REGDB), partial(_regdb, REGDB, True), slow=True),
    _case("eval_regdb", "HITSZ-VCM", _shape(VCM), partial(_regdb, VCM, True), slow=True),
    _case(
        "vireid eval", "SYSU, all and indoor, 1 and 10 shots", "10578 images, D 2048, 10 trials",
        _command, budget=Budget(seconds=30.0, least_rounds=5), slow=True,
    ),
)  # fmt: skip
