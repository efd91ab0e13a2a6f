"""Every configuration that ships trains on the synthetic layout of its data set, and resumes.

Sizes are cut to what a CPU does in a second; methods, stages, losses, data set, sampling, protocol
and schedule stay those of the file.
"""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch

from vireid_fast.config import ConfigError, load_config, presets
from vireid_fast.data.synthetic import write_layout
from vireid_fast.engine import workflow
from vireid_fast.engine.checkpoint import CheckpointError, follow, load_checkpoint
from vireid_fast.engine.data_setup import read_table
from vireid_fast.engine.method_setup import load_method, new_method
from vireid_fast.engine.trainer import Trainer

LAYOUT_OF = {"scene_regions": "sysu_mm01", "scene_tracks": "hitsz_vcm"}
STAGES = {
    "csdn": ("prompts", "fusion", "visual"),
    "clip4vi_reid": ("tsg", "ife", "hsa"),
    "clip_mc": ("train",),
    "lsmrl": ("train",),
}
SMALL = (
    "device=cpu", "threads=1", "data.height=64", "data.width=32", "video.frames=2",
    "video.min_frames=1", "sampler.identities=2", "sampler.instances=2",
    "evaluation.rerank=[4, 2, 0.3]", "evaluation.every=5",
)  # fmt: skip


class Stop(Exception):
    """Raised in the middle of training, as a kill would end it."""


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """A root for each layout, made when first asked for."""
    folder, made = tmp_path_factory.mktemp("layouts"), {}

    def root(layout, *, tracklets):
        key = f"{layout}-{tracklets}"
        if key not in made:
            made[key] = folder / key
            walks = {"tracklets": 1, "tracklet_frames": 4} if tracklets else {"views": 1}
            write_layout(layout, made[key], identities=8, size=(64, 32), seed=3, **walks)
        return made[key]

    return root


def _config(name, roots, *overrides):
    method, data = name.split("/")
    data = data.removesuffix("_small")
    video = method == "lsmrl"
    root = roots(LAYOUT_OF.get(data, data), tracklets=int(video))
    # Two epochs of the last stage, one of the others; two steps of an epoch of clips.
    stages = [f"{method}.{stage}.epochs=1" for stage in STAGES[method][:-1]]
    stages += [f"{method}.{STAGES[method][-1]}.epochs=2"]
    family = "ViT-small" if load_config(name).clip.architecture.startswith("ViT") else "RN-small"
    own = ["lsmrl.steps=2", "lsmrl.groups=2", "lsmrl.grouped_blocks=1", "lsmrl.shift_blocks=1"]
    return load_config(
        name, [*SMALL, *stages, f"data.root={root}", f"clip.architecture={family}",
               *(own if video else ()), *overrides],
    )  # fmt: skip


def _weights(run):
    return load_checkpoint(follow(run.latest)[0]).model


@pytest.mark.parametrize("name", presets())
def test_a_preset_trains_and_resumes_bit_for_bit(name, roots, tmp_path, monkeypatch):
    config = _config(name, roots)
    whole = workflow.train(config, tmp_path / "whole")
    lines = [json.loads(line) for line in whole.metrics_file.read_text().splitlines()]
    assert len(lines) == len(STAGES[config.method]) + 1
    assert all(math.isfinite(line["loss"]) for line in lines)

    original, calls = Trainer._train_epoch, []

    def counted(self, *arguments):
        if len(calls) == len(lines) - 1:
            raise Stop
        calls.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, "_train_epoch", counted)
    with pytest.raises(Stop):
        workflow.train(config, tmp_path / "run")
    monkeypatch.undo()
    torch.manual_seed(99)  # A resumed process starts with another global state.
    run = workflow.train(config, tmp_path / "run", resume=True)
    expected, actual = _weights(whole), _weights(run)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[key], actual[key]) for key in expected)


@pytest.mark.parametrize(
    "name", ["csdn/regdb_small", "clip4vi_reid/llcm_small", "clip_mc/manifest_small",
             "lsmrl/hitsz_vcm_small", "lsmrl/bupt_campus_small", "lsmrl/manifest_small"],
)  # fmt: skip
def test_both_directions_are_evaluated(name, roots, tmp_path):
    run = workflow.train(_config(name, roots), tmp_path / "run")
    results = workflow.evaluate_run(run)
    directions = ("infrared-visible", "visible-infrared")
    assert list(results) == [d + w for d in directions for w in ("", ", reranked")]
    for direction in directions:
        result = results[direction]
        assert result.mode == direction and 0 <= result.mean["mAP"] <= 1
        assert result.processing["features"].startswith("[norm(")
    saved = json.loads(run.results_file.read_text())
    assert saved[directions[1]]["mAP"] == results[directions[1]].mean["mAP"]


