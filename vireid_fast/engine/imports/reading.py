"""Reading checkpoints of other programs: tensors and plain numbers, nothing is executed.

torch's `weights_only` reader builds tensors and plain containers and calls nothing else that a
pickle names. Published checkpoints also hold scores as numpy values; what builds these in a pickle
is answered with the stand-ins below, which keep a number or nothing, so numpy takes no part.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vireid_fast._checks import sentence
from vireid_fast._files import sha256_of
from vireid_fast.clip.checkpoint_files import is_torchscript
from vireid_fast.data.table import name_some
from vireid_fast.engine.checkpoint import WRAPPERS, CheckpointError

CONTAINERS = ("net", "state_dict", "model", "model_state_dict")
"""Keys under which training programs keep the state dict."""

# What torch says of a pickle that asks for more than tensors, in the words up to its advice.
_FORBIDDEN = re.compile(
    r"(?:Unsupported (?:global|class|operand|instruction)|unsupported GLOBAL|Can only \w+)[^\n]*?"
    r"(?= was not| whose| but got|[.,]? *$)", re.MULTILINE,
)  # fmt: skip
_ADVICE = "Weights only load failed"
_DEPTH = 8


@dataclass(frozen=True)
class PublishedCheckpoint:
    """What a file holds.

    Attributes:
        path: The file.
        tensors: Names without `module.`, tensors on the CPU.
        numbers: Plain numbers beside the state dict, such as `epoch`.
        sha256: Of the file.
    """

    path: Path
    tensors: dict[str, Tensor]
    numbers: dict[str, float]
    sha256: str


def read_published(path: Path) -> PublishedCheckpoint:
    """Read a state dict in a torch file (any suffix) or a safetensors file.

    It may lie under one of `CONTAINERS`, and each name may begin with `module.`.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is damaged, holds code or other objects than tensors and plain
            values, or no state dict.
    """
    if not path.is_file():
        raise FileNotFoundError(
            sentence("convert", "the checkpoint", "be a file on this machine", str(path),
                     "Nothing is downloaded; fetch the file first.")
        )  # fmt: skip
    content = _load(path)
    numbers: dict[str, float] = {}
    for _ in range(_DEPTH):
        inner = _contained(content)
        if inner is None:
            break
        numbers |= {key: value for key, value in content.items() if _is_number(key, value)}
        content = inner
    tensors = _state_dict(path, content)
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return PublishedCheckpoint(path, tensors, numbers, sha256_of(path))


def _load(path: Path) -> Any:
    """The content of a file; whatever a damaged or hostile one raises becomes one sentence."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if is_torchscript(path):
            raise CheckpointError(
                sentence("convert", str(path), "be a state dict", "a TorchScript archive, which "
                         "holds code", "Save model.state_dict() in the program it comes from.")
            )  # fmt: skip
        with torch.serialization.safe_globals(_STAND_INS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    # The readers raise many types on foreign bytes; the cause stays attached.
    except Exception as error:
        found = _FORBIDDEN.search(str(error))
        if found is not None:
            # What the file asks for may hold line breaks and other control characters.
            asked = found[0] if found[0].isprintable() else repr(found[0])
            # Of foreign bytes, such as an image's, the first one is no instruction.
            kind = "no checkpoint, or " if "operand" in found[0] else ""
            raise CheckpointError(
                sentence("convert", str(path), "hold tensors and plain values alone",
                         f"{kind}a pickle that asks for code ({asked}); nothing of it was run",
                         "Save model.state_dict() in the program it comes from, or as safetensors.")
            ) from error  # fmt: skip
        line = (str(error).splitlines() or [""])[0].split(". ")[0][:200]
        # torch's own advice would be to trust the file.
        reason = type(error).__name__ if _ADVICE in line or not line else line
        raise CheckpointError(
            sentence("convert", str(path), "be an intact torch or safetensors file",
                     f"an unreadable one ({reason})", "Fetch it again.")
        ) from error  # fmt: skip


def _contained(content: object) -> Mapping[str, Any] | None:
    """The state dict that a training program wrapped; None where there is none inside."""
    if not isinstance(content, Mapping):
        return None
    for key in CONTAINERS:
        inner = content.get(key)
        if isinstance(inner, Mapping) and inner:
            return inner
    return None


def _state_dict(path: Path, content: object) -> dict[str, Tensor]:
    remedy = f"Save model.state_dict(), alone or under one of {', '.join(CONTAINERS)}."
    if not isinstance(content, Mapping) or not content:
        got = "nothing" if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(sentence("convert", str(path), "hold a state dict", got, remedy))
    others = [
        f"{name!r} ({type(value).__name__})" for name, value in content.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]  # fmt: skip
    if others:
        raise CheckpointError(
            sentence("convert", str(path), "hold a state dict of names and tensors",
                     name_some(others, 5), remedy)
        )  # fmt: skip
    # A sparse or quantised tensor, or one on another device, is no weight that we know.
    strange = [name for name, value in content.items()
               if value.layout != torch.strided or value.device.type != "cpu"
               or value.is_quantized]  # fmt: skip
    if strange:
        raise CheckpointError(
            sentence("convert", str(path), "hold dense tensors", name_some(strange, 5),
                     "Save model.state_dict() of the plain float model.")
        )  # fmt: skip
    return {name: value.detach() for name, value in content.items()}


def _is_number(key: object, value: object) -> bool:
    return isinstance(key, str) and type(value) in (int, float)


class _DtypeStandIn:
    """For `numpy.dtype`: keeps the code of the type."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = code if isinstance(code, str) else ""

    def __setstate__(self, state: object) -> None:
        """Byte order and the like: little-endian is all that torch's files use."""


class _ArrayStandIn:
    """For `numpy.ndarray`: forgets its values."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Shape and values."""


def _array_stand_in(*_: object) -> _ArrayStandIn:
    """For the function that makes an empty array."""
    return _ArrayStandIn()


def _scalar_stand_in(dtype: object = None, data: object = b"", *_: object) -> float | None:
    """For the function that makes a numpy number: float64, float32 and int64 are kept."""
    codes = {"f8": "<d", "f4": "<f", "i8": "<q"}
    code = codes.get(dtype.code) if isinstance(dtype, _DtypeStandIn) else None
    if code is None or not isinstance(data, bytes) or len(data) != struct.calcsize(code):
        return None
    return struct.unpack(code, data)[0]


# Before numpy 2 the package was `numpy.core`.
_STAND_INS: list[Any] = [
    (_DtypeStandIn, "numpy.dtype"),
    (_ArrayStandIn, "numpy.ndarray"),
    *((_array_stand_in, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_scalar_stand_in, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
