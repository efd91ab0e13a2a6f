"""Numbers in the pages on methods are those of the configuration and of the models."""

import re

import pages
import pytest

from vireid_fast import losses
from vireid_fast.clip.templates import TEMPLATES
from vireid_fast.config import load_config


def test_templates():
    rows = re.findall(r"^\| `(\w+)`(?: / `(\w+)`)? \| (.+?) \| (\d+) \|$",
                      pages.read("docs/building_blocks.md"), re.MULTILINE)  # fmt: skip
    named = {name: int(length) for first, second, _, length in rows for name in (first, second)}
    named.pop("", None)
    assert named == {name: template.length for name, template in TEMPLATES.items()}


def test_losses_are_public():
    table = pages.read("docs/building_blocks.md").split("| name here |")[1].split("```")[0]
    named = re.findall(r"^\| [^|]+ \| `(\w+)` \|", table, re.MULTILINE)
    assert len(named) == 8
    assert all(getattr(losses, name).__doc__ for name in named)


@pytest.mark.parametrize(
    ("method", "written"),
    [
        ("csdn", "{loss.wrt:g} (WRT(f) + WRT(p))"),
        ("csdn", "{loss.visible_text:.2f} CE(p_V T^T) + {loss.infrared_text:.2f} CE(p_R T^T)"),
        ("csdn", "Adam 3e-4, cosine, {prompts.epochs}"),
        ("csdn", "x 0.1 at 40 and 70, {visual.epochs}"),
        ("clip4vi_reid", "| {tsg.epochs}, 3.5e-4, cosine |"),
        ("clip4vi_reid", "| {ife.epochs}, 3e-4, necks twice that |"),
        ("clip4vi_reid", "| {hsa.epochs}, 3e-4, x 0.1 at 40 and 70 |"),
        ("clip4vi_reid", "{loss.wrt:g} WRT + {loss.visible_text:g} CE(p_V T^T)"),
        ("clip4vi_reid", "+ {loss.text_refinement:g} (L_t2i("),
        ("clip_mc", "L_comp + {loss.token_alignment:g} L_align + {loss.context:g} L_ctx"),
        ("clip_mc", "- {loss.context_margin:g}]_+"),
        ("clip_mc", "cosines divided by {temperature:g}"),
        ("lsmrl", "{loss.text:g} CE(p bank^T) + {loss.keep:g} mean (f - stop(h))^2"),
        ("lsmrl", "+ {loss.alignment:g} L_mc + {loss.discrepancy:g} L_md"),
    ],
)
def test_settings(method, written):
    presets = {"lsmrl": "lsmrl/hitsz_vcm"}
    config = load_config(presets.get(method, f"{method}/sysu_mm01"))
    text = " ".join(pages.read(f"docs/{method}.md").split())
    assert " ".join(written.format(**vars(getattr(config, method))).split()) in text


def test_learning_rates():
    csdn = load_config("csdn/sysu_mm01").csdn
    assert csdn.prompts.lr == csdn.fusion.lr == csdn.visual.lr == 3e-4
    assert csdn.visual.head_lr_factor == 2 and csdn.visual.milestones == (40, 70)
    clip4vi = load_config("clip4vi_reid/sysu_mm01").clip4vi_reid
    assert (clip4vi.tsg.lr, clip4vi.ife.lr, clip4vi.hsa.lr) == (3.5e-4, 3e-4, 3e-4)
    assert clip4vi.ife.head_lr_factor == 2 and clip4vi.hsa.milestones == (40, 70)
