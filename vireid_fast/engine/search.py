"""Search: the gallery images that are nearest to some queries, whoever they show."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from vireid_fast._checks import positive_int, require, require_choice, sentence
from vireid_fast._version import __version__
from vireid_fast.data.feature_files import UNKNOWN_PERSON, read_metadata, read_paths
from vireid_fast.data.feature_formats import FORMATS
from vireid_fast.data.images import ImageError
from vireid_fast.engine.evaluation_files import read_feature_set, require_made_alike
from vireid_fast.engine.extractor import Extractor
from vireid_fast.engine.feature_writing import model_notes, unknown_people
from vireid_fast.retrieval.feature_set import MODALITY_NAMES, FeatureSet
from vireid_fast.retrieval.protocol import METRICS, Metric
from vireid_fast.retrieval.rerank import rerank_top_k
from vireid_fast.retrieval.results import RerankParameters
from vireid_fast.retrieval.search import search

RESULT_FORMAT = 1
"""Of the JSON; raised when a reader of older results could misread newer ones."""


@dataclass(frozen=True)
class Found:
    """A place in the list of a query.

    Attributes:
        rank: From 1.
        row: Row of the gallery file, from 0.
        distance: Small is near; NaN where re-ranking leaves it open.
    """

    rank: int
    row: int
    distance: float


@dataclass(frozen=True)
class Side:
    """The queries, or the gallery.

    Attributes:
        source: File or folder.
        features: One row for each image.
        names: Name of each row; None where the file does not tell.
        notes: What is known of the features' origin.
        root: Folder that the names are relative to; None if unknown.
        given: Whether the caller named the images themselves, not a file that names them.
    """

    source: Path
    features: FeatureSet
    names: list[str] | None
    notes: Mapping[str, str]
    root: Path | None
    given: bool = False

    def name(self, row: int) -> str:
        """What a row is called."""
        return f"row {row}" if self.names is None else self.names[row]

    def describe(self, row: int) -> dict[str, Any]:
        """Who and what a row shows; None where unknown."""
        own = self.features
        person, camera = int(own.person_ids[row]), int(own.camera_ids[row])
        return {
            "path": None if self.names is None else self.names[row],
            "person_id": None if person == UNKNOWN_PERSON else person,
            "camera_id": None if camera < 0 else camera,
            "modality": None if own.modality is None else MODALITY_NAMES[int(own.modality[row])],
        }


@dataclass(frozen=True)
class SearchResults:
    """What a search found, and how.

    Attributes:
        query: The queries.
        gallery: The gallery.
        searched: Rows of the gallery among which was searched.
        metric: Distance between features.
        rerank: Parameters of re-ranking; None without.
        lists: For each query its nearest gallery rows.
        skipped: Query images that could not be read.
        notes: Sentences on what a reader should know.
    """

    query: Side
    gallery: Side
    searched: int
    metric: str
    rerank: RerankParameters | None
    lists: tuple[tuple[Found, ...], ...]
    skipped: tuple[ImageError, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; docs/search_and_features.md describes them."""
        made = self.gallery.notes
        return {
            "format": RESULT_FORMAT,
            "version": __version__,
            "gallery": {
                "file": str(self.gallery.source), "rows": len(self.gallery.features),
                "searched": self.searched, "root": made.get("root"),
            },
            "model": {name: made.get(name) or self.query.notes.get(name)
                      for name in ("method", "checkpoint")},
            "metric": self.metric,
            "rerank": None if self.rerank is None else self.rerank._asdict(),
            "queries": [
                {"query": self.query.name(row), **self.query.describe(row),
                 "matches": [self._match(found) for found in matches]}
                for row, matches in enumerate(self.lists)
            ],
            "skipped": [{"path": e.path, "reason": e.reason} for e in self.skipped],
            "notes": list(self.notes),
        }  # fmt: skip

    def _match(self, found: Found) -> dict[str, Any]:
        distance = found.distance if math.isfinite(found.distance) else None
        return {"rank": found.rank, "distance": distance, "row": found.row,
                **self.gallery.describe(found.row)}  # fmt: skip


