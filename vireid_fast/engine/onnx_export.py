"""ONNX files of test-time networks, written only where onnxruntime gives the same features.

One graph: float32 RGB images (N, 3, H, W) in 0..1, resized by the caller, to features (N, D). Mean
and deviation, the mirrored view and all normalisations of the method are inside. A network that
treats the two modalities differently becomes two files: one input, one output, nothing to switch.
"""

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vireid_fast._checks import require, require_choice, sentence
from vireid_fast._files import atomic_write, sha256_of
from vireid_fast._version import __version__
from vireid_fast.engine.method_setup import build_method
from vireid_fast.engine.networks import NETWORK_BUILDERS, FeatureNetwork
from vireid_fast.engine.onnx_graph import FIRST_OPSET, LAST_OPSET, require_packages, trace
from vireid_fast.engine.onnx_parity import Parity, measure
from vireid_fast.models import CLIP4VIReID, ClipMC, CLIPReID
from vireid_fast.models.two_stem import MODALITIES

_WHAT = "export"
BOTH = "both"
INPUT, OUTPUT = "images", "features"
# A file of one message cannot be larger.
_LARGEST = 2**31 - 1


class ExportError(RuntimeError):
    """A network has no ONNX file that gives its features; nothing was written."""


@dataclass(frozen=True)
class ExportedFile:
    """One ONNX file.

    Attributes:
        path: The file; its card is `<path>.json`.
        modality: "visible", "infrared", or "both" for a network that treats them alike.
        parity: What was compared.
        card: What the card holds.
    """

    path: Path
    modality: str
    parity: tuple[Parity, ...]
    card: dict[str, Any]


def export_onnx(
    network: FeatureNetwork,
    out: Path,
    *,
    modality: str = BOTH,
    batch: int | None = None,
    opset: int = FIRST_OPSET,
    tolerance: float = 1e-4,
) -> list[ExportedFile]:
    """Write a network as ONNX and hold each file against the network by onnxruntime.

    Args:
        network: An image network.
        out: The `.onnx` file. With "both" and a network that depends on the modality,
            `NAME-visible.onnx` and `NAME-infrared.onnx` beside it.
        modality: "visible", "infrared" or "both".
        batch: Images per call; None: any number.
        opset: Version of the ONNX operators.
        tolerance: Largest difference of a feature, of a row relative to its length, and of a
            cosine from 1.

    Returns:
        The files, each with what was compared.

    Raises:
        RuntimeError: onnx, onnxruntime or onnxscript is not installed.
        ValueError: An option does not fit, or the network is of video.
        ExportError: The graph cannot be made, or gives other features; no file is left, and
            previous ones stay.
        OSError: A file cannot be written.
    """
    require_packages()
    _check(network, out, modality, batch, opset, tolerance)
    plain, judge = _rebuilt(network, "reference"), _rebuilt(network, None)
    depends = depends_on_modality(judge)
    if modality == BOTH and depends:
        targets = {name: out.with_stem(f"{out.stem}-{name}") for name in MODALITIES}
    else:
        targets = {modality if depends else BOTH: out}
    files = []
    with ExitStack() as stack:
        # All files appear, or none.
        for name, path in targets.items():
            temporary = stack.enter_context(atomic_write(path))
            card_file = stack.enter_context(atomic_write(card_path(path)))
            known = MODALITIES[0] if name == BOTH else name
            notes = _notes(network, name, batch, opset)
            model = trace(_Graph(plain, network, known), network.size, batch, opset, notes)
            _write(temporary, path, model)
            parity = measure(
                temporary, _Graph(judge, network, known), network.size, known,
                (INPUT, OUTPUT), batch,
            )  # fmt: skip
            _require_equal(path, parity, tolerance)
            card = _card(network, path, temporary, notes, parity, tolerance)
            card_file.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
            files.append(ExportedFile(path, name, tuple(parity), card))
    return files


def card_path(path: Path) -> Path:
    """The card beside an ONNX file."""
    return path.with_name(f"{path.name}.json")


def depends_on_modality(module: nn.Module) -> bool:
    """Whether visible and infrared images take different ways through a network."""
    if isinstance(module, CLIPReID):
        return False
    return not (isinstance(module, CLIP4VIReID) and module.encoder.infrared_stem is None)


class _Graph(nn.Module):
    """Images in 0..1 to features of one modality."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, module: nn.Module, network: FeatureNetwork, modality: str) -> None:
        super().__init__()
        self.module: Any = module
        self.modality = modality
        for name in ("mean", "std"):
            values = getattr(network.card.preprocessing, name)
            # Not `mean`, a name that the exporter may give to a result.
            self.register_buffer(f"pixel_{name}", torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, D)."""
        normal = (images - self.pixel_mean) / self.pixel_std
        if isinstance(self.module, ClipMC):
            # All at once: blocks would fix the number of images.
            return self.module.test_features(normal, self.modality, block=None)
        return self.module.test_features(normal, self.modality)