def test_a_checkpoint_knows_its_split_and_ten_models_make_the_result(roots, tmp_path):
    runs = []
    for split in (1, 2):
        config = _config("csdn/regdb_small", roots, f"data.split={split}", "csdn.text_terms=false")
        runs.append(workflow.train(config, tmp_path / f"split{split}"))
    other = replace(runs[0].config(), data=replace(runs[0].config().data, split=2))
    with pytest.raises(ConfigError, match=r"data\.split must stay as in"):
        workflow.train(other, runs[0].path, resume=True)
    other.save(runs[0].config_file)
    with pytest.raises(CheckpointError, match=r"split of .* must be 2, got 1"):
        load_method(runs[0])
    restored = replace(other, data=replace(other.data, split=1))
    restored.save(runs[0].config_file)
    results = workflow.evaluate_runs(runs)
    for name, result in results.items():
        own = [workflow.evaluate_run(run)[name].mean["R1"] for run in runs]
        assert result.splits == (1, 2) and len(result.trials) == 2
        assert result.mean["R1"] == pytest.approx(sum(own) / 2, abs=1e-12)
    with pytest.raises(ValueError, match=r"splits must be distinct, got \[1\] more than once"):
        workflow.evaluate_runs([runs[0], runs[0]])
    with pytest.raises(ConfigError, match=r"data\.split must be 1 to 10 for regdb, got 11"):
        workflow.train(_config("csdn/regdb_small", roots, "data.split=11"), tmp_path / "none")
    with pytest.raises(ConfigError, match=r"data\.split must be 1 to 1 for sysu_mm01, got 2"):
        workflow.train(_config("csdn/sysu_mm01_small", roots, "data.split=2"), tmp_path / "none")


def test_images_and_tracklets_are_not_mixed_up(roots, tmp_path):
    images, tracks = roots("sysu_mm01", tracklets=0), roots("hitsz_vcm", tracklets=1)
    config = _config("lsmrl/hitsz_vcm_small", roots)
    data = replace(config.data, name="sysu_mm01", root=str(images), validation_share=0.0)
    wrong = replace(config, data=data)
    with pytest.raises(ConfigError, match=r"data\.name must name a set of tracklets for lsmrl"):
        workflow.train(wrong, tmp_path / "run")
    config = _config("csdn/sysu_mm01_small", roots)
    wrong = replace(config, data=replace(config.data, name="hitsz_vcm", root=str(tracks)))
    with pytest.raises(ConfigError, match=r"data\.name must name a set of images for csdn"):
        workflow.train(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_video_refuses(roots, tmp_path):
    def train(*overrides):
        workflow.train(_config("lsmrl/hitsz_vcm_small", roots, *overrides), tmp_path / "run")

    with pytest.raises(ValueError, match=r"at least 5 frames"):
        train("video.frames=5", "video.short=refuse")
    with pytest.raises(ValueError, match=r"groups .*divide .*4.*got 3"):
        train("lsmrl.groups=3")
    with pytest.raises(ConfigError, match="architecture must be a ViT for lsmrl, got 'resnet'"):
        train("clip.architecture=RN-small")
    with pytest.raises(ConfigError, match=r"video\.sampling must be one of"):
        train("video.sampling=random")
    assert not (tmp_path / "run").exists()
    # Repetition, as the public samplers do, is the default.
    train("video.frames=5")


def test_another_method_starts_from_the_shared_parts(roots, tmp_path):
    warm = workflow.train(_config("csdn/sysu_mm01_small", roots, "csdn.text_terms=false"),
                          tmp_path / "warm")  # fmt: skip
    stored = _weights(warm)
    for name in ("clip4vi_reid", "clip_mc"):
        config = _config(f"{name}/sysu_mm01_small", roots, f"start_from={warm.path}")
        found = new_method(config, len(stored["pooled_neck.classifier.weight"]), load=True)
        state = found.model.state_dict()
        shared = [key for key in state if key.startswith(("encoder.", "pooled_neck.", "text."))]
        assert shared and all(torch.equal(state[key], stored[key]) for key in shared)
    config = _config("lsmrl/hitsz_vcm_small", roots, f"start_from={warm.path}")
    with pytest.raises(CheckpointError, match=r"architecture of .* must be 'ViT-small'"):
        workflow.train(config, tmp_path / "run")


def test_short_tracklets_are_left_out_of_training_and_test(roots, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(roots("hitsz_vcm", tracklets=1), root)
    for name in ("track_train_info.txt", "track_test_info.txt"):
        file = root / "info" / name
        lines = [line.split() for line in file.read_text().splitlines()]
        # The last tracklet of each list loses a frame.
        lines[-1][2] = str(int(lines[-1][2]) - 1)
        file.write_text("".join(" ".join(line) + "\n" for line in lines))
    config = _config("lsmrl/hitsz_vcm_small", roots, f"data.root={root}")
    every = read_table(config)
    kept = read_table(replace(config, video=replace(config.video, min_frames=4)))
    assert sorted(every.length.tolist())[:2] == [3, 3] and len(kept) == len(every) - 2
    assert set(kept.length.tolist()) == {4}
    with pytest.raises(ConfigError, match=r"video\.min_frames must be at most 4, .* got 5"):
        read_table(replace(config, video=replace(config.video, min_frames=5)))