def search_gallery(
    gallery: Path,
    query: Path,
    extractor: Extractor | None = None,
    *,
    query_modality: str = "infrared",
    gallery_modality: str = "all",
    top_k: int = 10,
    metric: str | None = None,
    rerank: tuple[int, int, float] | None = None,
    skip_bad: bool = False,
) -> SearchResults:
    """Find the gallery rows nearest to images, or to the rows of another feature file.

    Distances and lists are exact; equal distances come in the order of the gallery's rows.
    Re-ranking looks at all queries and the whole gallery at once, so a query's list depends on the
    queries that come with it.

    Args:
        gallery: Feature file of the gallery.
        query: An image, a folder of images (of clips for a network of clips), or a feature file.
        extractor: The model that the gallery was made with; None where `query` is a feature file.
        query_modality: "visible" or "infrared", of query images.
        gallery_modality: "visible" or "infrared" searches these rows alone; "all".
        top_k: Length of the lists; clips to the gallery.
        metric: "euclidean", "cosine" or "dot"; None: what gallery or model says, else euclidean.
        rerank: (k1, k2, lambda) of k-reciprocal re-ranking; None without.
        skip_bad: Leave damaged query images out and name them, instead of stopping.

    Raises:
        ValueError: The gallery is of another model, or an argument or a file does not fit.
        ImageError: A damaged query image, unless `skip_bad`.
    """
    top_k = positive_int("search", "--top-k", top_k)
    if metric is not None:
        require_choice("search", "--metric", metric, METRICS)
    require_choice("search", "--query-modality", query_modality, MODALITY_NAMES)
    require_choice("search", "--gallery-modality", gallery_modality, ("all", *MODALITY_NAMES))
    found_in = read_side(gallery)
    asked, skipped = _queries(query, extractor, found_in, query_modality, skip_bad=skip_bad)
    require_made_alike({str(asked.source): asked.notes, str(gallery): found_in.notes})
    _require_width(asked, found_in)
    rows = _rows(found_in, gallery_modality)
    chosen = metric or found_in.notes.get("metric") or asked.notes.get("metric") or "euclidean"
    require_choice(str(gallery), "metadata 'metric'", chosen, METRICS)
    parameters = None if rerank is None else RerankParameters(*rerank)
    distances, indices = _nearest(
        asked.features.features, found_in.features.ascending(rows).features, top_k, chosen,
        parameters,
    )  # fmt: skip
    numbers = rows[indices]
    lists = tuple(
        tuple(Found(rank, row, distance)
              for rank, (row, distance) in enumerate(zip(*pair, strict=True), start=1))
        for pair in zip(numbers.tolist(), distances.tolist(), strict=True)
    )  # fmt: skip
    notes = _notes(asked, found_in, top_k, len(rows), parameters)
    return SearchResults(
        asked, found_in, len(rows), chosen, parameters, lists, skipped, notes
    )


def read_side(path: Path) -> Side:
    """A feature file with all that it says of its rows."""
    notes = read_metadata(path)
    root = notes.get("root")
    return Side(path, read_feature_set(path), read_paths(path), notes, Path(root) if root else None)


