"""Test-time networks, opened from a model folder or a run; no data set is needed."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vireid_fast._checks import require, require_choice, sentence
from vireid_fast.config import Config
from vireid_fast.data.views import Augmentation
from vireid_fast.engine.checkpoint import (
    CARD_FILE,
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_into,
    load_pointed,
    require_intact,
)
from vireid_fast.engine.data_setup import frame_sampling
from vireid_fast.engine.imports import FORMATS
from vireid_fast.engine.method_setup import card_of, require_device, restore_method
from vireid_fast.engine.model_card import ModelCard, card_from_json
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.engine.training_data import FrameSampling

NETWORK_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    name: kind.build for name, kind in FORMATS.items()
}
"""Builders of imported networks by method name: a card -> the module with random weights, which has
`test_features(images, modality)` and `feature_width`."""

WHICH = ("best", "latest")

OF_THE_MOMENT = ("stage", "epoch", "validation", "source", "licence", "sha256", "version")
"""What a checkpoint knows beside its configuration."""

OF_THE_CONFIGURATION = ("preprocessing", "feature_width", "metric")
"""What follows from the configuration, and must not contradict it."""


@dataclass(frozen=True)
class FeatureNetwork:
    """A network ready to give features.

    Attributes:
        card: What it is.
        module: The network, in evaluation mode, on `device`.
        encode: (normalised images (B, 3, H, W), or clips (B, T, 3, H, W), modality) -> (B, D).
        device: Where it runs.
        sampling: How frames become a clip; None for a network of images.
        autocast: The context that it runs in.
        source: The folder that it was read from.
    """

    card: ModelCard
    module: nn.Module
    encode: Callable[[Tensor, str], Tensor]
    device: str
    sampling: FrameSampling | None
    autocast: Callable[[], contextlib.AbstractContextManager[Any]]
    source: Path

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input."""
        return self.card.preprocessing.height, self.card.preprocessing.width

    @property
    def augmentation(self) -> Augmentation:
        """Holds the normalisation."""
        return Augmentation(mean=self.card.preprocessing.mean, std=self.card.preprocessing.std)


def open_network(path: str | os.PathLike[str], device: str = "cpu") -> FeatureNetwork:
    """Open a model folder, or a run folder by its best checkpoint. Nothing is downloaded.

    Args:
        path: The folder.
        device: Where the network goes.

    Raises:
        FileNotFoundError: There is no such folder.
        CheckpointError: The folder is no model, or is damaged; names the file.
    """
    folder = Path(path)
    require(
        folder.is_dir(), "from_pretrained", "path", "be a folder on this machine",
        f"{str(path)!r}, a file" if folder.is_file() else repr(str(path)),
        "Give a model folder (model.safetensors and card.json) or a run folder; nothing is "
        "downloaded, so fetch a model first.", FileNotFoundError,
    )  # fmt: skip
    if (folder / CARD_FILE).is_file():
        return _open_model(folder, device)
    if (folder / "config.yaml").is_file():
        return open_run_network(RunFolder.open(folder), device=device)
    raise CheckpointError(
        sentence("from_pretrained", str(folder), f"hold {CARD_FILE}, or be a run folder",
                 "neither", "Give the folder that `vireid train` or `vireid convert` wrote.")
    )  # fmt: skip


def open_run_network(
    run: RunFolder, which: str = "best", device: str | None = None
) -> FeatureNetwork:
    """Open a checkpoint of a run, of any version of the package.

    Args:
        run: The run.
        which: "best" or "latest".
        device: Where the network goes; None: where the run's configuration says.
    """
    require_choice("from_run", "which", which, WHICH)
    pointer = run.best if which == "best" else run.latest
    folder, checkpoint = load_pointed(pointer, resume=False)
    config = run.config()
    return _of_method(config, device or config.device, checkpoint, folder)


def _open_model(folder: Path, device: str) -> FeatureNetwork:
    checkpoint = load_checkpoint(folder, resume=False)
    card = card_from_json(checkpoint.card, folder / CARD_FILE)
    if card.config is not None:
        return _of_method(card.config, device, checkpoint, folder, card)
    require_device(device)
    require(
        card.method in NETWORK_BUILDERS, f"checkpoint: {folder / CARD_FILE}", "method",
        f"be one of {sorted(NETWORK_BUILDERS)} for an imported network", repr(card.method),
        "Update vireid_fast.", CheckpointError,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        module: Any = NETWORK_BUILDERS[card.method](card)
    load_into(module, checkpoint.model, str(folder))
    require_intact(checkpoint.card, folder / CARD_FILE)
    _require_equal(card, "feature_width", card.feature_width, module.feature_width, folder)
    module.to(device).eval()
    return FeatureNetwork(
        card, module, module.test_features, device, None, contextlib.nullcontext, folder
    )


def _of_method(
    config: Config, device: str, checkpoint: Checkpoint, folder: Path,
    card: ModelCard | None = None,
) -> FeatureNetwork:  # fmt: skip
    """A network of our own; without `card` it is made of the configuration."""
    require_device(device)
    # Threads and random numbers belong to the program, not to a model that it opens.
    with torch.random.fork_rng(devices=[]):
        try:
            method = restore_method(replace(config, device=device), checkpoint, str(folder))
        except CheckpointError:
            raise
        except (ValueError, TypeError) as error:
            # What the parts of a network refuse does not say where the values stood.
            raise CheckpointError(
                f"checkpoint: {folder} must describe a network that can be built, got: "
                f"{str(error)[:400]}"
            ) from error
    known = replace(card_of(method, checkpoint.card["num_identities"]), config=config)
    if card is None:
        moment = {name: value for name, value in checkpoint.card.items() if name in OF_THE_MOMENT}
        card = card_from_json({**known.to_json(), **moment}, folder / CARD_FILE)
    for name in OF_THE_CONFIGURATION:
        _require_equal(card, name, getattr(card, name), getattr(known, name), folder)
    # In the words of this version, which the features of its other files have too.
    card = replace(card, processing=known.processing, normalisation=known.normalisation)
    return FeatureNetwork(
        card, method.model, method.encode, device,
        frame_sampling(config) if method.video else None, method.runtime.precision.autocast, folder,
    )  # fmt: skip


def _require_equal(card: ModelCard, name: str, got: object, wanted: object, folder: Path) -> None:
    """A card that contradicts its own network describes another one."""
    require(
        got == wanted, f"checkpoint: {folder / CARD_FILE}", name,
        f"be {wanted!r}, as its {card.method} network has it", repr(got)[:200],
        "Restore the card, or write the model anew.", CheckpointError,
    )  # fmt: skip
