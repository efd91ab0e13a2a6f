"""Reports of made-up values."""

import io
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from vireid_fast.engine.report import report_of_features
from vireid_fast.report.content import (
    Curve,
    FeatureMap,
    Histogram,
    Item,
    Match,
    MethodPicture,
    Picture,
    RankedQuery,
    Report,
    TrainingCurve,
)
from vireid_fast.report.search_page import SearchPage
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.metrics import Metrics
from vireid_fast.retrieval.results import EvaluationResult, RerankParameters

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>\'"&{{7*7}}.jpg'


def picture(seed: int, size: tuple[int, int] = (32, 64), text: str = "a person") -> Picture:
    colours = np.random.default_rng(seed).integers(60, 200, (4, 2, 3), np.uint8)
    image = Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG")
    return Picture(file.getvalue(), "image/jpeg", *size, text)


def result(level: float, *, trials: int = 10, rerank: bool = False) -> EvaluationResult:
    values = level + 0.03 * np.sin(np.arange(trials))
    made = tuple(
        Metrics(v, v + 0.05, v + 0.08, v + 0.1, v - 0.02, v - 0.1, 96, 100, 51, torch.ones(51))
        for v in values.tolist()
    )
    parameters = RerankParameters(20, 6, 0.3) if rerank else None
    words = {"features": "norm(f)"}
    return EvaluationResult("sysu/agw", "all", 1, "euclidean", parameters, made, words)


def item(identity: int, camera: int, *, name: str = "", pictures: bool = True) -> Item:
    modality = "infrared" if camera in (3, 6) else "visible"
    text = f"identity {identity}, camera {camera}, {modality}"
    shown = picture(identity * 7 + camera, text=text) if pictures else None
    name = name or f"cam{camera}/{identity:04d}/0001.jpg"
    return Item(identity, camera, modality, name, shown)


def ranked(
    kind: str, identity: int, plain: str, again: str, *, pictures: bool = True, name: str = ""
) -> RankedQuery:
    """A query whose lists are right where the text has "r"."""

    def matches(marks: str) -> tuple[Match, ...]:
        return tuple(
            Match(
                place + 1,
                item(identity if mark == "r" else identity + place + 1, 1 + place % 2,
                     pictures=pictures),
                0.3 + 0.1 * place, mark == "r",
            )
            for place, mark in enumerate(marks)
        )  # fmt: skip

    lists = {"plain": matches(plain), "reranked": matches(again)}
    first = {key: marks.find("r") + 1 for key, marks in (("plain", plain), ("reranked", again))}
    precision = {"plain": plain.count("r") / 10, "reranked": again.count("r") / 10}
    query = item(identity, 3, pictures=pictures, name=name)
    return RankedQuery(kind, query, precision, first, lists)


def feature_map(identities: int = 12, each: int = 14) -> FeatureMap:
    generator = np.random.default_rng(0)
    ids = np.repeat(np.arange(1, identities + 1), each)
    centres = generator.normal(0, 4, (identities + 1, 2))
    modality = np.tile(np.arange(each) % 2, identities)
    points = centres[ids] + generator.normal(0, 0.8, (len(ids), 2))
    points[:, 0] += modality
    camera = np.where(modality == 1, 3, 1)
    return FeatureMap("PCA of the features (41 % of the variance)", points, ids, modality, camera,
                      "12 of 96 identities are shown, chosen by a fixed seed.")  # fmt: skip


def histogram(name: str, shift: float) -> Histogram:
    edges = np.linspace(0, 2, 41)
    centres = (edges[1:] + edges[:-1]) / 2
    shares = [np.exp(-((centres - c) ** 2) / 0.05) for c in (0.6 + shift, 1.3)]
    return Histogram(name, edges, *(s / s.sum() for s in shares), (1234, 567890), "All pairs.")


