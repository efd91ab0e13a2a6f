"""Every method on data so small that a step takes a tenth of a second."""

from pathlib import Path

from vireid_fast.config import Config, load_config
from vireid_fast.data.synthetic import write_layout

IMAGES, TRACKS = "images", "tracks"

COMMON = (
    "data.height=64", "data.width=32", "data.validation_share=0", "sampler.identities=4",
    "sampler.instances=2", "threads=1",
)  # fmt: skip

# Blocks of 5 of 16 images, 23 of 24 pairs and 47 of 48 images leave one row to the last process.
CASES = {
    "csdn": (
        "csdn/sysu_mm01_small", IMAGES, "csdn.dropout=0", "csdn.prompts.epochs=1",
        "csdn.prompts.batch_size=23", "csdn.fusion.epochs=1", "csdn.fusion.batch_size=47",
        "csdn.visual.epochs=1", "csdn.extract_with_batch_statistics=true",
        "evaluation.batch_size=5",
    ),
    "clip4vi_reid": (
        "clip4vi_reid/sysu_mm01_small", IMAGES, "clip4vi_reid.tsg.epochs=1",
        "clip4vi_reid.tsg.batch_size=23", "clip4vi_reid.ife.epochs=1",
        "clip4vi_reid.hsa.epochs=1", "evaluation.batch_size=5", "backend=reference",
    ),
    "clip_mc": ("clip_mc/sysu_mm01_small", IMAGES, "clip_mc.dropout=0", "clip_mc.train.epochs=1"),
    "lsmrl": (
        "lsmrl/hitsz_vcm_small", TRACKS, "video.frames=2", "lsmrl.train.epochs=1",
        "lsmrl.steps=2",
    ),
}  # fmt: skip

STAGES = {
    "csdn": ["prompts", "fusion", "visual"],
    "clip4vi_reid": ["tsg", "ife", "hsa"],
    "clip_mc": ["joint"],
    "lsmrl": ["sequence"],
}


def write_tiny_sets(folder: Path) -> Path:
    """Images of 4 training identities, 4 visible and 2 infrared each; tracklets of 4."""
    write_layout("sysu_mm01", folder / IMAGES, identities=8, views=1, size=(64, 32),
                 splits=(0.5, 0.25, 0.25), seed=3)  # fmt: skip
    write_layout("hitsz_vcm", folder / TRACKS, identities=8, size=(64, 32), seed=3, tracklets=1,
                 tracklet_frames=4)  # fmt: skip
    return folder


def tiny_config(method: str, folder: Path, *overrides: str) -> Config:
    """A method's configuration on the sets in `folder`."""
    preset, data, *own = CASES[method]
    return load_config(preset, [f"data.root={folder / data}", *COMMON, *own, *overrides])
