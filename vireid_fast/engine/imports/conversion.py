"""From a published checkpoint to a model folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vireid_fast._checks import require, require_choice, sentence
from vireid_fast.data.table import name_some
from vireid_fast.engine.checkpoint import CARD_FILE, MODEL_FILE, CheckpointError
from vireid_fast.engine.imports import FORMATS, CheckpointFormat, ImportOptions
from vireid_fast.engine.imports.reading import PublishedCheckpoint, read_published
from vireid_fast.engine.imports.settings import NetworkDescription, Shapes
from vireid_fast.engine.model_card import ModelCard, card_from_json, save_model
from vireid_fast.models.agw import NECKS, POOLINGS

_WHAT = "convert"
# A counter that no output depends on; torch before 0.4.1 did not save it.
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class ImportedModel:
    """A published checkpoint under our names.

    Attributes:
        format: Its format.
        card: The model card.
        tensors: State dict of the network that the card describes.
        dropped: What features do not need, in words, with the number of tensors.
        unknown: Names that the format does not know, left out on request.
        assumed: What no shape tells, in words.
    """

    format: str
    card: ModelCard
    tensors: dict[str, Tensor]
    dropped: dict[str, int]
    unknown: tuple[str, ...]
    assumed: tuple[str, ...]


def import_checkpoint(
    path: Path, format_name: str = "auto", options: ImportOptions | None = None
) -> ImportedModel:
    """Read a published checkpoint.

    Args:
        path: The file.
        format_name: A key of `FORMATS`, or "auto".
        options: What the shapes do not tell.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is damaged, hostile or of no known format; a tensor is missing,
            unknown, misshaped or not finite; each is named.
        ValueError: An option does not fit.
    """
    options = options or ImportOptions()
    require_choice(_WHAT, "--format", format_name, ("auto", *FORMATS))
    _check(options)
    published = read_published(path)
    kind = _recognise(published) if format_name == "auto" else FORMATS[format_name]
    description = kind.describe(Shapes(path, published.tensors, kind.name), options)
    card = _card(kind, description, published, options)
    targets = kind.outline(card).state_dict()
    tensors = _take(kind, published, targets)
    used = {kind.published_name(name) for name in targets}
    dropped: dict[str, int] = {}
    unknown = []
    for name in published.tensors:
        if name in used:
            continue
        reason = kind.reason_to_drop(name)
        if reason is None:
            unknown.append(name)
        else:
            dropped[reason] = dropped.get(reason, 0) + 1
    if unknown and not options.drop_unknown:
        raise CheckpointError(
            sentence(f"{_WHAT}: {path}", "the state dict", f"hold what {kind.name} has alone",
                     f"{len(unknown)} unknown tensors: {name_some(unknown, 8)}",
                     "It is another network. If features do not need these, add --drop-unknown.")
        )  # fmt: skip
    return ImportedModel(
        kind.name, card, tensors, dropped, tuple(unknown), description.assumed
    )


def convert_checkpoint(
    path: Path, out: Path, format_name: str = "auto", options: ImportOptions | None = None
) -> ImportedModel:
    """Write a published checkpoint as a model folder.

    Args:
        path: The file.
        out: Target folder, new or a model folder to replace.
        format_name: See `import_checkpoint`.
        options: See `import_checkpoint`.

    Raises:
        OSError: The folder cannot be written; the previous one stays.
    """
    require_replaceable(out)
    imported = import_checkpoint(path, format_name, options)
    save_model(out, imported.card, imported.tensors)
    return imported


def require_replaceable(out: Path) -> None:
    """Refuse a target that is a file, or a folder with something else in it than a model."""
    require(not out.is_file(), _WHAT, "--out", "be a folder", f"the file {out}")
    if out.is_dir():
        others = sorted(
            entry.name for entry in out.iterdir()
            if entry.name not in (CARD_FILE, MODEL_FILE) and entry.name[0] != "."
        )  # fmt: skip
        require(
            not others, _WHAT, "--out", "be new or a model folder",
            f"{out}, which holds {name_some(others, 3)}", "Name another folder.",
        )  # fmt: skip


def _check(options: ImportOptions) -> None:
    if options.size is not None:
        require(
            len(options.size) == 2 and all(16 <= side <= 4096 for side in options.size), _WHAT,
            "--size", "be HEIGHT,WIDTH, both in 16..4096 pixels", options.size,
        )  # fmt: skip
    for name, value, choices in (
        ("--neck", options.neck, NECKS), ("--pooling", options.pooling, POOLINGS)
    ):  # fmt: skip
        if value is not None:
            require_choice(_WHAT, name, value, choices)
    require(
        abs(options.coefficient) < 1e6, _WHAT, "--sie-coefficient", "be a number of ordinary size",
        options.coefficient,
    )  # fmt: skip


def _recognise(published: PublishedCheckpoint) -> CheckpointFormat:
    found = [kind for kind in FORMATS.values() if kind.recognises(published.tensors.keys())]
    if len(found) == 1:
        return found[0]
    raise CheckpointError(
        sentence(f"{_WHAT}: {published.path}", "the state dict",
                 f"have the names of {', '.join(FORMATS)}",
                 f"other names: {name_some(list(published.tensors), 5)}",
                 "CLIP's own weights go into clip.weights; a checkpoint of a run is a model "
                 "folder already.")
    )  # fmt: skip


def _card(
    kind: CheckpointFormat, description: NetworkDescription, published: PublishedCheckpoint,
    options: ImportOptions,
) -> ModelCard:  # fmt: skip
    epoch = published.numbers.get("epoch")
    origin = options.source or kind.repository
    card = ModelCard(
        method=kind.name,
        preprocessing=description.preprocessing,
        feature_width=1,
        processing=description.processing,
        normalisation=description.normalisation,
        metric=description.metric,
        network=description.network,
        architecture=description.architecture,
        activation=description.activation,
        num_identities=description.num_identities,
        data=options.data,
        epoch=epoch if type(epoch) is int and 0 <= epoch < 1_000_000 else None,
        source=f"{origin}, {published.path.name} with SHA-256 {published.sha256}",
        licence=options.licence,
    )
    values = {**card.to_json(), "feature_width": kind.outline(card).feature_width}
    # Read back, so that no card is written that cannot be read.
    return card_from_json(values, published.path)


def _take(
    kind: CheckpointFormat, published: PublishedCheckpoint, targets: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of our network, in its dtypes, from those of the checkpoint."""
    missing, shapes, values = [], [], []
    tensors = {}
    for ours, target in targets.items():
        theirs = kind.published_name(ours)
        value = published.tensors.get(theirs)
        if value is None:
            if ours.endswith(_COUNTER):
                tensors[ours] = torch.zeros(target.shape, dtype=target.dtype)
            else:
                missing.append(theirs)
            continue
        # A single number may be saved with one axis.
        if value.numel() == target.numel() == 1:
            value = value.reshape(target.shape)
        if value.shape != target.shape:
            shapes.append(f"{theirs} {tuple(value.shape)} instead of {tuple(target.shape)}")
            continue
        if target.is_floating_point() and not (
            value.is_floating_point() and bool(torch.isfinite(value).all())
        ):
            values.append(theirs)
        # A copy: the file may store one tensor under several names.
        tensors[ours] = value.to(target.dtype, copy=True).contiguous()
    problems = [
        f"{title} {name_some(names, 8)}"
        for title, names in (("missing", missing), ("misshaped", shapes),
                             ("not finite", values))
        if names
    ]  # fmt: skip
    if problems:
        raise CheckpointError(
            sentence(f"{_WHAT}: {published.path}", "the state dict",
                     f"hold the weights of {kind.name}", "; ".join(problems),
                     "Is it whole, and of this format?")
        )  # fmt: skip
    return tensors


def describe_import(imported: ImportedModel) -> list[str]:
    """What was read, left out and assumed, one line each."""
    card = imported.card
    size = f"{card.preprocessing.height} x {card.preprocessing.width}"
    lines = [
        f"format: {imported.format}  {card.architecture}, images of {size}, "
        f"{card.num_identities} identities",
        f"features: width {card.feature_width}, "
        + ", ".join(f"{name} {word}" for name, word in card.processing.items()),
        "assumed, as no shape tells it: " + "; ".join(imported.assumed),
    ]
    if imported.dropped:
        parts = "; ".join(f"{reason} ({count})" for reason, count in imported.dropped.items())
        lines.append(f"left out, as features do not need it: {parts}")
    if imported.unknown:
        lines.append(f"left out, unknown: {name_some(list(imported.unknown), 8)}")
    return lines
