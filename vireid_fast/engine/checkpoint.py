"""Checkpoints: a folder of safetensors files and one JSON card, visible only when complete.

Nothing in a checkpoint is executed when it is read. A folder appears under its final name in one
step; `latest.json` and `best.json` beside it name the folders to use and change in one step too.
"""

import contextlib
import hashlib
import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vireid_fast._files import atomic_folder, atomic_write, refusal_in, sha256_of
from vireid_fast._version import __version__
from vireid_fast.data.table import name_some

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
CARD_FILE = "card.json"
# Of letters such as those of `0-visual-0001`; no dots alone, no separator of any system.
_FOLDER_NAME = re.compile(r"[\w-][\w.-]{0,254}")

SEAL = "seal"
"""Key of a card or pointer under which the SHA-256 of its other entries stands."""

LARGEST_JSON = 64 << 20
"""Bytes; cards take a few kilobytes."""

WRAPPERS = ("module.", "_orig_mod.")
"""What `DataParallel` and `torch.compile` put before every name of a state dict."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason."""


@dataclass
class Checkpoint:
    """Weights, optimiser state and the card of one moment of a run."""

    model: dict[str, Tensor]
    card: dict[str, Any]
    optimizer: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder; a killed or failed write leaves the one of that name, or none.

    Args:
        folder: Target; an existing one of that name is replaced in one step.
        checkpoint: What to write.

    Raises:
        OSError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    with atomic_folder(folder) as temporary:
        files = {MODEL_FILE: _own(checkpoint.model)}
        scalars: dict[str, Any] = {}
        if checkpoint.optimizer:
            tensors, scalars = _flatten_optimizer(checkpoint.optimizer)
            files[OPTIMIZER_FILE] = tensors
        digests = {}
        for name, tensors in files.items():
            save_tensors(temporary / name, tensors)
            digests[name] = sha256_of(temporary / name)
        card = {**checkpoint.card, "version": __version__, "sha256": digests}
        if checkpoint.optimizer:
            card["optimizer"] = scalars
        with atomic_write(temporary / CARD_FILE) as path:
            path.write_text(json.dumps(_sealed(card), indent=1), encoding="utf-8")


def load_checkpoint(folder: Path, *, resume: bool = True) -> Checkpoint:
    """Read a checkpoint folder and verify its files.

    Args:
        folder: The folder.
        resume: False leaves the optimiser's state alone, which only training needs.

    Raises:
        CheckpointError: The folder or a file is absent, damaged or of another program.
    """
    card = _read_json(folder / CARD_FILE)
    if not isinstance(card.get("sha256"), dict) or MODEL_FILE not in card["sha256"]:
        raise CheckpointError(
            f"checkpoint: {folder / CARD_FILE} must list its files with their SHA-256, "
            f"got the keys {name_some(sorted(card), 5)}. Restore the checkpoint."
        )
    wanted = (MODEL_FILE, OPTIMIZER_FILE) if resume else (MODEL_FILE,)
    tensors = {name: _load_tensors(folder / name, digest) for name, digest in card["sha256"].items()
               if name in wanted}  # fmt: skip
    optimizer = {}
    if OPTIMIZER_FILE in tensors:
        optimizer = _restore_optimizer(tensors[OPTIMIZER_FILE], card, folder / CARD_FILE)
    return Checkpoint(tensors[MODEL_FILE], card, optimizer)


def point_to(pointer: Path, folder: Path, **facts: object) -> None:
    """Make `pointer` (latest.json, best.json) name a checkpoint folder beside it."""
    with atomic_write(pointer) as path:
        entries = {"checkpoint": folder.name, **facts}
        path.write_text(json.dumps(_sealed(entries)), encoding="utf-8")


def follow(pointer: Path) -> tuple[Path, dict[str, Any]]:
    """Folder and facts that a pointer names."""
    facts = _read_json(pointer)
    name = facts.get("checkpoint")
    if not isinstance(name, str) or not _FOLDER_NAME.fullmatch(name):
        raise CheckpointError(
            f"checkpoint: {pointer} must name a folder beside it, got {str(name)[:80]!r}."
        )
    require_intact(facts, pointer)
    return pointer.parent / name, facts


def _sealed(entries: dict[str, Any]) -> dict[str, Any]:
    # As a reader has them: with lists for tuples and texts for keys.
    entries = json.loads(json.dumps(entries))
    return {**entries, SEAL: _seal_of(entries)}


