"""The configured data set: its table, and the cached images or tracklets of its training split."""

from pathlib import Path
from typing import Any

from vireid_fast._checks import require
from vireid_fast.config import Config, ConfigError
from vireid_fast.data.datasets import DATASETS
from vireid_fast.data.holdout import hold_out
from vireid_fast.data.table import ImageTable
from vireid_fast.data.tracklets import TrackletTable, drop_short
from vireid_fast.engine.distributed import World
from vireid_fast.engine.training_data import (
    FrameSampling,
    TrainingImages,
    TrainingTracklets,
    open_training_images,
    open_training_tracklets,
)

CACHE_FOLDER = ".vireid_cache"
Table = ImageTable | TrackletTable


def read_table(config: Config) -> Table:
    """List the images or tracklets of the configured data set.

    Raises:
        ConfigError: The data set is unknown, its folder is not given, or it has no such split.
        DatasetError: The data set cannot be used.
    """
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
    entry, root = DATASETS[data.name], Path(data.root)
    last = max(entry.splits, 1)
    require(data.split <= last, "config", "data.split", f"be 1 to {last} for {data.name}",
            data.split, error=ConfigError)  # fmt: skip
    options: dict[str, Any] = {"split": data.split} if entry.splits else {}
    if entry.guards_links:
        options["follow_links"] = data.follow_links
    table = entry.read(root, **options)
    if isinstance(table, TrackletTable):
        longest = int(table.length.max(initial=0))
        table = drop_short(table, config.video.min_frames)
        require(len(table) > 0, "config", "video.min_frames",
                f"be at most {longest}, the frames of the longest tracklet",
                config.video.min_frames, error=ConfigError)  # fmt: skip
    if not data.validation_share:
        return table
    # One call for each kind of table, whose kind it keeps.
    if isinstance(table, TrackletTable):
        return hold_out(table, data.validation_share, seed=config.seed)
    return hold_out(table, data.validation_share, seed=config.seed)


def require_kind(config: Config, table: Table, *, video: bool) -> None:
    """Refuse images for a video method, and tracklets for an image method."""
    words = ("images", "tracklets")
    found = isinstance(table, TrackletTable)
    require(
        found == video, "config", "data.name",
        f"name a set of {words[video]} for {config.method}",
        f"{config.data.name!r}, a set of {words[found]}",
        f"Choose one of {'hitsz_vcm, bupt_campus' if video else 'sysu_mm01, regdb, llcm'}, or a "
        f"manifest {'with' if video else 'without'} the column tracklet.", ConfigError,
    )  # fmt: skip


def cache_folder(config: Config, table: Table) -> Path:
    """Where the resized training images go."""
    root = table.root if table.root.is_dir() else table.root.parent
    return Path(config.data.cache) if config.data.cache else root / CACHE_FOLDER


def frame_sampling(config: Config) -> FrameSampling:
    """How frames of a tracklet become a clip."""
    own = config.video
    return FrameSampling(own.frames, own.sampling, own.short)


def training_data(
    config: Config, table: Table, world: World | None = None
) -> TrainingImages | TrainingTracklets:
    """Cached images, or tracklets, of the training split.

    The first process builds the cache, the others open it.
    """
    data, world = config.data, world or World.single()
    folder, size = cache_folder(config, table), (data.height, data.width)

    def open_data() -> TrainingImages | TrainingTracklets:
        if isinstance(table, TrackletTable):
            return open_training_tracklets(
                table, data.train_split, size, folder, frame_sampling(config),
                skip_bad=data.skip_bad_images,
            )  # fmt: skip
        return open_training_images(
            table, data.train_split, size, folder, skip_bad=data.skip_bad_images
        )

    return world.first(open_data)
