"""A method ready to train or to extract: seeds, device, weights, facts of its checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vireid_fast._checks import require_choice
from vireid_fast.clip.architectures import ARCHITECTURES
from vireid_fast.config import Config, ConfigError
from vireid_fast.data.datasets import DATASETS
from vireid_fast.data.table import name_some
from vireid_fast.engine.checkpoint import (
    CARD_FILE,
    Checkpoint,
    CheckpointError,
    follow,
    load_checkpoint,
    load_into,
    load_pointed,
    require_intact,
)
from vireid_fast.engine.clip_setup import build_backbone
from vireid_fast.engine.distributed import World
from vireid_fast.engine.methods import METHODS, Method
from vireid_fast.engine.model_card import PARTS_NORMALISED, ModelCard, Preprocessing
from vireid_fast.engine.precision import Precision
from vireid_fast.engine.run_folder import RunFolder, require_settings
from vireid_fast.engine.runtime import Runtime
from vireid_fast.engine.seeds import derive_seed
from vireid_fast.engine.trainer import require_facts
from vireid_fast.retrieval.protocols import PROTOCOLS

SHARED_PARTS = ("encoder.", "text.", "pooled_neck.", "projected_neck.")
"""What a method takes from the run of another: the same modules under the same names."""


def require_device(device: str) -> None:
    """Refuse a device that is not here."""
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(
            f"config: device must be cpu, or cuda where torch sees a GPU, got {device!r}. "
            "Add device=cpu."
        )


def start(config: Config) -> None:
    """Set threads and seed; refuse a device that is not here."""
    require_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(derive_seed(config.seed, "weights"))


def facts(config: Config, identities: int) -> dict[str, Any]:
    """What a checkpoint must have in common with the run that reads it."""
    numbered = config.data.name in DATASETS and DATASETS[config.data.name].splits > 0
    sizes = ARCHITECTURES.get(config.clip.architecture)
    return {
        "method": config.method,
        "architecture": config.clip.architecture,
        "activation": config.clip.activation or (sizes.activation if sizes else ""),
        "data": config.data.name,
        "num_identities": identities,
        **({"split": config.data.split} if numbered else {}),
    }


def new_method(
    config: Config, identities: int, *, load: bool, world: World | None = None
) -> Method:
    """A method with the weights that its training starts from.

    Args:
        config: The configuration.
        identities: Number of training identities.
        load: False leaves random weights, as when a checkpoint follows.
        world: The processes; this one alone if None.
    """
    start(config)
    warm = load and bool(config.start_from)
    method = build_method(config, identities, load=load and not warm, world=world)
    if warm:
        folder, checkpoint = read_start(config, identities)
        _warm_start(method, checkpoint, str(folder))
    return method


def build_method(
    config: Config, identities: int, *, load: bool = False, world: World | None = None
) -> Method:
    """A method, without touching threads or seed; see `new_method`."""
    backbone = build_backbone(config.clip, image_size(config), load=load)
    runtime = Runtime(config, world or World.single(), Precision(config.precision, config.device))
    return METHODS[config.method](runtime, backbone, identities)


def read_start(config: Config, identities: int | None) -> tuple[Path, Checkpoint]:
    """The checkpoint that `start_from` names; `identities` None accepts any number."""
    folder, _ = follow(RunFolder.open(Path(config.start_from)).latest)
    checkpoint = load_checkpoint(folder)
    found: Any = checkpoint.card.get("num_identities") if identities is None else identities
    wanted = facts(config, found)
    if checkpoint.card.get("method") in METHODS:
        # Methods share their image encoder, so the method alone may differ.
        del wanted["method"]
    require_facts(checkpoint.card, wanted, str(folder))
    require_intact(checkpoint.card, folder / CARD_FILE)
    return folder, checkpoint


def _warm_start(method: Method, checkpoint: Checkpoint, source: str) -> None:
    """All weights of a run of the same method; those of the shared parts of another's."""
    if checkpoint.card["method"] == method.config.method:
        load_into(method.model, checkpoint.model, source)
        return
    own = method.model.state_dict()
    shared = [name for name in own if name.startswith(SHARED_PARTS)]
    absent = [name for name in shared if name not in checkpoint.model]
    if absent:
        raise CheckpointError(
            f"checkpoint: {source} must hold the image encoder, text tower and necks of "
            f"{method.config.method}, got none of {name_some(absent, 5)}. "
            "Start from a method with the same parts."
        )
    found = {name: checkpoint.model[name] for name in shared}
    load_into(method.model, {**own, **found}, source)
    method.warm_started()


