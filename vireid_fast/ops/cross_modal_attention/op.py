"""Contract of the raw ops `vireid_fast::cross_modal_attention_fwd` and `cross_modal_attention_bwd`.

Rows are tokens with H heads of width D. Position i < length[s] of sequence s is the list entry
p = start[s] + i; it loads row `rows[p]` (p if rows is None) and stores at slot `slots[p]` (the
loaded row if slots is None). Slots are unique, so no two positions ever add to one address.
"""

from typing import Any

import torch
from torch import Tensor

from vireid_fast.ops._registration import register_op
from vireid_fast.ops.cross_modal_attention import reference


def _fake(
    query: Tensor, key: Tensor, value: Tensor,
    query_rows: Tensor | None, query_slots: Tensor | None,
    query_start: Tensor, query_length: Tensor,
    key_rows: Tensor | None, key_start: Tensor, key_length: Tensor,
    num_slots: int, max_query: int, max_key: int, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    _, heads, width = query.shape
    exact = torch.float64 if query.dtype == torch.float64 else torch.float32
    out = query.new_empty((num_slots, heads, width))
    return out, query.new_empty((heads, num_slots), dtype=exact)


def _fake_bwd(
    grad: Tensor, lse: Tensor, query: Tensor, key: Tensor, value: Tensor,
    query_rows: Tensor | None, query_slots: Tensor | None,
    query_start: Tensor, query_length: Tensor,
    key_rows: Tensor | None, key_slots: Tensor | None, key_start: Tensor, key_length: Tensor,
    num_query_slots: int, num_key_slots: int, max_query: int, max_key: int, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    _, heads, width = query.shape
    keys = (num_key_slots, heads, width)
    dq = query.new_empty((num_query_slots, heads, width))
    return dq, key.new_empty(keys), value.new_empty(keys)


def _cuda(*arguments: Any) -> tuple[Tensor, Tensor]:
    from vireid_fast.ops.cross_modal_attention import triton

    return triton.cross_modal_attention(*arguments)


def _cuda_bwd(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    from vireid_fast.ops.cross_modal_attention import triton

    return triton.cross_modal_attention_bwd(*arguments)


cross_modal_attention_fwd_op = register_op(
    "cross_modal_attention_fwd(Tensor query, Tensor key, Tensor value, "
    "Tensor? query_rows, Tensor? query_slots, Tensor query_start, Tensor query_length, "
    "Tensor? key_rows, Tensor key_start, Tensor key_length, "
    "int num_slots, int max_query, int max_key, float scale) -> (Tensor out, Tensor lse)",
    fake=_fake,
    reference=reference.cross_modal_attention,
    cuda=_cuda,
)

cross_modal_attention_bwd_op = register_op(
    "cross_modal_attention_bwd(Tensor grad, Tensor lse, Tensor query, Tensor key, Tensor value, "
    "Tensor? query_rows, Tensor? query_slots, Tensor query_start, Tensor query_length, "
    "Tensor? key_rows, Tensor? key_slots, Tensor key_start, Tensor key_length, "
    "int num_query_slots, int num_key_slots, int max_query, int max_key, float scale) "
    "-> (Tensor dq, Tensor dk, Tensor dv)",
    fake=_fake_bwd,
    reference=reference.cross_modal_attention_bwd,
    cuda=_cuda_bwd,
)
