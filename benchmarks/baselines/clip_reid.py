"""A text side as CLIP-ReID writes it on OpenAI's CLIP: the model that `accelerate` meets."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

_CLASS_TOKENS = 4


class _QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, mask: Tensor) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", _QuickGELU())]
        self.mlp = nn.Sequential(OrderedDict([*layers, ("c_proj", nn.Linear(4 * width, width))]))
        self.ln_2 = nn.LayerNorm(width)
        self.attn_mask = mask

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        mask = self.attn_mask.to(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class _Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, mask: Tensor) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(_Block(width, heads, mask) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class _TextEncoder(nn.Module):
    """Tokens first inside, every token of the context length computed."""

    def __init__(self, width: int, layers: int, heads: int, context: int, output: int) -> None:
        super().__init__()
        mask = torch.full((context, context), float("-inf")).triu_(1)
        self.transformer = _Transformer(width, layers, heads, mask)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, output) * width**-0.5)

    def forward(self, prompts: Tensor, tokenized_prompts: Tensor) -> Tensor:
        x = (prompts + self.positional_embedding).permute(1, 0, 2)
        x = self.ln_final(self.transformer(x).permute(1, 0, 2))
        rows = torch.arange(x.shape[0], device=x.device)
        return x[rows, tokenized_prompts.argmax(dim=-1)] @ self.text_projection


class _PromptLearner(nn.Module):
    def __init__(self, classes: int, ids: Tensor, start: int, width: int) -> None:
        super().__init__()
        self.tokenized_prompts = ids
        embedding = 0.02 * torch.randn(1, ids.shape[1], width)
        self.cls_ctx = nn.Parameter(0.02 * torch.randn(classes, _CLASS_TOKENS, width))
        self.register_buffer("token_prefix", embedding[:, :start])
        self.register_buffer("token_suffix", embedding[:, start + _CLASS_TOKENS :])

    def forward(self, label: Tensor) -> Tensor:
        count = len(label)
        prefix, suffix = (x.expand(count, -1, -1) for x in (self.token_prefix, self.token_suffix))
        return torch.cat([prefix, self.cls_ctx[label], suffix], dim=1)


class TextSide(nn.Module):
    """Prompt learner and frozen text encoder; class labels in, text features out.

    Args:
        ids: Token ids of the template, padded to the context length. Shape (1, L), int64.
        start: First learned token.
        classes: Number of identities.
        width: Token width.
        layers: Number of blocks.
        heads: Number of heads.
        output: Width of the features.
    """

    def __init__(
        self, ids: Tensor, start: int, classes: int,
        *, width: int, layers: int, heads: int, output: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.text_encoder = _TextEncoder(width, layers, heads, ids.shape[1], output)
        self.text_encoder.requires_grad_(False)
        self.prompt_learner = _PromptLearner(classes, ids, start, width)

    def forward(self, label: Tensor) -> Tensor:
        prompts = self.prompt_learner(label)
        return self.text_encoder(prompts, self.prompt_learner.tokenized_prompts)
