"""The command `pretrain`: a small CLIP whose texts and images share one space."""

from dataclasses import replace
from pathlib import Path

from vireid_fast.clip.model import CLIP
from vireid_fast.clip.weights import openai_state_dict
from vireid_fast.config import Config, ConfigError
from vireid_fast.data.datasets.sysu_mm01 import read_sysu_layout
from vireid_fast.data.synthetic import write_sysu_layout
from vireid_fast.engine.checkpoint import save_tensors
from vireid_fast.engine.clip_setup import Backbone, build_backbone
from vireid_fast.engine.data_setup import CACHE_FOLDER, read_table, training_data
from vireid_fast.engine.distributed import World
from vireid_fast.engine.launch import require_one_process
from vireid_fast.engine.method_setup import facts, image_size, start
from vireid_fast.engine.pretrain import Pretraining, PretrainStage, read_captions
from vireid_fast.engine.progress import progress_bar
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.engine.trainer import Trainer
from vireid_fast.engine.training_data import (
    TrainingImages,
    TrainingTracklets,
    open_training_images,
)
from vireid_fast.engine.workflow import run_trainer

# Far from the seeds people choose: the captioned persons are nobody of a synthetic test set.
CAPTIONED_SEED = 1_000_003


def pretrain(config: Config, path: Path, *, resume: bool = False) -> Path:
    """Pre-train a small CLIP, in one process, and write its weights.

    Args:
        config: The configuration; its `pretrain` section and training images are used.
        path: Run folder of the pre-training.
        resume: Continue after the last checkpoint.

    Returns:
        The weight file `weights.safetensors` in `path`; `weights.json` beside it is its card.
    """
    require_one_process("pretrain")
    run = RunFolder(path)
    with run.held():
        return _pretrain(config, run, resume=resume)


def _pretrain(config: Config, run: RunFolder, *, resume: bool) -> Path:
    run.require_startable(config, resume=resume)
    paired = training_data(config, read_table(config))
    if isinstance(paired, TrainingTracklets):
        paired = paired.frames()
    start(config)
    backbone = build_backbone(replace(config.clip, weights=""), image_size(config))
    if backbone.vocabulary is None:
        raise ConfigError(
            f"config: clip.architecture must be a small one to pre-train, got "
            f"{config.clip.architecture!r}. Load published weights with clip.weights instead."
        )
    model = Pretraining(backbone.clip, len(paired.identities)).to(config.device)
    stage = _pretrain_stage(config, model, backbone, paired, _synthetic_root(config, run.path))
    known = facts(config, len(paired.identities)) | {"method": "pretrain"}
    trainer = Trainer(
        model, [stage], run, seed=config.seed, facts=known, world=World.single(),
        accumulate=config.accumulate, validate=None,
    )  # fmt: skip
    run_trainer(trainer, config)
    return _write_weights(run, config, model.clip)


def _pretrain_stage(
    config: Config, model: Pretraining, backbone: Backbone, paired: TrainingImages, root: Path
) -> PretrainStage:
    """The stage on the captioned synthetic set in `root` and the paired training images."""
    table = read_sysu_layout(root)
    captioned = open_training_images(
        table, "train+val+test", image_size(config), table.root / CACHE_FOLDER, skip_bad=False
    )
    assert backbone.vocabulary is not None  # checked before anything is drawn
    captions = read_captions(table.root, captioned.identities, backbone.vocabulary)
    return PretrainStage(model, captioned, captions, paired, config)


def _synthetic_root(config: Config, path: Path) -> Path:
    own = config.pretrain
    root = Path(own.synthetic_root) if own.synthetic_root else path / "synthetic"
    with progress_bar("drawing captioned pedestrians") as advance:
        write_sysu_layout(
            root, identities=own.identities, views=own.views,
            size=image_size(config), seed=CAPTIONED_SEED, progress=advance,
        )  # fmt: skip
    return root


def _write_weights(run: RunFolder, config: Config, clip: CLIP) -> Path:
    weights = run.path / "weights.safetensors"
    tensors = {k: v.detach().cpu().contiguous() for k, v in openai_state_dict(clip).items()}
    save_tensors(weights, tensors)
    run.write_json(
        run.path / "weights.json",
        {"architecture": config.clip.architecture, "activation": clip.architecture.activation},
    )
    return weights
