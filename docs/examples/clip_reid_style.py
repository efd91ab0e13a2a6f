"""A CLIP-ReID-like model with its two training stages and its test, as its users write them.

Nothing here knows vireid_fast; `clip_reid_fast.py` beside it changes the lines that it replaces.
Names are those of CLIP and CLIP-ReID; sizes are small enough for a CPU.
"""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

CONTEXT, VOCABULARY, WIDTH, JOINT = 77, 100, 64, 32
# Begin, "A photo of a", four X, "person", ".", end of text, which is the largest id; then padding.
TOKENS = [98, 3, 4, 5, 3, 9, 9, 9, 9, 6, 7, 99]


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(nn.Module):
    def __init__(self, width, heads, attn_mask=None):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()),
                  ("c_proj", nn.Linear(4 * width, width))]  # fmt: skip
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = nn.LayerNorm(width)
        self.attn_mask = attn_mask

    def forward(self, x):
        mask = None if self.attn_mask is None else self.attn_mask.to(x)
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width, layers, heads, attn_mask=None):
        super().__init__()
        blocks = [ResidualAttentionBlock(width, heads, attn_mask) for _ in range(layers)]
        self.resblocks = nn.Sequential(*blocks)

    def forward(self, x):
        return self.resblocks(x)


class VisionTransformer(nn.Module):
    def __init__(self, places, width=WIDTH, layers=4, heads=4):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 16, stride=16, bias=False)
        self.class_embedding = nn.Parameter(0.1 * torch.randn(width))
        self.positional_embedding = nn.Parameter(0.1 * torch.randn(places + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, JOINT) * width**-0.5)

    def forward(self, x):
        x = self.conv1(x).flatten(2).permute(0, 2, 1)
        first = self.class_embedding + torch.zeros_like(x[:, :1])
        x = self.ln_pre(torch.cat([first, x], dim=1) + self.positional_embedding)
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        return self.ln_post(x[:, 0, :]) @ self.proj


class TextEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        mask = torch.full((CONTEXT, CONTEXT), float("-inf")).triu_(1)
        self.transformer = Transformer(WIDTH, 4, 4, mask)
        self.positional_embedding = nn.Parameter(0.1 * torch.randn(CONTEXT, WIDTH))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, JOINT) * WIDTH**-0.5)

    def forward(self, prompts, tokenized_prompts):
        x = prompts + self.positional_embedding
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        x = self.ln_final(x)
        rows = torch.arange(x.shape[0])
        return x[rows, tokenized_prompts.argmax(dim=-1)] @ self.text_projection


class PromptLearner(nn.Module):
    def __init__(self, num_class):
        super().__init__()
        ids = torch.zeros(1, CONTEXT, dtype=torch.int64)
        ids[0, : len(TOKENS)] = torch.tensor(TOKENS)
        self.tokenized_prompts = ids
        embedding = (0.1 * torch.randn(VOCABULARY, WIDTH))[ids]
        self.cls_ctx = nn.Parameter(0.02 * torch.randn(num_class, 4, WIDTH))
        self.register_buffer("token_prefix", embedding[:, :5])
        self.register_buffer("token_suffix", embedding[:, 9:])

    def forward(self, label):
        count = label.shape[0]
        prefix = self.token_prefix.expand(count, -1, -1)
        suffix = self.token_suffix.expand(count, -1, -1)
        return torch.cat([prefix, self.cls_ctx[label], suffix], dim=1)


class ReIdModel(nn.Module):
    def __init__(self, num_class, places=8 * 4):
        super().__init__()
        self.image_encoder = VisionTransformer(places)
        self.prompt_learner = PromptLearner(num_class)
        self.text_encoder = TextEncoder()
        self.bottleneck = nn.BatchNorm1d(JOINT)
        self.classifier = nn.Linear(JOINT, num_class, bias=False)

    def encode_text(self, label):
        prompts = self.prompt_learner(label)
        return self.text_encoder(prompts, self.prompt_learner.tokenized_prompts)


def supervised_contrast(first, second, first_labels, second_labels):
    mask = (first_labels[:, None] == second_labels[None, :]).float()
    log_probability = F.log_softmax(first @ second.t(), dim=1)
    return -((mask * log_probability).sum(1) / mask.sum(1)).mean()


def image_to_text(features, texts, labels):
    return F.cross_entropy(features @ texts.t(), labels)


def euclidean_dist(x, y):
    distances = x.pow(2).sum(1, keepdim=True) + y.pow(2).sum(1)[None, :] - 2 * x @ y.t()
    return distances.clamp(min=1e-12).sqrt()


def batch_hard_triplet(distances, labels, margin=0.3):
    same = labels[:, None] == labels[None, :]
    positive = distances.masked_fill(~same, float("-inf")).amax(1)
    negative = distances.masked_fill(same, float("inf")).amin(1)
    return F.relu(positive - negative + margin).mean()


def prompt_loss(model, features, labels):
    """Stage 1: learned tokens against stored image features."""
    texts = model.encode_text(labels)
    return supervised_contrast(features, texts, labels, labels) + supervised_contrast(
        texts, features, labels, labels
    )


def image_loss(model, images, labels, texts):
    """Stage 2: the image encoder against the texts of all identities."""
    features = model.image_encoder(images)
    logits = model.classifier(model.bottleneck(features))
    return (
        F.cross_entropy(logits, labels, label_smoothing=0.1)
        + batch_hard_triplet(euclidean_dist(features, features), labels)
        + image_to_text(features, texts, labels)
    )


def eval_func(distmat, q_pids, g_pids, q_camids, g_camids, max_rank=50):
    order = np.argsort(distmat, axis=1, kind="stable")
    curves, precisions = [], []
    for row in range(len(q_pids)):
        found = order[row]
        same_view = (g_pids[found] == q_pids[row]) & (g_camids[found] == q_camids[row])
        hits = (g_pids[found] == q_pids[row])[~same_view].astype(np.int32)
        if not hits.any():
            continue
        curves.append(np.minimum(hits.cumsum(), 1)[:max_rank])
        ranks = np.flatnonzero(hits) + 1
        precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return np.mean(curves, axis=0), np.mean(precisions)
