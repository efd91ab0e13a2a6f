"""Peers of the attention pool: the stock call of CLIP's ResNets."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def stock_attention_pool(
    pool: nn.Module, feature_map: Tensor, queries: int | None = None
) -> Tensor:
    """The pooled feature by `F.multi_head_attention_forward`, as CLIP's ResNets call it.

    Args:
        pool: Holds q_proj, k_proj, v_proj, c_proj, num_heads and positional_embedding.
        feature_map: Shape (B, C, h, w).
        queries: Leading tokens that attend; None: all of them, of which the first is kept (CLIP's
            first release, and CLIP-ReID). 1: what a later release of CLIP does.

    Returns:
        Shape (B, d).
    """
    tokens = feature_map.flatten(2).permute(2, 0, 1)
    tokens = torch.cat([tokens.mean(dim=0, keepdim=True), tokens])
    tokens = tokens + pool.positional_embedding[:, None, :]
    projections = (pool.q_proj, pool.k_proj, pool.v_proj)
    attended, _ = F.multi_head_attention_forward(
        query=tokens[:queries], key=tokens, value=tokens,
        embed_dim_to_check=tokens.shape[-1], num_heads=pool.num_heads,
        q_proj_weight=pool.q_proj.weight, k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight, in_proj_weight=None,
        in_proj_bias=torch.cat([projection.bias for projection in projections]),
        bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight, out_proj_bias=pool.c_proj.bias,
        use_separate_proj_weight=True, training=pool.training, need_weights=False,
    )  # fmt: skip
    return attended[0]