def full_report() -> Report:
    """Every part, as a small run has them."""
    ranks = np.arange(1, 51)
    recall = np.linspace(0, 1, 101)
    epochs = tuple(range(1, 21))
    falling = tuple((7 * np.exp(-np.arange(20) / 6) + 1).tolist())
    return Report(
        title="CSDN on drawn walkers",
        facts={"method": "csdn", "data": "sysu_mm01", "checkpoint": "visual, epoch 12",
               "version": "0.1.0", "torch": "2.13.0"},
        results={"plain": result(0.67), "reranked": result(0.72, rerank=True)},
        cmc=(Curve("plain", ranks, 1 - 0.4 * np.exp(-ranks / 8)),
             Curve("reranked", ranks, 1 - 0.33 * np.exp(-ranks / 9))),
        precision_recall=(Curve("plain", recall, 0.9 - 0.6 * recall**2),
                          Curve("reranked", recall, 0.92 - 0.45 * recall**2)),
        histograms=(histogram("visible to visible", 0), histogram("infrared to infrared", 0.05),
                    histogram("visible to infrared", 0.3)),
        feature_map=feature_map(),
        training=(
            TrainingCurve("prompts", "loss", (1, 2), (7.1, 5.2)),
            TrainingCurve("visual", "loss", epochs, falling),
            TrainingCurve("visual", "val_R1", epochs, tuple(0.9 - 0.1 * v for v in falling)),
            TrainingCurve("visual", "val_mAP", epochs, tuple(0.85 - 0.1 * v for v in falling)),
            TrainingCurve("visual", "identity_f", epochs, tuple(v / 2 for v in falling)),
            TrainingCurve("visual", "wrt_f", epochs, tuple(v / 9 for v in falling)),
        ),
        ranked=(
            ranked("best", 4, "rrrrrwwrww", "rrrrrrrwww"),
            ranked("median", 8, "wrrwwrwwww", "rrrwwrwwww"),
            ranked("worst", 15, "wwwwwwwrww", "wwwwwwwwww"),
        ),
        method_pictures=(
            MethodPicture(
                "Cross-modal attention", "Where each image attends to the other.",
                (picture(1, (64, 128), "visible image"), picture(2, (64, 128), "its attention")),
            ),
        ),
        notes=("Lists and curves are of the first of 10 trials.",),
    )  # fmt: skip


def hostile_report() -> Report:
    """Every text is an attack."""
    report = full_report()
    return replace(
        report,
        title=HOSTILE,
        facts={HOSTILE: HOSTILE},
        results={HOSTILE: report.results["plain"]},
        cmc=(replace(report.cmc[0], name=HOSTILE),),
        histograms=(replace(report.histograms[0], name=HOSTILE, note=HOSTILE),),
        feature_map=replace(report.feature_map, method=HOSTILE, note=HOSTILE),
        training=(TrainingCurve(HOSTILE, HOSTILE, (1,), (1.0,)),),
        ranked=(
            replace(ranked(HOSTILE, 4, "wr", "rw", name=HOSTILE),
                    query=Item(4, 3, HOSTILE, HOSTILE, picture(1, text=HOSTILE))),
        ),
        method_pictures=(MethodPicture(HOSTILE, HOSTILE, (picture(3, text=HOSTILE),)),),
        notes=(HOSTILE,),
    )  # fmt: skip


def gathered_report() -> Report:
    """What the engine gathers from features: 12 identities, seen by four cameras twice."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(12).repeat_interleave(8)
    cameras = torch.tensor([1, 2, 3, 6]).repeat(24)
    centres = torch.randn(12, 16, generator=generator)
    features = centres[ids] + 1.5 * torch.randn(96, 16, generator=generator)
    modality = torch.isin(cameras, torch.tensor([3, 6])).long()
    return report_of_features(
        features=FeatureSet(features, ids, cameras, modality), protocol="sysu/agw",
        mode="all,indoor", rerank=(6, 3, 0.3),
    )  # fmt: skip


def hostile_search() -> SearchPage:
    """A search whose names are attacks; one match is right, one is wrong, of one it is unknown."""
    query = Item(4, 3, "infrared", HOSTILE, picture(1, text=HOSTILE))
    unknown = Item(-1, -1, "", HOSTILE)
    matches = (
        Match(1, item(4, 1), 0.25, True),
        Match(2, item(9, 2), 0.5, False),
        Match(3, unknown, 0.75, None),
    )
    return SearchPage(HOSTILE, HOSTILE, ((query, matches), (item(7, 6), matches)),
                      {HOSTILE: HOSTILE}, (HOSTILE,))  # fmt: skip
