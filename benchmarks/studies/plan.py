"""The runs of every study as data. A row of a table is one kind of run, for some seeds."""

from dataclasses import dataclass
from typing import Literal

StartKind = Literal["pretrained", "warm"]
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Start:
    """Weights that rows start from, made once for each seed.

    Attributes:
        key: Folder of the run.
        config: Preset.
        overrides: Settings on top of it.
        command: "pretrain", or "train" from the pre-trained weights.
    """

    key: str
    config: str
    overrides: tuple[str, ...] = ()
    command: Literal["pretrain", "train"] = "pretrain"


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        key: Folder of the run and part of its result file's name.
        title: What the table says.
        config: Preset.
        overrides: Settings on top of it.
        seeds: Seeds that are run; one seed is marked as such in the tables.
        trained: False evaluates the weights that training would start from.
        ablation: Method whose module the row leaves out; "" for a row of the main table.
    """

    key: str
    title: str
    config: str
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = SEEDS
    trained: bool = True
    ablation: str = ""


@dataclass(frozen=True)
class Study:
    """Rows on one data set that start from the same weights.

    Attributes:
        key: Folder of the result files.
        data_root: Folder of the data set, below `data/`.
        synthetic: Overrides of `vireid synth` where the set is drawn; else it has to be there.
        pretraining: Image and text encoder.
        warmup: A visual warm-up after it; None where rows start from the pre-training.
        rows: Lines of the tables, in their order.
    """

    key: str
    data_root: str
    pretraining: Start
    warmup: Start | None
    rows: tuple[Row, ...]
    synthetic: tuple[str, ...] = ()


_CSDN, _BRIDGE, _MC = (f"{method}/scene_regions" for method in ("csdn", "clip4vi_reid", "clip_mc"))
_ALONE = "csdn.text_terms=false"


def _image_ablations() -> tuple[Row, ...]:
    """Half the visual budget of the main table, one seed; CSDN without texts is a row there."""
    short = {_BRIDGE: "clip4vi_reid.hsa.epochs=2", _MC: "clip_mc.train.epochs=3"}

    def row(key: str, title: str, config: str, *overrides: str) -> Row:
        own = () if any(o.partition("=")[0] == short[config].partition("=")[0] for o in overrides) \
            else (short[config],)
        return Row(f"short-{key}", title, config, (*own, *overrides), (1,),
                   ablation=config.partition("/")[0])  # fmt: skip

    bridge, mc = "clip4vi_reid", "clip_mc"
    return (
        row(bridge, "full CLIP4VI-ReID", _BRIDGE),
        row(f"{bridge}-both", "TSG from both modalities", _BRIDGE, f"{bridge}.text_from=both"),
        row(f"{bridge}-no-ife", "without IFE", _BRIDGE, f"{bridge}.ife.epochs=0",
            f"{bridge}.hsa.epochs=3"),
        row(f"{bridge}-fixed-text", "HSA without text tuning", _BRIDGE,
            f"{bridge}.text_tuning=false"),
        row(f"{bridge}-m0", "M = 0 learned tokens", _BRIDGE, f"{bridge}.context_length=0"),
        row(f"{bridge}-m8", "M = 8", _BRIDGE, f"{bridge}.context_length=8"),
        row(f"{bridge}-fixed-prompt", "fixed prompt", _BRIDGE, f"{bridge}.learned_prompts=false"),
        row(mc, "full CLIP-MC", _MC),
        row(f"{mc}-no-itpg", "without ITPG", _MC, f"{mc}.instance_prompts=false"),
        row(f"{mc}-no-mcl", "without MCL", _MC, f"{mc}.learned_context=false"),
        row(f"{mc}-no-mc", "without MC", _MC, f"{mc}.compensation=false"),
    )  # fmt: skip


_AVERAGED = (
    "lsmrl.grouped_blocks=0", "lsmrl.shift_blocks=0", "lsmrl.diffusion=false",
    "lsmrl.interaction=false", "lsmrl.loss.alignment=0", "lsmrl.loss.discrepancy=0",
)  # fmt: skip


def _video_rows(config: str, epochs: int, seeds: tuple[int, ...]) -> tuple[Row, ...]:
    budget = f"lsmrl.train.epochs={epochs}"
    return (
        Row("pretraining", "pre-training alone", config, (*_AVERAGED,), seeds, trained=False),
        Row("averaged", "same encoder, frames averaged", config, (budget, *_AVERAGED), seeds),
        Row("lsmrl", "LSMRL", config, (budget,), seeds),
    )  # fmt: skip


def _video_ablations(config: str, epochs: int) -> tuple[Row, ...]:
    def row(key: str, title: str, *overrides: str) -> Row:
        return Row(f"short-{key}", title, config, (f"lsmrl.train.epochs={epochs}", *overrides),
                   (1,), ablation="lsmrl")  # fmt: skip

    return (
        row("lsmrl", "full LSMRL"),
        row("no-grouped", "without the grouped encoder", "lsmrl.grouped_blocks=0"),
        row("no-shift", "without the patch shift encoder", "lsmrl.shift_blocks=0"),
        row("no-stfl", "without both", "lsmrl.grouped_blocks=0", "lsmrl.shift_blocks=0"),
        row("losses-alone", "without STFL, SD and CMI", *_AVERAGED[:4]),
        row("no-sd", "without SD", "lsmrl.diffusion=false"),
        row("no-cmi", "without CMI", "lsmrl.interaction=false"),
        row("no-alignment", "without the first modality loss", "lsmrl.loss.alignment=0"),
        row("no-discrepancy", "without the second modality loss", "lsmrl.loss.discrepancy=0"),
    )


STUDIES = (
    Study(
        "scene_regions",
        "scene-regions",
        Start("pretrain", _CSDN),
        Start("warmup", _CSDN, (_ALONE, "csdn.visual.epochs=3"), "train"),
        (
            Row("random", "random weights", _CSDN, ("clip.weights=''", "start_from=''"),
                trained=False),
            Row("pretraining", "pre-training alone", _CSDN, ("start_from=''",), trained=False),
            Row("warm", "pre-training + warm-up", _CSDN, trained=False),
            Row("visual", "visual losses alone", _CSDN, (_ALONE,)),
            Row("csdn", "CSDN", _CSDN),
            Row("clip4vi_reid", "CLIP4VI-ReID", _BRIDGE),
            Row("clip_mc", "CLIP-MC", _MC),
            *_image_ablations(),
        ),
    ),
    Study(
        "scene_tracks",
        "scene-tracks",
        Start("pretrain", "lsmrl/scene_tracks"),
        None,
        (
            *_video_rows("lsmrl/scene_tracks", 10, (1, 2)),
            *_video_ablations("lsmrl/scene_tracks", 4),
        ),
    ),
    Study(
        "walkers",
        "walkers",
        Start("pretrain", "lsmrl/hitsz_vcm_small"),
        None,
        _video_rows("lsmrl/hitsz_vcm_small", 10, (1,)),
        synthetic=("--layout", "hitsz_vcm", "--identities", "150", "--tracklets", "1"),
    ),
)
