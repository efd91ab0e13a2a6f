"""Small CLIP models shared by the tests of this folder."""

from collections.abc import Callable

import pytest
from clip_oracles import randomise

from vireid_fast.clip import CLIP, build_clip

TINY = {
    "vocabulary_size": 50,
    "context_length": 12,
    "joint_width": 16,
    "text_width": 32,
    "text_layers": 2,
    "text_heads": 2,
}
TINY_FAMILY = {
    "ViT-small": {"image_size": (32, 32), "patch_size": 8, "visual_width": 32, "visual_layers": 2,
                  "visual_heads": 4},
    "RN-small": {"image_size": (64, 64), "visual_width": 4, "visual_heads": 4},
}  # fmt: skip


@pytest.fixture
def tiny_clip() -> Callable[..., CLIP]:
    """Builder of tiny models with weights that differ by seed."""

    def build(name: str = "ViT-small", *, seed: int = 0, **overrides) -> CLIP:
        model = build_clip(name, **{**TINY, **TINY_FAMILY[name], **overrides})
        randomise(model, seed)
        return model.eval()

    return build
