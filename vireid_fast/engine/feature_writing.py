"""Feature files as we write them: what made the features, and which images they are of."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from vireid_fast._checks import require, require_choice
from vireid_fast._version import __version__
from vireid_fast.data.feature_files import ROOT_NOTE, UNKNOWN_PERSON, write_features
from vireid_fast.data.table import ImageTable
from vireid_fast.data.tracklets import TrackletTable
from vireid_fast.engine.evaluation_files import processing_notes
from vireid_fast.engine.extractor import Extractor, FolderFeatures
from vireid_fast.engine.model_card import ModelCard
from vireid_fast.retrieval.feature_set import MODALITY_NAMES, UNKNOWN_CAMERA, FeatureSet

DTYPES = ("float32", "float16")


def model_notes(card: ModelCard, dtype: str = "float32") -> dict[str, str]:
    """Metadata of a feature file that says which model made it, and how; unknown words left out."""
    notes = {
        "version": __version__, "method": card.method, "checkpoint": card.digest,
        "data": card.data, "protocol": card.protocol, "metric": card.metric,
        "normalisation": card.normalisation, "dtype": dtype,
    }  # fmt: skip
    known = {name: words for name, words in notes.items() if words}
    return {**known, **processing_notes(card.processing, card.split)}


def write_extraction(
    out: Path,
    features: FeatureSet,
    card: ModelCard,
    *,
    dtype: str = "float32",
    root: Path,
    paths: Sequence[str],
    further: Mapping[str, str] | None = None,
) -> None:
    """Write features with everything that is known of them.

    Args:
        out: Feature file.
        features: Features, and who and what they show.
        card: The model.
        dtype: "float32", or "float16" for files of half the size.
        root: Folder that `paths` are relative to.
        paths: Image of each row.
        further: More metadata.

    Raises:
        ValueError: The dtype is unknown, or too narrow for a feature.
        OSError: The file cannot be written.
    """
    require_choice("extract", "--dtype", dtype, DTYPES)
    rows = features.features.to(getattr(torch, dtype))
    require(bool(torch.isfinite(rows).all()), "extract", "--dtype",
            "hold every feature", f"float16, whose largest number is 65504, and one of "
            f"{float(features.features.abs().max()):.3g}", "Choose float32.")  # fmt: skip
    columns = {
        "features": rows, "person_ids": features.person_ids, "camera_ids": features.camera_ids,
        "modality": features.modality, "image_indices": features.image_indices,
        "roles": features.roles,
    }  # fmt: skip
    arrays = {name: column.numpy() for name, column in columns.items() if column is not None}
    notes = {**model_notes(card, dtype), ROOT_NOTE: str(root.resolve()), **(further or {})}
    write_features(out, arrays, notes, paths)


def row_paths(table: ImageTable | TrackletTable, rows: np.ndarray) -> list[str]:
    """Image of each row, relative to the root of the table; of a tracklet its middle frame."""
    if isinstance(table, TrackletTable):
        return [table.frames.paths[row] for row in table.middle_frames(rows).tolist()]
    return [table.paths[row] for row in rows.tolist()]


def unknown_people(found: FolderFeatures, modality: str) -> FeatureSet:
    """Features of images of which nothing but the modality is known."""
    count = len(found.paths)
    return FeatureSet(
        features=found.features,
        person_ids=torch.full((count,), UNKNOWN_PERSON),
        camera_ids=torch.full((count,), UNKNOWN_CAMERA),
        modality=torch.full((count,), MODALITY_NAMES.index(modality)),
    )


def extract_images(
    extractor: Extractor,
    images: Path,
    modality: str,
    out: Path,
    *,
    dtype: str = "float32",
    skip_bad: bool = False,
) -> FolderFeatures:
    """Write the features of an image, or of a folder of images of which no more is known.

    Args:
        extractor: The model.
        images: An image, or a folder; of a network of clips each folder with images is a clip.
        modality: "visible" or "infrared", of all of them.
        out: Feature file.
        dtype: See `write_extraction`.
        skip_bad: Leave damaged images out and name them, instead of stopping.

    Returns:
        Features, and the paths relative to the folder.
    """
    require(images.exists(), "extract", "--images", "be an image or a folder of images",
            f"{images}, which does not exist")  # fmt: skip
    found = extractor.extract_path(images, modality=modality, skip_bad=skip_bad)
    root = images if images.is_dir() else images.parent
    write_extraction(
        out, unknown_people(found, modality), extractor.card, dtype=dtype, root=root,
        paths=found.paths,
    )  # fmt: skip
    return found
