"""Small text towers of three makes, and prompts of all templates for them."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from vireid_fast.clip import TEMPLATES
from vireid_fast.clip.templates import PromptTemplate
from vireid_fast.clip.text import TextTower
from vireid_fast.nn import PromptGroup

WIDTH, HEADS, LAYERS, VOCABULARY = 32, 4, 3, 49408


def randomise(module: nn.Module) -> nn.Module:
    """Weights, biases and norms that no default would hide."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in module.named_parameters():
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            scale = 0.1 if value.dim() == 1 else 0.25
            is_norm_weight = value.dim() == 1 and name.endswith("weight")
            value.copy_(scale * noise + (1 if is_norm_weight else 0))
    return module


def our_tower(**changes) -> TextTower:
    sizes = {
        "vocabulary_size": VOCABULARY, "context_length": 77, "width": WIDTH, "layers": LAYERS,
        "heads": HEADS, "projected_width": 24, "activation": "quick_gelu",
    }  # fmt: skip
    return randomise(TextTower(**{**sizes, **changes})).double().eval()


class Float32LayerNorm(nn.LayerNorm):
    """As in OpenAI's code: computed in float32 at least, returned in the dtype of the input."""

    def forward(self, x: Tensor) -> Tensor:
        exact = x if x.dtype == torch.float64 else x.float()
        return super().forward(exact).type(x.dtype)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class OpenAIBlock(nn.Module):
    def __init__(self, mask: Tensor | None, *, batch_first=False, activation=None, dropout=0.0):
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, dropout, batch_first=batch_first)
        self.ln_1 = Float32LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(WIDTH, 4 * WIDTH),
                gelu=activation or QuickGELU(),
                c_proj=nn.Linear(4 * WIDTH, WIDTH),
            )
        )
        self.ln_2 = Float32LayerNorm(WIDTH)
        self.attn_mask = mask

    def attention(self, x: Tensor) -> Tensor:
        mask = None if self.attn_mask is None else self.attn_mask.to(x.dtype)
        return self.attn(x, x, x, need_weights=False, attn_mask=mask)[0]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class PostNormBlock(OpenAIBlock):
    def forward(self, x: Tensor) -> Tensor:
        x = self.ln_1(x + self.attention(x))
        return self.ln_2(x + self.mlp(x))


class OpenAITower(nn.Module):
    """The text parts of OpenAI's CLIP, by its names."""

    def __init__(self, block=OpenAIBlock, mask="causal", **options):
        super().__init__()
        self.context_length = 77
        if mask == "causal":
            mask = torch.full((77, 77), float("-inf"), dtype=torch.float64).triu(1)
        self.batch_first = options.get("batch_first", False)
        self.transformer = _Stack(
            nn.Sequential(*(block(mask, **options) for _ in range(LAYERS)))
        )
        self.token_embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positional_embedding = nn.Parameter(torch.empty(77, WIDTH))
        self.ln_final = Float32LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.empty(WIDTH, 24))
        randomise(self).double().eval()

    def encode_text(self, ids: Tensor) -> Tensor:
        return self.encode_prompts(self.token_embedding(ids), ids.argmax(dim=-1))

    def encode_prompts(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        x = embeddings + self.positional_embedding
        x = self.transformer(x) if self.batch_first else (
            self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        )  # fmt: skip
        x = self.ln_final(x)
        return x[torch.arange(len(x)), eot] @ self.text_projection


class _Stack(nn.Module):
    def __init__(self, resblocks: nn.Sequential) -> None:
        super().__init__()
        self.resblocks = resblocks

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


def huggingface_tower(name: str = "CLIPTextModelWithProjection", **changes):
    """A randomly initialised model of transformers, in float64."""
    import transformers

    text = {
        "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "vocab_size": VOCABULARY, "projection_dim": 24, **changes,
    }  # fmt: skip
    if name == "CLIPModel":
        vision = {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 32, "patch_size": 16,
        }  # fmt: skip
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    else:
        config = transformers.CLIPTextConfig(**text)
    return randomise(getattr(transformers, name)(config)).double().eval()


def padded_ids(names=tuple(TEMPLATES), count: int = 3) -> Tensor:
    """`count` texts per template whose context words differ. Shape (B, 77)."""
    rows = []
    for name in names:
        template = TEMPLATES[name]
        for index in range(count):
            row = list(template.token_ids) + [0] * (77 - template.length)
            for step, position in enumerate(template.context_positions):
                row[position] = 100 + 7 * index + step
            rows.append(row)
    return torch.tensor(rows)


def learned_prompts(tower, template: PromptTemplate, count: int) -> Tensor:
    """Embeddings plus positions of a template with random context. Shape (B, L, W)."""
    with torch.no_grad():
        rows = tower.token_embedding(torch.tensor(template.token_ids)).expand(count, -1, -1).clone()
        rows[:, template.context_positions] = 0.3 * torch.randn(
            count, template.context_length, rows.shape[2], dtype=rows.dtype
        )
        return rows + tower.positional_embedding[: template.length]


def grouped(prompts: Tensor, template: PromptTemplate) -> PromptGroup:
    start = template.context_start
    return PromptGroup(prompts[0, :start], prompts[:, start:], template.token_ids[:start])
