"""What a report shows, as plain values: gathered by the engine, drawn by `page`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vireid_fast.retrieval.results import EvaluationResult


@dataclass(frozen=True)
class Picture:
    """An encoded image that is embedded in the page.

    Attributes:
        data: The file's bytes.
        kind: Its MIME type, such as "image/jpeg".
        width: Pixels.
        height: Pixels.
        text: What it shows, for those who do not see it.
    """

    data: bytes
    kind: str
    width: int
    height: int
    text: str


@dataclass(frozen=True)
class Curve:
    """One line of a diagram; x and y have equal lengths."""

    name: str
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Histogram:
    """Distances of pairs of one kind.

    Attributes:
        name: Such as "across modalities".
        edges: Bin edges. Shape (B + 1,).
        same: Share of the pairs of one identity in each bin. Shape (B,).
        different: Share of the pairs of two identities in each bin. Shape (B,).
        pairs: Counted pairs of one identity, and of two.
        note: How pairs were chosen, where not all were counted.
    """

    name: str
    edges: np.ndarray
    same: np.ndarray
    different: np.ndarray
    pairs: tuple[int, int]
    note: str = ""


@dataclass(frozen=True)
class FeatureMap:
    """Features in two dimensions.

    Attributes:
        method: How they were projected, in words.
        points: Shape (n, 2).
        person_ids: Shape (n,).
        modality: 0 visible, 1 infrared, -1 unknown. Shape (n,).
        camera_ids: Shape (n,).
        note: How rows were chosen, where not all are shown.
    """

    method: str
    points: np.ndarray
    person_ids: np.ndarray
    modality: np.ndarray
    camera_ids: np.ndarray
    note: str = ""


@dataclass(frozen=True)
class TrainingCurve:
    """Values of one quantity over the epochs of a run.

    Attributes:
        stage: The training stage.
        name: "loss", "val_R1", ...
        epochs: 1-based within the stage.
        values: One for each epoch.
    """

    stage: str
    name: str
    epochs: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Item:
    """An image or a tracklet in a ranked list.

    Attributes:
        person_id: Identity; -1 where unknown.
        camera_id: Camera; -1 where unknown.
        modality: "visible", "infrared" or "".
        name: File, or row of the feature file.
        picture: None where only features are known.
    """

    person_id: int
    camera_id: int
    modality: str
    name: str
    picture: Picture | None = None


@dataclass(frozen=True)
class Match:
    """A place in a ranked list; `right` is None where a person is not known."""

    rank: int
    item: Item
    distance: float
    right: bool | None


@dataclass(frozen=True)
class RankedQuery:
    """A query with its lists.

    Attributes:
        kind: "best", "median" or "worst".
        query: The query.
        precision: Its average precision, by the name of the result ("plain", "reranked").
        first_right: 1-based rank of the first right match, by the name of the result.
        lists: The first matches, by the name of the result.
    """

    kind: str
    query: Item
    precision: Mapping[str, float]
    first_right: Mapping[str, int]
    lists: Mapping[str, tuple[Match, ...]]


@dataclass(frozen=True)
class MethodPicture:
    """Pictures of what a method looked at, side by side."""

    title: str
    caption: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Report:
    """Everything on one page; empty parts are left out of it.

    Attributes:
        title: Heading.
        facts: Words by name: method, data, protocol, versions, checkpoint.
        results: Results by name, in their order.
        cmc: Share of queries with a right match up to a rank, one curve a result.
        precision_recall: One curve a result.
        histograms: Distances.
        feature_map: Two-dimensional map.
        training: Training curves.
        ranked: Ranked lists.
        method_pictures: Pictures of the method's own.
        notes: Sentences on what was sampled or left out.
    """

    title: str
    facts: Mapping[str, str]
    results: Mapping[str, EvaluationResult]
    cmc: tuple[Curve, ...] = ()
    precision_recall: tuple[Curve, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    feature_map: FeatureMap | None = None
    training: tuple[TrainingCurve, ...] = ()
    ranked: tuple[RankedQuery, ...] = ()
    method_pictures: tuple[MethodPicture, ...] = field(default=())
    notes: tuple[str, ...] = ()
