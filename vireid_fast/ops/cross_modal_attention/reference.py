"""Attention over indexed sequences in plain torch: the oracle of the kernels.

Every sequence is padded to the longest; what is computed for the padding is never stored.
"""

import torch
from torch import Tensor


def cross_modal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_rows: Tensor | None,
    query_slots: Tensor | None,
    query_start: Tensor,
    query_length: Tensor,
    key_rows: Tensor | None,
    key_start: Tensor,
    key_length: Tensor,
    num_slots: int,
    max_query: int,
    max_key: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Softmax attention of each sequence's queries over its keys; layout as in `op.py`.

    Args:
        query: Shape (Nq, H, D).
        key: Shape (Nk, H, D).
        value: Shape (Nk, H, D).
        query_rows: Row of each list entry, or None. Shape (P,), int64.
        query_slots: Slot of each list entry, or None. Shape (P,), int64.
        query_start: First list entry of each sequence. Shape (S,), int64.
        query_length: Number of list entries of each sequence. Shape (S,), int64.
        key_rows: As `query_rows`, for keys and values.
        key_start: As `query_start`.
        key_length: As `query_length`.
        num_slots: Rows of the output.
        max_query: Largest of `query_length`.
        max_key: Largest of `key_length`.
        scale: Factor of q . k.

    Returns:
        Outputs, shape (num_slots, H, D), dtype of `query`, and log sum exp (scale q . k), shape
        (H, num_slots), float32 (float64 for float64). Slots that nothing is stored at hold 0.
    """
    inside_q, load_q, store_q = _positions(
        query_rows, query_slots, query_start, query_length, max_query, num_slots
    )
    inside_k, load_k, _ = _positions(key_rows, None, key_start, key_length, max_key, 0)
    scores = scale * torch.einsum(
        "sihd,sjhd->shij", _load(query, load_q, inside_q), _load(key, load_k, inside_k)
    )
    scores = scores.masked_fill(~inside_k[:, None, None, :], -torch.inf)
    lse = torch.logsumexp(scores, 3)
    weight = torch.exp(scores - lse[..., None])
    out = torch.einsum("shij,sjhd->sihd", weight, _load(value, load_k, inside_k))
    stored_lse = _store(lse.transpose(1, 2), store_q, num_slots).T.contiguous()
    return _store(out, store_q, num_slots).to(query.dtype), stored_lse


def cross_modal_attention_bwd(
    grad: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_rows: Tensor | None,
    query_slots: Tensor | None,
    query_start: Tensor,
    query_length: Tensor,
    key_rows: Tensor | None,
    key_slots: Tensor | None,
    key_start: Tensor,
    key_length: Tensor,
    num_query_slots: int,
    num_key_slots: int,
    max_query: int,
    max_key: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, stored at their slots.

    With P = exp(scale q . k - lse) and dP = grad . v, dS = P (dP - rowsum(P dP)), the gradients
    are dq = scale dS k, dk = scale dS^T q and dv = P^T grad.

    Args:
        grad: Gradient of the output slots. Shape (num_query_slots, H, D).
        lse: Second output of the forward op. Shape (H, num_query_slots).
        query: And the others that are not named here: as in `cross_modal_attention`.
        key_slots: Slot of each key list entry's gradients, or None. Shape (P',), int64.
        num_query_slots: Rows of dq.
        num_key_slots: Rows of dk and dv.

    Returns:
        dq (num_query_slots, H, D), dk and dv (num_key_slots, H, D) in the dtype of `query`.
    """
    inside_q, load_q, store_q = _positions(
        query_rows, query_slots, query_start, query_length, max_query, num_query_slots
    )
    inside_k, load_k, store_k = _positions(
        key_rows, key_slots, key_start, key_length, max_key, num_key_slots
    )
    q, k = _load(query, load_q, inside_q), _load(key, load_k, inside_k)
    v = _load(value, load_k, inside_k)
    # The last slot is one past the gradient; the padding that points there is masked.
    slot = store_q.clamp(max=num_query_slots - 1)
    grad_out = _load(grad, slot, inside_q)
    rows_lse = lse.T[slot].transpose(1, 2)[..., None]
    weight = torch.exp(scale * torch.einsum("sihd,sjhd->shij", q, k) - rows_lse)
    weight = torch.where(inside_q[:, None, :, None] & inside_k[:, None, None, :], weight, 0)
    grad_weight = torch.einsum("sihd,sjhd->shij", grad_out, v)
    delta = (weight * grad_weight).sum(3, keepdim=True)
    grad_scores = scale * weight * (grad_weight - delta)
    dq = torch.einsum("shij,sjhd->sihd", grad_scores, k)
    dk = torch.einsum("shij,sihd->sjhd", grad_scores, q)
    dv = torch.einsum("shij,sihd->sjhd", weight, grad_out)
    return (
        _store(dq, store_q, num_query_slots).to(query.dtype),
        _store(dk, store_k, num_key_slots).to(key.dtype),
        _store(dv, store_k, num_key_slots).to(value.dtype),
    )


def _positions(
    rows: Tensor | None,
    slots: Tensor | None,
    start: Tensor,
    length: Tensor,
    longest: int,
    num_slots: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each sequence and position: is it inside, its row, its slot; each (S, longest).

    Positions beyond a sequence load row 0 and store at `num_slots`, one past the last slot.
    """
    position = torch.arange(longest, device=start.device)
    inside = position < length[:, None]
    entry = torch.where(inside, start[:, None] + position, 0)
    row = entry if rows is None else rows[entry]
    slot = row if slots is None else slots[entry]
    return inside, row, torch.where(inside, slot, num_slots)


def _load(x: Tensor, rows: Tensor, inside: Tensor) -> Tensor:
    """Rows in at least float32, zero outside the sequences, so that no NaN comes from padding."""
    wide = x[rows].to(torch.promote_types(x.dtype, torch.float32))
    return torch.where(inside[..., None, None], wide, 0)


def _store(values: Tensor, slots: Tensor, num_slots: int) -> Tensor:
    """Write (S, L, ...) values at their slots of a zeroed (num_slots, ...) tensor."""
    out = values.new_zeros((num_slots + 1, *values.shape[2:]))
    return out.index_copy(0, slots.flatten(), values.flatten(0, 1))[:num_slots]