def load_method(run: RunFolder, which: str = "best") -> Method:
    """The method of a run with the weights of one of its checkpoints; see `load_described`."""
    return load_described(run, which)[0]


def load_described(run: RunFolder, which: str = "best") -> tuple[Method, ModelCard]:
    """The method of a run with the weights of one of its checkpoints, and what it is.

    Args:
        run: The run.
        which: "best" (chosen on validation identities) or "latest".

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged or of something else.
    """
    require_choice("load_method", "which", which, ("best", "latest"))
    config = run.config()
    pointer = run.best if which == "best" else run.latest
    folder, checkpoint = load_pointed(pointer, resume=False)
    start(config)
    method = restore_method(config, checkpoint, str(folder))
    card = card_of(method, checkpoint.card["num_identities"])
    return method, replace(card, sha256=checkpoint.card["sha256"])


def restore_method(config: Config, checkpoint: Checkpoint, source: str) -> Method:
    """A method with the weights of a checkpoint, in evaluation mode.

    Args:
        config: Its configuration.
        checkpoint: Weights and card.
        source: Where they come from, for errors.

    Raises:
        CheckpointError: The checkpoint is of something else.
    """
    identities: Any = checkpoint.card.get("num_identities")
    require_facts(checkpoint.card, facts(config, identities), source)
    # A number that no tensor bears out would only cost memory before it is refused.
    if type(identities) is not int or not any(
        tensor.shape[:1] == (identities,) for tensor in checkpoint.model.values()
    ):
        raise CheckpointError(
            f"checkpoint: {source} must fit the configured model, got num_identities "
            f"{str(identities)[:40]}, which no classifier has. "
            "Use the configuration saved with the run, of the same method and identities."
        )
    method = build_method(config, identities)
    load_into(method.model, checkpoint.model, source)
    card = Path(source) / CARD_FILE
    require_intact(checkpoint.card, card)
    if "config" in checkpoint.card:
        features = rf"data\.(height|width)$|clip\.(?!weights|trust)|{config.method}\."
        require_settings(checkpoint.card["config"], config.to_dict(), card, only=features)
    method.model.eval()
    return method


def card_of(method: Method, identities: int) -> ModelCard:
    """What the model card of a method's checkpoints says beside the moment of the run."""
    config = method.config
    known = facts(config, identities)
    words = processing_words(config, method)
    return ModelCard(
        method=config.method,
        preprocessing=Preprocessing(
            height=config.data.height, width=config.data.width, mean=method.augmentation.mean,
            std=method.augmentation.std,
        ),
        feature_width=method.model.feature_width,
        processing=words,
        normalisation=PARTS_NORMALISED,
        metric=PROTOCOLS[config.evaluation.protocol].metric,
        config=config,
        architecture=known["architecture"],
        activation=known["activation"],
        num_identities=identities,
        data=known["data"],
        split=known.get("split"),
        protocol=config.evaluation.protocol,
    )  # fmt: skip


def processing_words(config: Config, method: Method | type[Method]) -> dict[str, str]:
    """How a run's features are made, in words."""
    words = method.processing(config)
    if method.video:
        words["frames"] = f"{config.video.frames} by {config.video.sampling}"
    return words


def image_size(config: Config) -> tuple[int, int]:
    """Height and width of the input."""
    return config.data.height, config.data.width
