"""`transformers.CLIPModel`: text and image features."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vireid_fast.dropin.guards import untouched
from vireid_fast.dropin.kinds.base import Kind, Probe, UnsuitableError, has_linear
from vireid_fast.dropin.kinds.text_state import TextState, text_state
from vireid_fast.dropin.lazy_output import lazy_output
from vireid_fast.dropin.probe import random_input, run_quietly
from vireid_fast.dropin.swap import FastModule
from vireid_fast.nn.one_query_attention import Projection, first_token_of_block
from vireid_fast.nn.tower_readers import view_tower

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_MORE_OUTPUTS = ("output_hidden_states", "output_attentions")


@dataclass
class HuggingFaceState:
    """State of an accelerated CLIPModel.

    Attributes:
        text: The text tower's.
        output: What the feature methods return; None for a plain tensor (transformers 4).
    """

    text: TextState
    output: type | None


class FastCLIPModel(FastModule):
    """Computes the pooled features alone; token states follow when they are read."""

    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Features of token ids (B, L); as in transformers."""
        original, state = super().get_text_features, self._fast
        plain = not kwargs and position_ids is None and _asks_for_little(self, "text_config")
        if plain and state.text.is_valid(_text_modules(self)):
            features = state.text.encode_tokens(input_ids, attention_mask)
            if features is not None:
                return _wrap(
                    state, features,
                    lambda: original(input_ids, attention_mask).last_hidden_state,
                )  # fmt: skip
        return original(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
        )

    def get_image_features(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any
    ) -> Any:
        """Features of images (B, 3, H, W); as in transformers."""
        if kwargs or not _asks_for_little(self, "vision_config") or not _is_plain_vision(self):
            return super().get_image_features(
                pixel_values=pixel_values, interpolate_pos_encoding=interpolate_pos_encoding,
                **kwargs,
            )  # fmt: skip
        vision = self.vision_model
        hidden = vision.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
        hidden = vision.pre_layrnorm(hidden)
        *earlier, last = vision.encoder.layers
        for layer in earlier:
            hidden = _tensor(layer(hidden, None))
        pooled = vision.post_layernorm(_class_token(last, hidden))
        features = self.visual_projection(pooled)
        return _wrap(self._fast, features, lambda: _tensor(last(hidden, None)))


def _wrap(state: HuggingFaceState, features: Tensor, states: Any) -> Any:
    return features if state.output is None else lazy_output(state.output, features, states)


def _tensor(value: Any) -> Tensor:
    # Layers of transformers 4 return a tuple.
    return value[0] if isinstance(value, tuple) else value


def _class_token(layer: nn.Module, tokens: Tensor) -> Tensor:
    """First row of a layer's output, from tokens (B, L, W); shape (B, W)."""
    attention = layer.self_attn
    linear = (getattr(attention, name) for name in _PROJECTIONS)
    projections = tuple(Projection(part.weight, part.bias) for part in linear)
    return first_token_of_block(
        tokens, layer.layer_norm1, projections, attention.num_heads, attention.out_proj,
        layer.layer_norm2, layer.mlp,
    )  # fmt: skip


def _asks_for_little(model: nn.Module, part: str) -> bool:
    """Whether the configuration asks for the default outputs; nothing lazy can be compiled."""
    config = getattr(model.config, part)
    more = any(getattr(config, name, False) for name in _MORE_OUTPUTS)
    return bool(model.config.return_dict) and not more and not torch.compiler.is_compiling()


def _is_plain_vision(model: nn.Module) -> bool:
    vision = model.vision_model
    layers = vision.encoder.layers
    last = layers[-1]
    return (
        has_linear(last.self_attn, *_PROJECTIONS)
        and not (last.training and last.self_attn.dropout > 0)
        and untouched((vision, vision.encoder, layers, *last.modules()))
    )


def _text_modules(model: nn.Module) -> Iterator[nn.Module]:
    yield from model.text_model.modules()
    yield model.text_projection


def _matches(module: nn.Module) -> bool:
    return any(
        cls.__name__ == "CLIPModel" and cls.__module__.startswith("transformers.models.clip")
        for cls in type(module).__mro__
    )


def _prepare(module: nn.Module, _: nn.Module) -> HuggingFaceState:
    if not len(module.vision_model.encoder.layers):
        raise UnsuitableError("its vision encoder has no layers")
    text = text_state(module, _text_modules(module))
    cls, ids = type(module), _probe_ids(module)
    value = run_quietly(lambda: cls.get_text_features(module, ids), ids.device)
    return HuggingFaceState(text, None if isinstance(value, Tensor) else type(value))


def _probe_ids(module: nn.Module) -> Tensor:
    config = module.config.text_config
    eos = view_tower(module).eot_id
    # Then the largest id of a text is its end.
    eos = config.vocab_size - 1 if eos is None else eos
    length = min(8, config.max_position_embeddings)
    ids = torch.arange(2 * length).view(2, length) % max(1, eos)
    ids[0, length // 2 :] = ids[1, -1:] = eos
    return ids.to(module.logit_scale.device)


def _probes(module: nn.Module) -> list[Probe]:
    config = module.config.vision_config
    images = random_input(
        2, config.num_channels, config.image_size, config.image_size,
        like=module.visual_projection.weight,
    )  # fmt: skip
    return [
        ("get_text_features", (_probe_ids(module),), {}),
        ("get_image_features", (images,), {}),
    ]


def _result(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else value.pooler_output


HUGGINGFACE_CLIP = Kind(
    name="Hugging Face CLIP",
    detail="text stops at EOT, last image layer for the class token; token states when read",
    methods=("get_text_features", "get_image_features"),
    fast=FastCLIPModel,
    matches=_matches,
    prepare=_prepare,
    probes=_probes,
    result=_result,
)
