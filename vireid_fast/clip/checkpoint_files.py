"""Reading state dicts from files nobody vouches for.

No pickle is ever executed: torch files are read with `weights_only=True`, and a TorchScript
archive, which holds code, is opened only where the caller trusts it.
"""

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

# In the order of preference.
FOLDER_NAMES = (
    "model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)  # fmt: skip


class WeightsError(ValueError):
    """A weight file cannot be used; the message names the file, the reason and a remedy."""

    def __init__(self, path: Path, reason: str, remedy: str = "") -> None:
        super().__init__(f"load_weights: {path} {reason}.{f' {remedy}' if remedy else ''}")
        self.path = path


def weight_file(path: str | Path) -> Path:
    """The weight file meant by `path`, which is a file or a folder that holds one.

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(path)
    if path.is_dir():
        for name in FOLDER_NAMES:
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(
            f"load_weights: folder {path} must hold a weight file, got none of "
            f"{', '.join(FOLDER_NAMES)}. Pass the file itself."
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"load_weights: path must be a weight file or a folder that holds one, got {path}. "
            "Weights are not fetched from the network; download them first."
        )
    return path


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive; no content is unpacked."""
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    # BadZipFile, or what a damaged list of names raises; torch's own reader will say what is wrong.
    except Exception:
        return False


def read_state_dict(path: Path, trust: bool) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, a torch file or a TorchScript archive.

    Args:
        path: The file.
        trust: Whether a TorchScript archive may be opened.

    Returns:
        Names and tensors on the CPU. A training checkpoint's `state_dict` is unwrapped, and
        `module.` before every name is dropped.

    Raises:
        WeightsError: The file is damaged, holds objects other than tensors, or needs `trust`.
    """
    content = _read(path, trust)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise WeightsError(
            path, f"must hold a state dict, got {type(content).__name__}",
            "Save model.state_dict().",
        )  # fmt: skip
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise WeightsError(
                path, f"must hold names and tensors only, got {type(value).__name__} at {name!r}",
                "Save model.state_dict() alone, or under the key 'state_dict'.",
            )  # fmt: skip
    if not content:
        raise WeightsError(path, "must hold tensors, got an empty state dict")
    prefix = "module." if all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): value for name, value in content.items()}


def _read(path: Path, trust: bool) -> Any:
    torchscript = is_torchscript(path)
    if torchscript and not trust:
        raise WeightsError(
            path, "must be trusted to be opened, got a TorchScript archive, which holds code",
            "Pass trust=True if you know where it comes from, or convert it to a state dict.",
        )  # fmt: skip
    try:
        if torchscript:
            return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    # A damaged or hostile file may raise anything; the cause stays attached.
    except Exception as error:
        raise WeightsError(
            path, f"must be an intact file of weights alone, got an unreadable one "
            f"({_reason(error)})",
            "Fetch it again, or save model.state_dict() as safetensors.",
        ) from error  # fmt: skip


def _reason(error: Exception) -> str:
    """The first line of an error, without torch's advice to trust the file."""
    if isinstance(error, pickle.UnpicklingError):
        return "it holds objects other than tensors, or is damaged"
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def read_config(path: Path) -> dict[str, Any] | None:
    """Read the JSON object in `path`; None where there is no such file.

    Raises:
        WeightsError: The file is no JSON object.
    """
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise WeightsError(path, f"must be JSON, got a syntax error ({error})") from error
    if not isinstance(config, dict):
        raise WeightsError(path, f"must be a JSON object, got {type(config).__name__}")
    return config
