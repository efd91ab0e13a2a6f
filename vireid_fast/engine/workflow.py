"""What the commands do: pre-train, train, extract, evaluate a run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vireid_fast._checks import require, require_choice
from vireid_fast._files import atomic_write
from vireid_fast.clip.weights import openai_state_dict
from vireid_fast.config import Config, ConfigError
from vireid_fast.data.datasets import DATASETS
from vireid_fast.data.datasets.sysu_mm01 import read_sysu_layout
from vireid_fast.data.feature_files import write_features
from vireid_fast.data.permutations import read_permutations
from vireid_fast.data.synthetic import write_sysu_layout
from vireid_fast.data.table import ImageTable
from vireid_fast.engine.checkpoint import (
    Checkpoint,
    follow,
    load_checkpoint,
    load_into,
    save_tensors,
)
from vireid_fast.engine.clip_setup import Backbone, build_backbone
from vireid_fast.engine.extraction import Extraction, extract_features
from vireid_fast.engine.methods import METHODS, Method
from vireid_fast.engine.pretrain import Pretraining, PretrainStage, read_captions
from vireid_fast.engine.progress import progress_bar, say
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.engine.seeds import derive_seed
from vireid_fast.engine.trainer import Trainer, require_facts
from vireid_fast.engine.training_data import TrainingImages, open_training_images
from vireid_fast.retrieval.evaluation import EvaluationResult, evaluate
from vireid_fast.retrieval.protocols import PROTOCOLS

CACHE_FOLDER = ".vireid_cache"
# Far from the seeds people choose: the captioned persons are nobody of a synthetic test set.
CAPTIONED_SEED = 1_000_003


def read_table(config: Config) -> ImageTable:
    """List the images of the configured data set."""
    data = config.data
    if data.name not in DATASETS:
        raise ConfigError(
            f"config: data.name must be one of {sorted(DATASETS)}, got {data.name!r}."
        )
    if not data.root:
        raise ConfigError(
            "config: data.root must name the data set's folder, got nothing. "
            "Add data.root=FOLDER, or make a synthetic set with `vireid synth`."
        )
    return DATASETS[data.name].read(Path(data.root))


def training_images(config: Config, table: ImageTable) -> TrainingImages:
    """Cached images of the training split."""
    data = config.data
    folder = Path(data.cache) if data.cache else table.root / CACHE_FOLDER
    return open_training_images(
        table, data.train_split, _size(config), folder, skip_bad=data.skip_bad_images
    )


def _start(config: Config) -> None:
    """Set threads and seed; refuse a device that is not here."""
    kind = config.device.partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(
            f"config: device must be cpu, or cuda where torch sees a GPU, got {config.device!r}. "
            "Add device=cpu."
        )
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(derive_seed(config.seed, "weights"))


def _facts(config: Config, identities: int) -> dict[str, Any]:
    return {
        "method": config.method,
        "architecture": config.clip.architecture,
        "data": config.data.name,
        "num_identities": identities,
    }


def train(config: Config, path: Path, *, resume: bool = False) -> RunFolder:
    """Train all stages of the configured method into a run folder.

    Args:
        config: The configuration; saved with the run.
        path: Run folder; new, or an unfinished run with `resume`.
        resume: Continue after the last checkpoint.

    Returns:
        The run.
    """
    run = RunFolder(path)
    run.require_startable(config, resume=resume)
    table = read_table(config)
    _require_evaluation(config, table)
    images = training_images(config, table)
    method = _new_method(config, len(images.identities), load=not run.latest.exists())
    trainer = Trainer(
        method.model,
        method.stages(images),
        run,
        seed=config.seed,
        facts=_facts(config, len(images.identities)),
        validate=_validation(config, table, method),
        validate_every=config.evaluation.every,
    )
    _run(trainer, config)
    return run


def _run(trainer: Trainer, config: Config) -> None:
    """Train; the folder is written to only now that nothing is left that could be refused."""
    trainer.restore()
    trainer.run.start(config)
    trainer.train()


def _permutations_file(table: ImageTable) -> Path:
    return table.root / "exp" / "rand_perm_cam.mat"


def _require_evaluation(config: Config, table: ImageTable) -> None:
    """Refuse, before anything is computed, an evaluation that could not take place."""
    own, options = config.evaluation, sorted(PROTOCOLS)
    require(own.protocol in PROTOCOLS, "config", "evaluation.protocol", f"be one of {options}",
            repr(own.protocol), error=ConfigError)  # fmt: skip
    rules = PROTOCOLS[own.protocol]
    require(own.mode in rules.modes, "config", "evaluation.mode",
            f"be one of {sorted(rules.modes)} for {rules.name}", repr(own.mode),
            error=ConfigError)  # fmt: skip
    file = _permutations_file(table)
    require(
        not rules.needs_permutations or file.is_file(), "config", "evaluation.protocol",
        f"be one without stored permutations where {file} is absent", repr(own.protocol),
        "Put the file there, as SYSU-MM01 publishes it, or choose sysu/agw.", ConfigError,
    )  # fmt: skip


def _validation(
    config: Config, table: ImageTable, method: Method
) -> Callable[[], dict[str, float]] | None:
    """Metrics on the validation identities; None where these are trained on."""
    if "val" in config.data.train_split or not len(table.identities("val")):
        say("no validation identities are left out of training: the last epoch is kept")
        return None

    def validate() -> dict[str, float]:
        extraction = extract(config, table, method, "val")
        result = _evaluate(config, table, extraction, rerank=False)
        return {name: result.mean[name] for name in ("R1", "mAP", "mINP")}

    return validate


def extract(config: Config, table: ImageTable, method: Method, split: str) -> Extraction:
    """Test-time features of a split; the model returns to the mode that it was in."""
    training = method.model.training
    method.model.eval()
    try:
        return extract_features(
            method.encode,
            table,
            table.rows(split),
            method.size,
            method.augmentation,
            batch_size=config.evaluation.batch_size,
            device=config.device,
            skip_bad=config.data.skip_bad_images,
            description=f"extracting {split}",
        )
    finally:
        method.model.train(training)


def _evaluate(
    config: Config, table: ImageTable, extraction: Extraction, *, rerank: bool
) -> EvaluationResult:
    own = config.evaluation
    permutations = None
    if PROTOCOLS[own.protocol].needs_permutations:
        permutations = read_permutations(_permutations_file(table))
    return evaluate(
        extraction.features, own.protocol, own.mode, own.shots,
        permutations=permutations, rerank=own.rerank_parameters if rerank else None,
    )  # fmt: skip


def load_method(run: RunFolder, which: str = "best") -> Method:
    """The method of a run with the weights of one of its checkpoints.

    Args:
        run: The run.
        which: "best" (chosen on validation identities) or "latest".

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged or of something else.
    """
    require_choice("load_method", "which", which, ("best", "latest"))
    config = run.config()
    folder, _ = follow(run.best if which == "best" else run.latest)
    checkpoint = load_checkpoint(folder)
    identities = checkpoint.card.get("num_identities")
    require_facts(checkpoint.card, _facts(config, identities), str(folder))
    method = _new_method(config, identities, load=False)
    load_into(method.model, checkpoint.model, str(folder))
    method.model.eval()
    return method


def _new_method(config: Config, identities: int, *, load: bool) -> Method:
    _start(config)
    warm = load and bool(config.start_from)
    backbone = build_backbone(config.clip, _size(config), load=load and not warm)
    method = METHODS[config.method](config, backbone, identities)
    if warm:
        folder, checkpoint = _read_start(config, identities)
        load_into(method.model, checkpoint.model, str(folder))
    return method


def _read_start(config: Config, identities: int | None) -> tuple[Path, Checkpoint]:
    """The checkpoint that `start_from` names; `identities` None accepts any number."""
    folder, _ = follow(RunFolder.open(Path(config.start_from)).latest)
    checkpoint = load_checkpoint(folder)
    found = checkpoint.card.get("num_identities") if identities is None else identities
    require_facts(checkpoint.card, _facts(config, found), str(folder))
    return folder, checkpoint


def _size(config: Config) -> tuple[int, int]:
    return config.data.height, config.data.width


def evaluate_start(config: Config) -> dict[str, EvaluationResult]:
    """Evaluate, on the test identities, the weights that training starts from: a baseline."""
    table = read_table(config)
    _require_evaluation(config, table)
    identities = 1
    if config.start_from:
        identities = _read_start(config, None)[1].card["num_identities"]
    method = _new_method(config, identities, load=True)
    extraction = extract(config, table, method, "test")
    return {"plain": _evaluate(config, table, extraction, rerank=False)}


def extract_run(
    run: RunFolder,
    split: str = "test",
    *,
    out: Path | None = None,
    which: str = "best",
    skip_bad: bool = False,
) -> tuple[Path, Extraction]:
    """Extract a split with a run's model and write the feature file.

    Args:
        run: The run.
        split: "train", "val" or "test".
        out: Feature file; None: `features/SPLIT.npz` of the run.
        which: See `load_method`.
        skip_bad: Leave damaged images out, also where the run's configuration stops at them.

    Returns:
        Path of the file and the extraction.
    """
    config = run.config()
    if skip_bad:
        config = replace(config, data=replace(config.data, skip_bad_images=True))
    table = read_table(config)
    method = load_method(run, which)
    extraction = extract(config, table, method, split)
    features = extraction.features
    arrays = {
        "features": features.features, "person_ids": features.person_ids,
        "camera_ids": features.camera_ids, "modality": features.modality,
        "image_indices": features.image_indices,
    }  # fmt: skip
    out = out or run.features / f"{split}.npz"
    write_features(
        out,
        {name: tensor.numpy() for name, tensor in arrays.items() if tensor is not None},
        {
            "method": config.method, "data": config.data.name, "split": split,
            "seed": str(config.seed),
        },
    )
    return out, extraction


def evaluate_run(run: RunFolder, *, skip_bad: bool = False) -> dict[str, EvaluationResult]:
    """Evaluate a run on the test identities, plain and, where configured, re-ranked.

    Writes features/test.npz and results.json.

    Args:
        run: The run.
        skip_bad: See `extract_run`.
    """
    config = run.config()
    table = read_table(config)
    _require_evaluation(config, table)
    _, extraction = extract_run(run, skip_bad=skip_bad)
    results = {"plain": _evaluate(config, table, extraction, rerank=False)}
    if config.evaluation.rerank:
        results["reranked"] = _evaluate(config, table, extraction, rerank=True)
    run.write_json(run.results_file, {name: r.to_json() for name, r in results.items()})
    return results


def pretrain(config: Config, path: Path, *, resume: bool = False) -> Path:
    """Pre-train a small CLIP and write its weights.

    Args:
        config: The configuration; its `pretrain` section and training images are used.
        path: Run folder of the pre-training.
        resume: Continue after the last checkpoint.

    Returns:
        The weight file `weights.safetensors` in `path`; `weights.json` beside it is its card.
    """
    run = RunFolder(path)
    run.require_startable(config, resume=resume)
    paired = training_images(config, read_table(config))
    _start(config)
    backbone = build_backbone(replace(config.clip, weights=""), _size(config))
    if backbone.vocabulary is None:
        raise ConfigError(
            f"config: clip.architecture must be a small one to pre-train, got "
            f"{config.clip.architecture!r}. Load published weights with clip.weights instead."
        )
    model = Pretraining(backbone.clip, len(paired.identities)).to(config.device)
    stage = _pretrain_stage(config, model, backbone, paired, _synthetic_root(config, path))
    facts = _facts(config, len(paired.identities)) | {"method": "pretrain"}
    trainer = Trainer(model, [stage], run, seed=config.seed, facts=facts, validate=None)
    _run(trainer, config)
    return _write_weights(run, config, model.clip)


def _pretrain_stage(
    config: Config, model: Pretraining, backbone: Backbone, paired: TrainingImages, root: Path
) -> PretrainStage:
    """The stage on the captioned synthetic set in `root` and the paired training images."""
    table = read_sysu_layout(root)
    captioned = open_training_images(
        table, "train+val+test", _size(config), table.root / CACHE_FOLDER, skip_bad=False
    )
    captions = read_captions(table.root, captioned.identities, backbone.vocabulary)
    return PretrainStage(model, captioned, captions, paired, config)


def _synthetic_root(config: Config, path: Path) -> Path:
    own = config.pretrain
    root = Path(own.synthetic_root) if own.synthetic_root else path / "synthetic"
    with progress_bar("drawing captioned pedestrians") as advance:
        write_sysu_layout(
            root, identities=own.identities, views=own.views,
            size=_size(config), seed=CAPTIONED_SEED, progress=advance,
        )  # fmt: skip
    return root


def _write_weights(run: RunFolder, config: Config, clip: torch.nn.Module) -> Path:
    weights = run.path / "weights.safetensors"
    tensors = {k: v.detach().cpu().contiguous() for k, v in openai_state_dict(clip).items()}
    with atomic_write(weights) as temporary:
        save_tensors(temporary, tensors)
    run.write_json(
        run.path / "weights.json",
        {"architecture": config.clip.architecture, "activation": clip.architecture.activation},
    )
    return weights
