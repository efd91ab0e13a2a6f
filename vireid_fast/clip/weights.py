"""Loading of published CLIP weights, and OpenAI's names for a model's state dict.

Names: a model splits its image tower in stem and trunk and keeps its text tower under `text`, while
OpenAI's state dict is flat. `openai_name` maps `visual.stem.X` and `visual.trunk.X` to `visual.X`,
and `text.X` to `X`; within one model no two names meet, so the map is its own inverse table.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vireid_fast._checks import require_choice
from vireid_fast.clip.checkpoint_files import (
    WeightsError,
    is_torchscript,
    read_state_dict,
    weight_file,
)
from vireid_fast.clip.formats import Source, identify, to_openai
from vireid_fast.clip.model import CLIP
from vireid_fast.clip.positions import resize_positions
from vireid_fast.clip.transformer import ACTIVATIONS

_PREFIX = re.compile(r"^(visual\.)(stem|trunk)\.|^text\.")
_POSITION_NAMES = ("visual.positional_embedding", "visual.attnpool.positional_embedding")
# Statistics counters that do not influence any output.
_OPTIONAL_SUFFIX = "num_batches_tracked"

Grid = tuple[int, int]
Mismatches = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        path: The file that was read.
        format: "openai", "openai-torchscript", "open_clip" or "huggingface". A plain state dict
            with OpenAI's names may come from open_clip, too, and is called "openai".
        activation: "quick_gelu" or "gelu".
        missing: OpenAI names of weights that the file does not have; they keep their values.
        mismatched: OpenAI names of weights of another shape, with (file's shape, model's shape);
            they keep their values.
        unexpected: Names in the file that the model does not have; they were ignored.
        resized: OpenAI names of position embeddings that were resized, with (file's grid, model's
            grid) as (h, w).
    """

    path: Path
    format: str
    activation: str
    missing: tuple[str, ...]
    mismatched: Mismatches
    unexpected: tuple[str, ...]
    resized: dict[str, tuple[Grid, Grid]]


def openai_name(name: str) -> str:
    """OpenAI's name of an entry of `CLIP.state_dict()`."""
    return _PREFIX.sub(lambda match: match[1] or "", name)


def openai_state_dict(model: CLIP) -> dict[str, Tensor]:
    """The model's state dict under OpenAI's names; tensors are shared with the model."""
    return {openai_name(name): value for name, value in model.state_dict().items()}


def load_weights(
    model: CLIP,
    path: str | Path,
    *,
    trust: bool = False,
    activation: str | None = None,
    strict: bool = True,
) -> LoadReport:
    """Load CLIP weights from a file into a model of the same sizes.

    Reads OpenAI's `.pt`, Hugging Face `CLIPModel` (safetensors with `config.json` beside it) and
    open_clip (`.pt`, `.bin` or `.safetensors`, with `open_clip_config.json` where there is one).
    Values are converted to the dtype of the model, so half-precision files become float32. Position
    embeddings of the image tower are resized bilinearly to the model's grid. Nothing is fetched
    from the network and no pickle is executed. A failed load leaves the model as it was.

    Args:
        model: Where the weights go, on any device.
        path: A file, or a folder that holds one.
        trust: Open a TorchScript archive, which may hold code. Its state dict alone is used.
        activation: "quick_gelu" or "gelu": what the weights were trained with; needed only where
            neither the format nor a configuration tells it.
        strict: Raise where weights are missing or have another shape; otherwise report them.

    Returns:
        What was loaded, missing, ignored and resized.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: (A ValueError.) The file is damaged, not trusted or of another model; its
            activation is unknown, or not that of the model; weights are missing, misshapen or not
            finite.
    """
    if activation is not None:
        require_choice("load_weights", "activation", activation, ACTIVATIONS)
    file = weight_file(path)
    state = read_state_dict(file, trust)
    source = identify(file, state, torchscript=is_torchscript(file))
    activation = _checked_activation(model, file, source, activation)
    _check_heads(model, file, source)
    state = to_openai(state, source)
    targets = openai_state_dict(model)
    if not targets.keys() & state.keys():
        raise WeightsError(
            file, f"must hold CLIP weights, got other names such as {next(iter(state), None)!r}",
            "Pass an OpenAI, Hugging Face CLIPModel or open_clip file.",
        )  # fmt: skip
    resized = _resize(model, file, state)
    missing, mismatched = _compare(state, targets)
    matched = [name for name in targets if name in state]
    if strict:
        _require_complete(file, missing, mismatched)
    _check_values(file, {name: state[name] for name in matched})
    with torch.no_grad():
        for name in matched:
            if name not in mismatched:
                targets[name].copy_(state[name])
    unexpected = tuple(name for name in state if name not in targets)
    return LoadReport(file, source.format, activation, missing, mismatched, unexpected, resized)


