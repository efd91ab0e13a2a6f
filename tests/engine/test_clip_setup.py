"""The configured CLIP model: activation, weights that say what was loaded, prompt templates."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from vireid_fast.clip import openai_state_dict
from vireid_fast.config import ClipConfig, ConfigError
from vireid_fast.engine.clip_setup import build_backbone

SMALL = ClipConfig(architecture="ViT-small")


def test_the_activation_is_that_of_the_model():
    assert build_backbone(SMALL, (64, 32)).clip.architecture.activation == "quick_gelu"
    gelu = build_backbone(replace(SMALL, activation="gelu"), (64, 32))
    assert gelu.clip.architecture.activation == "gelu"


def test_loading_says_in_words_what_was_resized_and_ignored(tmp_path, capsys):
    stored = openai_state_dict(build_backbone(SMALL, (64, 64)).clip)
    tensors = {name: value.contiguous() for name, value in stored.items()}
    path = tmp_path / "w.safetensors"
    save_file({**tensors, "extra": torch.zeros(1)}, path)
    build_backbone(replace(SMALL, weights=str(path), activation="quick_gelu"), (64, 32))
    assert capsys.readouterr().err == (
        f"weights: {path}; format openai, quick_gelu; ignored extra (1); "
        "visual.positional_embedding resized from 4 x 4 to 4 x 2\n"
    )


def test_the_context_is_as_long_as_the_template_says():
    backbone = build_backbone(SMALL, (64, 32))
    assert len(backbone.template_ids("person", 4)) == 12
    with pytest.raises(ConfigError, match=r"context_length must be 4, .* 'person' .* got 70"):
        backbone.template_ids("person", 70)
    with pytest.raises(ConfigError, match=r"template must be one of .*, got 'nobody'"):
        backbone.template_ids("nobody", 4)