def _queries(
    query: Path, extractor: Extractor | None, gallery: Side, modality: str, *, skip_bad: bool
) -> tuple[Side, tuple[ImageError, ...]]:
    if query.suffix in FORMATS and not query.is_dir():
        require(extractor is None, "search", "--query", "be images with --run or --model",
                f"the feature file {query}", "Leave the model out.")  # fmt: skip
        asked = read_side(query)
        require(len(asked.features) > 0, str(query), "features", "have at least one row", 0)
        return asked, ()
    made = gallery.notes
    origin = ", ".join(f"{name} {made[name][:12]}" for name in ("method", "checkpoint")
                       if name in made)  # fmt: skip
    if extractor is None:
        raise ValueError(sentence(
            "search", "--run or --model", "name the model for the query's features", "neither",
            f"Give the one that made {gallery.source}{f' ({origin})' if origin else ''}.",
        ))  # fmt: skip
    require(query.exists(), "search", "--query",
            "be an image, a folder of images or a feature file",
            f"{query}, which does not exist")  # fmt: skip
    found = extractor.extract_path(query, modality=modality, skip_bad=skip_bad)
    require(
        len(found.paths) > 0, "search", "--query", "hold an image that can be read",
        f"only damaged ones in {query}",
    )  # fmt: skip
    root = query if query.is_dir() else query.parent
    side = Side(
        Path(extractor.network.source), unknown_people(found, modality), list(found.paths),
        model_notes(extractor.card), root, given=True,
    )  # fmt: skip
    return side, found.bad


def _require_width(query: Side, gallery: Side) -> None:
    widths = [side.features.features.shape[1] for side in (query, gallery)]
    require(
        widths[0] == widths[1], f"search: {gallery.source}", "features",
        f"have the width {widths[0]} of {query.source}", widths[1], "Extract both with one model.",
    )  # fmt: skip


def _rows(gallery: Side, modality: str) -> Tensor:
    """Rows of the gallery to search among. Shape (g,), int64."""
    own, count = gallery.features, len(gallery.features)
    require(count > 0, str(gallery.source), "features", "have at least one row", 0)
    if modality == "all":
        return torch.arange(count)
    if own.modality is None:
        raise ValueError(sentence(str(gallery.source), "modality", "be in the file", "none",
                                  "Leave --gallery-modality out."))  # fmt: skip
    rows = torch.nonzero(own.modality == MODALITY_NAMES.index(modality)).flatten()
    require(len(rows) > 0, str(gallery.source), "modality", f"be {modality} in at least one row",
            "none", "Leave --gallery-modality out.")  # fmt: skip
    return rows


def _nearest(
    query: Tensor, gallery: Tensor, k: int, metric: str, rerank: RerankParameters | None
) -> tuple[Tensor, Tensor]:
    """Distances and positions of the nearest, both (Q, min(k, G))."""
    if rerank is None:
        found = search(query, gallery, k, metric=cast(Metric, metric))
        return cast(Tensor, found.distances), cast(Tensor, found.indices)
    dtype = torch.promote_types(query.dtype, gallery.dtype)
    # As in evaluation: the distances of re-ranking are Euclidean, of rows as the metric has them.
    query, gallery = query.to(dtype), gallery.to(dtype)
    if metric == "cosine":
        query, gallery = F.normalize(query.float()), F.normalize(gallery.float())
    nearest = rerank_top_k(query, gallery, k, *rerank)
    return nearest.distances, nearest.indices


def _notes(
    query: Side, gallery: Side, top_k: int, searched: int, rerank: RerankParameters | None
) -> tuple[str, ...]:
    notes = []
    if top_k > searched:
        notes.append(f"All {searched} gallery images are listed: fewer than the {top_k} asked for.")
    silent = [str(side.source) for side in (query, gallery) if "checkpoint" not in side.notes]
    if silent:
        notes.append(
            f"{' and '.join(silent)} {'do' if len(silent) > 1 else 'does'} not say which model "
            "made the features; "
            "only their width was compared."
        )
    if rerank is not None and len(query.features) > 1:
        notes.append("Re-ranking compares all queries at once: the lists depend on each other.")
    return tuple(notes)


def known_right(results: SearchResults, row: int, found: Found) -> bool | None:
    """Whether a match shows the person of a query; None where one of the two is unknown."""
    people = [
        int(side.features.person_ids[position])
        for side, position in ((results.query, row), (results.gallery, found.row))
    ]
    return None if UNKNOWN_PERSON in people else people[0] == people[1]

