"""Small models in the shape of OpenAI's CLIP and of CLIP-ReID, as a user would bring them."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 40
CONTEXT = 20
WIDTH = 32
# Begin, "a photo of a", four X, "person", ".", end; then padding.
TEMPLATE = [38, 3, 4, 5, 3, 9, 9, 9, 9, 6, 7, 39]


class HalfNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        return F.layer_norm(
            x.to(wide), self.normalized_shape, self.weight.to(wide), self.bias.to(wide), self.eps
        ).to(x.dtype)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int, mask: Tensor | None, dropout: float) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, dropout=dropout)
        self.ln_1 = HalfNorm(width)
        parts = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU())]
        self.mlp = nn.Sequential(OrderedDict([*parts, ("c_proj", nn.Linear(4 * width, width))]))
        self.ln_2 = HalfNorm(width)
        self.attn_mask = mask

    def forward(self, x: Tensor) -> Tensor:
        if self.attn_mask is not None:
            self.attn_mask = self.attn_mask.to(dtype=x.dtype, device=x.device)
        normed = self.ln_1(x)
        mixed = self.attn(normed, normed, normed, need_weights=False, attn_mask=self.attn_mask)[0]
        x = x + mixed
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(
        self, width: int, layers: int, heads: int, mask: Tensor | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        blocks = [ResidualAttentionBlock(width, heads, mask, dropout) for _ in range(layers)]
        self.resblocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class VisionTransformer(nn.Module):
    def __init__(self, grid=(4, 2), patch=8, width=WIDTH, layers=3, heads=4, output=16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(grid[0] * grid[1] + 1, width))
        self.ln_pre = HalfNorm(width)
        self.transformer = Transformer(width, layers, heads)
        self.ln_post = HalfNorm(width)
        self.proj = nn.Parameter(torch.randn(width, output) * width**-0.5)

    def embed(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = x.reshape(x.shape[0], x.shape[1], -1).permute(0, 2, 1)
        first = self.class_embedding.to(x.dtype) + torch.zeros_like(x[:, :1])
        x = torch.cat([first, x], dim=1)
        return self.ln_pre(x + self.positional_embedding.to(x.dtype)).permute(1, 0, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.transformer(self.embed(x)).permute(1, 0, 2)
        x = self.ln_post(x[:, 0, :])
        return x if self.proj is None else x @ self.proj


def _all_tokens(self, x: Tensor):
    before = self.transformer.resblocks[:-1](self.embed(x))
    after = self.ln_post(self.transformer.resblocks[-1](before).permute(1, 0, 2))
    return before.permute(1, 0, 2), after, after @ self.proj


def all_tokens_transformer(**options) -> nn.Module:
    """A class of its own, not a subclass with a second forward."""
    names = {**VisionTransformer.__dict__, "forward": _all_tokens}
    names.pop("__dict__", None), names.pop("__weakref__", None)
    model = VisionTransformer(**options)
    model.__class__ = type("VisionTransformer", (nn.Module,), names)
    return model


class AttentionPool2d(nn.Module):
    keep = 1

    def __init__(self, places: int, width: int, heads: int, output: int | None = None) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(places + 1, width) / width**0.5)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, output or width)
        self.num_heads = heads

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(dim=0, keepdim=True), x])
        x = x + self.positional_embedding[:, None, :].to(x.dtype)
        out, _ = F.multi_head_attention_forward(
            x, x, x, x.shape[-1], self.num_heads, None,
            torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias]), None, None, False,
            0.0, self.c_proj.weight, self.c_proj.bias, training=self.training, need_weights=False,
            use_separate_proj_weight=True, q_proj_weight=self.q_proj.weight,
            k_proj_weight=self.k_proj.weight, v_proj_weight=self.v_proj.weight,
        )  # fmt: skip
        return out[0] if self.keep == 1 else out


class ModifiedResNet(nn.Module):
    """Far fewer convolutions than the real one; what matters here is the pool at its end."""

    def __init__(self, grid=(4, 2), width=WIDTH, output=16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 8, stride=8, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.attnpool = AttentionPool2d(grid[0] * grid[1], width, 4, output)

    def forward(self, x: Tensor) -> Tensor:
        return self.attnpool(F.relu(self.bn1(self.conv1(x.type(self.conv1.weight.dtype)))))


class CLIP(nn.Module):
    def __init__(self, visual: nn.Module | None = None, *, layers=2, dropout=0.0, mask=True):
        super().__init__()
        self.visual = VisionTransformer() if visual is None else visual
        causal = torch.full((CONTEXT, CONTEXT), float("-inf")).triu_(1) if mask else None
        self.transformer = Transformer(WIDTH, layers, 4, causal, dropout)
        self.token_embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positional_embedding = nn.Parameter(0.3 * torch.randn(CONTEXT, WIDTH))
        self.ln_final = HalfNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, 16) * WIDTH**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    @property
    def dtype(self) -> torch.dtype:
        return self.visual.conv1.weight.dtype

    def encode_image(self, image: Tensor) -> Tensor:
        return self.visual(image.type(self.dtype))

    def encode_text(self, text: Tensor) -> Tensor:
        x = self.token_embedding(text).type(self.dtype)
        x = x + self.positional_embedding.type(self.dtype)
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        x = self.ln_final(x).type(self.dtype)
        return x[torch.arange(x.shape[0]), text.argmax(dim=-1)] @ self.text_projection

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        image, text = F.normalize(self.encode_image(image)), F.normalize(self.encode_text(text))
        return self.logit_scale.exp() * image @ text.t()


class TextEncoder(nn.Module):
    def __init__(self, clip_model: CLIP) -> None:
        super().__init__()
        self.transformer = clip_model.transformer
        self.positional_embedding = clip_model.positional_embedding
        self.ln_final = clip_model.ln_final
        self.text_projection = clip_model.text_projection
        self.dtype = clip_model.dtype

    def forward(self, prompts: Tensor, tokenized_prompts: Tensor) -> Tensor:
        x = prompts + self.positional_embedding.type(self.dtype)
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        x = self.ln_final(x).type(self.dtype)
        eot = tokenized_prompts.argmax(dim=-1)
        return x[torch.arange(x.shape[0]), eot] @ self.text_projection


class PromptLearner(nn.Module):
    def __init__(self, num_class: int, dtype: torch.dtype, table: nn.Embedding) -> None:
        super().__init__()
        ids = torch.zeros(1, CONTEXT, dtype=torch.int64)
        ids[0, : len(TEMPLATE)] = torch.tensor(TEMPLATE)
        self.tokenized_prompts = ids
        with torch.no_grad():
            embedding = table(ids).type(dtype)
        self.cls_ctx = nn.Parameter(torch.randn(num_class, 4, WIDTH, dtype=dtype))
        self.register_buffer("token_prefix", embedding[:, :5])
        self.register_buffer("token_suffix", embedding[:, 9:])

    def forward(self, label: Tensor) -> Tensor:
        count = label.shape[0]
        prefix = self.token_prefix.expand(count, -1, -1)
        suffix = self.token_suffix.expand(count, -1, -1)
        return torch.cat([prefix, self.cls_ctx[label], suffix], dim=1)


class ReIdModel(nn.Module):
    """A CLIP-ReID-style model: image encoder, prompt learner, text encoder, classifier."""

    def __init__(self, visual: nn.Module | None = None, num_class: int = 5, **options) -> None:
        super().__init__()
        clip_model = CLIP(visual, **options)
        self.image_encoder = clip_model.visual
        self.prompt_learner = PromptLearner(num_class, clip_model.dtype, clip_model.token_embedding)
        self.text_encoder = TextEncoder(clip_model)
        self.classifier = nn.Linear(16, num_class, bias=False)

    def encode_text(self, label: Tensor) -> Tensor:
        prompts = self.prompt_learner(label)
        return self.text_encoder(prompts, self.prompt_learner.tokenized_prompts)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        feature = self.image_encoder(image)
        logits = F.normalize(feature) @ self.encode_text(label).t()
        return torch.cat([self.classifier(feature), logits], dim=1)


class CrossFusion(nn.Module):
    """Visible tokens ask infrared tokens."""

    def __init__(self, width: int = WIDTH, heads: int = 1, **options) -> None:
        super().__init__()
        self.cross = nn.MultiheadAttention(width, heads, **options)

    def forward(self, visible: Tensor, infrared: Tensor, **options):
        return self.cross(visible, infrared, infrared, **{"need_weights": False, **options})


def make_ids(batch: int) -> Tensor:
    """Texts of several lengths, ended by the largest id and padded with zeros."""
    ids = torch.zeros(batch, CONTEXT, dtype=torch.int64)
    for row in range(batch):
        length = 3 + (5 * row) % (CONTEXT - 4)
        ids[row, 0] = 38
        ids[row, 1:length] = torch.randint(1, 38, (length - 1,))
        ids[row, length] = 39
    return ids