def _check(
    network: FeatureNetwork, out: Path, modality: str, batch: int | None, opset: int,
    tolerance: float,
) -> None:  # fmt: skip
    require_choice(_WHAT, "--modality", modality, (BOTH, *MODALITIES))
    require(out.suffix == ".onnx", _WHAT, "--out", "end in .onnx", out.name)
    require(not out.is_dir(), _WHAT, "--out", "be a file", f"the folder {out}")
    require(batch is None or 1 <= batch <= 4096, _WHAT, "--batch",
            "be dynamic or a number in 1..4096", batch)  # fmt: skip
    require(FIRST_OPSET <= opset <= LAST_OPSET, _WHAT, "--opset",
            f"lie in {FIRST_OPSET}..{LAST_OPSET}", opset)  # fmt: skip
    require(0 < tolerance < 1, _WHAT, "--tolerance", "lie between 0 and 1", tolerance)
    require(
        network.sampling is None, _WHAT, "the model", "be a network of images",
        f"{network.card.method}, which reads clips", "Extract its features with vireid extract.",
    )  # fmt: skip


def _rebuilt(network: FeatureNetwork, backend: str | None) -> nn.Module:
    """The network on the CPU in float32, with a backend; None: its own."""
    card, config = network.card, network.card.config
    # Random numbers belong to the program.
    with torch.random.fork_rng(devices=[]):
        if config is None:
            kind = NETWORK_BUILDERS[card.method]
            module = kind(card) if backend is None else kind(card, backend)
        else:
            plain = replace(
                config, device="cpu", precision="float32", backend=backend or config.backend
            )
            module = build_method(plain, card.num_identities or 1).model
    module.load_state_dict(
        {name: value.cpu() for name, value in network.module.state_dict().items()}
    )
    return module.float().eval()


def _write(temporary: Path, path: Path, model: Any) -> None:
    size = model.ByteSize()
    if size > _LARGEST:
        raise ExportError(
            sentence(_WHAT, str(path), "be below 2 GB, the limit of one ONNX file",
                     f"{size / 1e9:.1f} GB", "Export a smaller network.")
        )  # fmt: skip
    temporary.write_bytes(model.SerializeToString(deterministic=True))


def _require_equal(path: Path, parity: list[Parity], tolerance: float) -> None:
    worst = max(parity, key=lambda row: row.worst)
    if not worst.worst <= tolerance:
        raise ExportError(
            sentence(
                _WHAT, path.name, f"give the network's features within {tolerance:g}",
                f"a difference of {worst.largest:.2e}, relative {worst.relative:.2e}, cosine "
                f"{worst.cosine:.6f}, on {worst.images} {worst.kind} images",
                "Nothing was written. Try another --opset; --tolerance says what is accepted.",
            )
        )  # fmt: skip


def _notes(
    network: FeatureNetwork, modality: str, batch: int | None, opset: int
) -> dict[str, Any]:
    """What a user of the file must know; also inside the file, as text."""
    card = network.card
    height, width = network.size
    rows = batch or "N"
    return {
        "method": card.method,
        "architecture": card.architecture,
        "modality": modality,
        "input": f"{INPUT}: float32 ({rows}, 3, {height}, {width}), RGB in 0..1",
        "output": f"{OUTPUT}: float32 ({rows}, {card.feature_width})",
        "height": height,
        "width": width,
        "interpolation": card.preprocessing.interpolation,
        "mean_inside": list(card.preprocessing.mean),
        "std_inside": list(card.preprocessing.std),
        "batch": batch or "dynamic",
        "processing": dict(card.processing),
        "normalisation": card.normalisation,
        "metric": card.metric,
        "feature_width": card.feature_width,
        "opset": opset,
        "source": card.source,
        "licence": card.licence,
        "model_sha256": card.digest,
        "version": __version__,
    }


def _card(
    network: FeatureNetwork, path: Path, written: Path, notes: dict[str, Any],
    parity: list[Parity], tolerance: float,
) -> dict[str, Any]:  # fmt: skip
    return {
        "format": 1,
        "onnx": path.name,
        "sha256": sha256_of(written),
        **notes,
        "data": network.card.data,
        "num_identities": network.card.num_identities,
        "tolerance": tolerance,
        "parity": [asdict(row) for row in parity],
    }