def _seal_of(entries: dict[str, Any]) -> str:
    """SHA-256 of what a reader finds, whatever the order and the white space."""
    text = json.dumps({k: v for k, v in entries.items() if k != SEAL}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def require_intact(entries: dict[str, Any], file: Path) -> None:
    """Refuse a card or pointer that is not as it was written; one without a seal is taken.

    To be asked last, so that what can be said about a single entry is said before.

    Raises:
        CheckpointError: An entry has changed, as by a flipped bit.
    """
    if SEAL in entries and entries[SEAL] != _seal_of(entries):
        raise CheckpointError(
            f"checkpoint: {file} must be as it was written, got other entries than those of its "
            f"seal: it is damaged or edited. Restore it, or, if the edit is yours, remove {SEAL!r}."
        )


def load_pointed(pointer: Path, *, resume: bool = True) -> tuple[Path, Checkpoint]:
    """The checkpoint that a pointer names, also while a training replaces it.

    Returns:
        Its folder and content.

    Raises:
        CheckpointError: See `load_checkpoint`.
    """
    while True:
        folder, _ = follow(pointer)
        try:
            return folder, load_checkpoint(folder, resume=resume)
        except CheckpointError:
            # A training removes what no pointer names any more, maybe while it is being read.
            if follow(pointer)[0] == folder:
                raise


def remove_other_checkpoints(parent: Path, keep: set[str]) -> None:
    """Delete checkpoint folders that no pointer names, and remains of killed writes."""
    for entry in parent.iterdir():
        if entry.is_dir() and entry.name not in keep:
            with contextlib.suppress(OSError):
                shutil.rmtree(entry)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file atomically.

    Raises:
        OSError: The disk is full or the file cannot be written.
    """
    with atomic_write(path, own_folder=True) as temporary:
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:
            raise refusal_in(error) from error


def _own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}


def _load_tensors(path: Path, digest: object) -> dict[str, Tensor]:
    remedy = "Restore the checkpoint, or start the run anew without --resume."
    if not path.is_file():
        raise CheckpointError(f"checkpoint: {path} must exist, got no such file. {remedy}")
    found = sha256_of(path)
    if found != digest:
        raise CheckpointError(
            f"checkpoint: {path} must have SHA-256 {digest}, got {found}: it is damaged. {remedy}"
        )
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"checkpoint: {path} must be safetensors, got {error}.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > LARGEST_JSON:
            raise CheckpointError(
                f"checkpoint: {path} must have at most {LARGEST_JSON:,} bytes, got {size:,}."
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(
            f"checkpoint: {path} must exist, got no such file. "
            "Give the folder of a run that has saved a checkpoint."
        ) from error
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"checkpoint: {path} must be JSON, got {error}.") from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise CheckpointError(f"checkpoint: {path} must hold an object, got {kind}.")
    return value


def _flatten_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {
        f"{index}.{name}": value.detach().cpu().contiguous().clone()
        for index, values in state["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    groups = [
        {name: value for name, value in group.items() if _is_plain(value)}
        for group in state["param_groups"]
    ]
    return tensors, {"param_groups": groups}


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | bool | str | list | tuple | type(None))


def _restore_optimizer(
    tensors: dict[str, Tensor], card: dict[str, Any], file: Path
) -> dict[str, Any]:
    scalars = card.get("optimizer")
    groups = scalars.get("param_groups") if isinstance(scalars, dict) else None
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise CheckpointError(
            f"checkpoint: {file} must hold the optimiser's groups, got none. "
            "Restore the checkpoint, or start the run anew without --resume."
        )
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        if not index.isdecimal() or not name:
            raise CheckpointError(
                f"checkpoint: {file.with_name(OPTIMIZER_FILE)} must name tensors NUMBER.NAME, "
                f"got {key[:80]!r}. Restore the checkpoint."
            )
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": groups}


def load_optimizer(
    optimizer: torch.optim.Optimizer, state: dict[str, Any], source: str
) -> None:
    """Load an optimiser's state, which must be that of the same parameters.

    Raises:
        CheckpointError: Groups, settings or shapes are of other parameters.
    """
    own, read = optimizer.state_dict()["param_groups"], state["param_groups"]
    fits = len(own) == len(read) and all(
        its.get("params") == mine["params"]
        and all(_same_kind(mine[key], its[key]) for key in mine.keys() & its.keys())
        for mine, its in zip(own, read, strict=True)
    )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    fits = fits and all(
        index < len(parameters)
        and all(v.ndim == 0 or v.shape == parameters[index].shape for v in values.values())
        for index, values in state["state"].items()
    )
    if not fits:
        raise CheckpointError(
            f"checkpoint: {source} must hold the optimiser's state of the parameters that are "
            "trained, got that of others. Restore the checkpoint, or start the run anew."
        )
    # Another version of torch may have settings that the file lacks, or lack some of the file's.
    groups = [
        {key: its.get(key, value) for key, value in mine.items()}
        for mine, its in zip(own, read, strict=True)
    ]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})


def _same_kind(mine: object, read: object) -> bool:
    """Whether a setting read from JSON can stand for ours: lists stand for tuples."""
    if isinstance(mine, list | tuple):
        return isinstance(read, list) and len(read) == len(mine)
    if type(mine) in (int, float):
        return type(read) in (int, float)
    return type(read) is type(mine)


def load_into(module: torch.nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load weights and name everything that does not fit.

    A wrapper's name before every key is dropped, such as `module.` of `DataParallel`.

    Raises:
        CheckpointError: Keys are missing, unexpected or of another shape, as for a checkpoint of
            another method, architecture or number of identities.
    """
    own = module.state_dict()
    for wrapper in WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    missing = sorted(own.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - own.keys())
    shapes = [
        f"{k}: {tuple(tensors[k].shape)} instead of {tuple(own[k].shape)}"
        for k in sorted(own.keys() & tensors.keys()) if own[k].shape != tensors[k].shape
    ]  # fmt: skip
    if missing or unexpected or shapes:
        parts = [
            f"{title} {', '.join(names[:5])}{' ...' if len(names) > 5 else ''} ({len(names)})"
            for title, names in (
                ("missing", missing), ("unexpected", unexpected), ("shape", shapes))
            if names
        ]  # fmt: skip
        raise CheckpointError(
            f"checkpoint: {source} must fit the configured model, got {'; '.join(parts)}. "
            "Use the configuration saved with the run, of the same method and identities."
        )
    module.load_state_dict(tensors)