def _checked_activation(model: CLIP, file: Path, source: Source, declared: str | None) -> str:
    """The activation of the weights, once it is known and is the model's."""
    if source.activation is None and declared is None:
        raise WeightsError(
            file, "must tell the activation its model was trained with, got none in the file or "
            "beside it",
            "Pass activation='quick_gelu' (OpenAI's weights and those trained like them) or "
            "activation='gelu' (most of open_clip's).",
        )  # fmt: skip
    if None not in (source.activation, declared) and source.activation != declared:
        raise WeightsError(
            file, f"must have the declared activation {declared!r}, got {source.activation!r} "
            f"from {source.evidence}",
            "Leave activation out.",
        )  # fmt: skip
    known = source.activation or declared
    wanted = model.architecture.activation
    if known != wanted:
        raise WeightsError(
            file, f"must have the model's activation {wanted!r}, got {known!r}",
            f"Build the model with activation={known!r}.",
        )  # fmt: skip
    return known


def _check_heads(model: CLIP, file: Path, source: Source) -> None:
    """Head counts do not show in any shape, so a difference would go unnoticed."""
    wanted = (model.architecture.visual_heads, model.architecture.text_heads)
    if source.heads is not None and source.heads != wanted:
        raise WeightsError(
            file, f"must have the model's heads (visual, text) {wanted}, got {source.heads}",
            f"Build the model with visual_heads={source.heads[0]}, text_heads={source.heads[1]}.",
        )  # fmt: skip


def _resize(model: CLIP, file: Path, state: dict[str, Tensor]) -> dict[str, tuple[Grid, Grid]]:
    """Fit the position embeddings in `state` to the model's grid, and tell which were resized."""
    target = model.visual.grid
    resized: dict[str, tuple[Grid, Grid]] = {}
    for name in _POSITION_NAMES:
        positions = state.get(name)
        if positions is None or positions.dim() != 2:
            continue
        count = positions.shape[0] - 1
        side = math.isqrt(max(count, 0))
        # Published grids are square. Another grid of the model's own size was saved after a resize.
        if side * side != count == target[0] * target[1]:
            continue
        if side * side != count or count < 1:
            raise WeightsError(
                file, f"must hold a square grid or the model's grid {target} in {name}, "
                f"got {count} positions",
            )  # fmt: skip
        if target == (side, side):
            continue
        exact = torch.promote_types(positions.dtype, torch.float32)
        state[name] = resize_positions(positions.to(exact), target)
        resized[name] = ((side, side), target)
    return resized


def _compare(
    state: dict[str, Tensor], targets: dict[str, Tensor]
) -> tuple[tuple[str, ...], Mismatches]:
    """The weights of `targets` that `state` lacks, and those it has in another shape."""
    missing = tuple(
        name for name in targets if name not in state and not name.endswith(_OPTIONAL_SUFFIX)
    )
    mismatched = {
        name: (tuple(state[name].shape), tuple(target.shape))
        for name, target in targets.items()
        if name in state and state[name].shape != target.shape
    }
    return missing, mismatched


def _check_values(file: Path, weights: dict[str, Tensor]) -> None:
    """Raise where a weight is quantised, NaN or infinite."""
    for name, value in weights.items():
        if name.endswith(_OPTIONAL_SUFFIX):
            continue
        if not value.is_floating_point():
            raise WeightsError(file, f"must hold floating-point weights, got {value.dtype} {name}")
        if not torch.isfinite(value).all():
            raise WeightsError(
                file, f"must hold finite weights, got NaN or infinity in {name}", "Fetch it again."
            )  # fmt: skip


def _require_complete(
    file: Path,
    missing: tuple[str, ...],
    mismatched: Mismatches,
) -> None:
    if not missing and not mismatched:
        return
    shapes = [f"{name} {theirs} for {ours}" for name, (theirs, ours) in mismatched.items()]
    reasons = [
        f"{kind} {', '.join(names)}"
        for kind, names in (("missing", missing), ("of another shape", shapes))
        if names
    ]
    raise WeightsError(
        file, f"must hold every weight of the model, got {'; '.join(reasons)}",
        "Build the model with the file's sizes, or pass strict=False to keep random values there.",
    )  # fmt: skip
