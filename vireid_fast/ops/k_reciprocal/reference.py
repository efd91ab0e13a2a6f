"""Readable torch oracle of the k-reciprocal encoding. A pair (i, j) is the key i * N + j."""

import torch
from torch import Tensor

# Elements of the differences that one step may hold: 4 MB in float32.
_STEP_ELEMENTS = 1 << 20


def rank_normalised(
    distances: Tensor, indices: Tensor, farthest: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """First k of each row by (distance / farthest, index); whether the k-th equals the last."""
    scale = torch.where(farthest > 0, farthest, 1)[:, None]
    by_index = indices.sort(1)
    normalised = (distances / scale).gather(1, by_index.indices)
    order = normalised.sort(dim=1, stable=True)
    ranked = by_index.values.gather(1, order.indices)[:, :k].contiguous()
    return ranked, order.values[:, k - 1] == order.values[:, -1]


def entry_distance(
    query: Tensor, gallery: Tensor, crow: Tensor, col: Tensor, distances: Tensor, indices: Tensor
) -> Tensor:
    """Squared Euclidean distance of each entry, computed anew whether the lists have it or not."""
    x = torch.cat([query, gallery])
    row = torch.repeat_interleave(crow.diff())
    step = max(1, _STEP_ELEMENTS // max(1, x.shape[1]))
    parts = [
        (x[r] - x[c]).square().sum(-1)
        for r, c in zip(row.split(step), col.split(step), strict=True)
    ]
    return torch.cat(parts)


def k_reciprocal_sets(indices: Tensor, k1: int) -> tuple[Tensor, Tensor]:
    """Expanded k-reciprocal sets as CSR structure (row offsets, ascending columns)."""
    num_items = indices.shape[0]
    keys = _reciprocal_keys(indices[:, : k1 + 1])
    # `round` is half to even, as numpy's `around` in the published code.
    half_keys = _reciprocal_keys(indices[:, : round(k1 / 2) + 1])
    half_offsets = _row_offsets(half_keys, num_items)

    # One entry (i, x) for every candidate c in R(i) and every x in the half set of c.
    row, candidate = keys // max(1, num_items), keys % max(1, num_items)
    half_length = half_offsets.diff()[candidate]
    owner, entry = _expand_runs(half_offsets[candidate], half_length)
    member = half_keys[entry] % max(1, num_items)
    member_keys = row[owner] * num_items + member

    # The half set joins if more than two thirds of it lie in R(i).
    shared = torch.isin(member_keys, keys).long()
    common = torch.zeros_like(half_length).index_add_(0, owner, shared)
    joins = 3 * common > 2 * half_length
    keys = torch.cat([keys, member_keys[joins[owner]]]).unique()
    return _row_offsets(keys, num_items), keys % max(1, num_items)


def reciprocal_weights(crow: Tensor, distances: Tensor) -> Tensor:
    """exp(-d), divided by its sum over the row."""
    row = torch.repeat_interleave(crow.diff())
    weight = torch.exp(-distances)
    total = distances.new_zeros(crow.shape[0] - 1).index_add_(0, row, weight)
    return weight / total[row]


def expand_query(
    crow: Tensor, col: Tensor, weight: Tensor, indices: Tensor, k2: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of the sparse rows of the first k2 neighbours."""
    num_items = indices.shape[0]
    neighbours = indices[:, :k2]
    flat = neighbours.flatten()
    owner, entry = _expand_runs(crow[flat], crow.diff()[flat])
    row = owner // neighbours.shape[1]
    keys, place = (row * num_items + col[entry]).unique(return_inverse=True)
    total = weight.new_zeros(keys.shape[0]).index_add_(0, place, weight[entry])
    mean = total / neighbours.shape[1]
    return _row_offsets(keys, num_items), keys % max(1, num_items), mean


def _reciprocal_keys(lists: Tensor) -> Tensor:
    """Ascending keys of the pairs in which each stands in the other's list."""
    num_items = lists.shape[0]
    item = torch.arange(num_items, device=lists.device)[:, None]
    mutual = (lists[lists] == item[:, :, None]).any(-1)
    return (item * num_items + lists)[mutual].sort().values


def _row_offsets(keys: Tensor, num_items: int) -> Tensor:
    """CSR row offsets of ascending keys."""
    starts = torch.arange(num_items + 1, device=keys.device) * num_items
    return torch.searchsorted(keys, starts)


def _expand_runs(start: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Each position of each run start, start + 1, ..., start + length - 1, and its run."""
    owner = torch.repeat_interleave(length)
    first = (length.cumsum(0) - length)[owner]
    return owner, start[owner] + torch.arange(owner.shape[0], device=owner.device) - first
