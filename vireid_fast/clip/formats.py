"""The three families of CLIP files: how to recognise them, their names and their activation.

The common form has OpenAI's names (`visual.conv1.weight`, `token_embedding.weight`). open_clip uses
the same ones, or puts `text.` before those of the text tower (its CustomTextCLIP). Hugging Face's
`CLIPModel` has names of its own and splits the packed attention projection in three.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vireid_fast.clip.checkpoint_files import WeightsError, read_config

# Entries that only OpenAI's releases have; they are sizes, not weights.
OPENAI_MARKERS = frozenset({"input_resolution", "context_length", "vocab_size"})
# Constant buffers that some versions save.
_IGNORED = re.compile(r"(^|\.)(attn_mask|position_ids)$")
_TEXT_PREFIX = re.compile(
    r"^text\.(?=(token_embedding|transformer|ln_final)\.|positional_embedding$|text_projection$)"
)
_HUGGINGFACE_MARK = "vision_model.embeddings.class_embedding"
_HUGGINGFACE_NAMES = (
    ("text_model.embeddings.token_embedding.", "token_embedding."),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("text_model.final_layer_norm.", "ln_final."),
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding.", "visual.conv1."),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    # The spelling is Hugging Face's.
    ("vision_model.pre_layrnorm.", "visual.ln_pre."),
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    ("vision_model.post_layernorm.", "visual.ln_post."),
    (".self_attn.", ".attn."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
)
_HUGGINGFACE_TRANSPOSED = {
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
}
_SPLIT_PROJECTION = re.compile(r"^(.*\.attn\.)([qkv])_proj\.(weight|bias)$")


@dataclass(frozen=True)
class Source:
    """What a file says about itself.

    Attributes:
        format: "openai", "openai-torchscript", "open_clip" or "huggingface".
        activation: "quick_gelu" or "gelu"; None where nothing tells it.
        evidence: What tells it, for error messages.
        heads: Attention heads of the visual and the text tower; None where nothing tells them.
    """

    format: str
    activation: str | None
    evidence: str
    heads: tuple[int, int] | None = None


def identify(path: Path, names: Collection[str], torchscript: bool) -> Source:
    """Recognise the format of a weight file and the activation its model was trained with.

    Args:
        path: The weight file; `config.json` or `open_clip_config.json` beside it are read.
        names: The names in its state dict.
        torchscript: Whether it is a TorchScript archive.

    Returns:
        What is known; TorchScript archives and files with OpenAI's size entries are QuickGELU.

    Raises:
        WeightsError: A configuration is damaged or names an activation we do not have.
    """
    if torchscript:
        return Source("openai-torchscript", "quick_gelu", "OpenAI's TorchScript releases")
    if not OPENAI_MARKERS.isdisjoint(names):
        return Source("openai", "quick_gelu", "OpenAI's size entries in the file")
    if _HUGGINGFACE_MARK in names:
        return _huggingface_source(path.parent / "config.json")
    config_path = path.parent / "open_clip_config.json"
    config = read_config(config_path)
    if config is not None:
        quick = bool(_section(config_path, config, "model_cfg").get("quick_gelu", False))
        return Source("open_clip", "quick_gelu" if quick else "gelu", str(config_path))
    prefixed = any(_TEXT_PREFIX.match(name) for name in names)
    return Source("open_clip" if prefixed else "openai", None, "")


def _section(path: Path, config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, dict):
        raise WeightsError(path, f"must hold an object under {name!r}, got {section!r}")
    return section


def _huggingface_source(path: Path) -> Source:
    config = read_config(path)
    if config is None:
        return Source("huggingface", None, "")
    # Absent fields mean the defaults of transformers' CLIPVisionConfig and CLIPTextConfig.
    vision, text = (_section(path, config, name) for name in ("vision_config", "text_config"))
    # A damaged file may hold anything here, also what cannot stand in a set.
    first, second = (part.get("hidden_act", "quick_gelu") for part in (vision, text))
    if first != second or first not in ("quick_gelu", "gelu"):
        raise WeightsError(
            path, "must name quick_gelu or gelu as hidden_act of both towers, "
            f"got {sorted({str(first), str(second)})}",
        )  # fmt: skip
    heads = (vision.get("num_attention_heads", 12), text.get("num_attention_heads", 8))
    return Source("huggingface", first, str(path), heads)


def to_openai(state: dict[str, Tensor], source: Source) -> dict[str, Tensor]:
    """Rename the entries of a state dict to OpenAI's names; unknown names stay as they are."""
    kept = {
        name: value
        for name, value in state.items()
        if name not in OPENAI_MARKERS and not _IGNORED.search(name)
    }
    if source.format == "huggingface":
        return _from_huggingface(kept)
    return {_TEXT_PREFIX.sub("", name): value for name, value in kept.items()}


def _from_huggingface(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    packed: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name in _HUGGINGFACE_TRANSPOSED:
            renamed[_HUGGINGFACE_TRANSPOSED[name]] = value.T
            continue
        ours = _rename(name, _HUGGINGFACE_NAMES)
        part = _SPLIT_PROJECTION.match(ours)
        if part:
            whole = f"{part[1]}in_proj_{part[3]}"
            packed.setdefault(whole, {})[part[2]] = value
        else:
            renamed[ours] = value
    for whole, parts in packed.items():
        # An incomplete projection stays away, so that it is reported as missing.
        if parts.keys() == {"q", "k", "v"}:
            renamed[whole] = torch.cat([parts["q"], parts["k"], parts["v"]])
    return renamed


def _rename(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for theirs, ours in rules:
        name = name.replace(theirs, ours)
    return name
