"""Which tokens several prompts have in common: plans on the host, no tensors."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

# What one more group costs beside its tokens, in tokens: its share of small launches per layer.
_GROUP_COST = 16

Path = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PrefixNode:
    """Adjacent prefix tokens that the same groups share.

    Attributes:
        group: The group whose prefix gives the rows.
        first: First of these tokens in that prefix.
        last: One past the last of them.
        start: Row of the first token among all trie tokens.
        path: Row ranges of the tokens before these, in order.
    """

    group: int
    first: int
    last: int
    start: int
    path: Path

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.last - self.first


@dataclass(frozen=True)
class PrefixTrie:
    """All prefixes of a call, equal beginnings merged.

    Attributes:
        nodes: Parents before children; their rows follow each other.
        paths: For each group, the row ranges that its prefix consists of.
        num_tokens: Number of rows.
    """

    nodes: tuple[PrefixNode, ...]
    paths: tuple[Path, ...]
    num_tokens: int


def build_trie(prefixes: Sequence[Sequence[Hashable]]) -> PrefixTrie:
    """Merge equal beginnings of the prefixes.

    Args:
        prefixes: For each group, one key per prefix token; may be empty.

    Returns:
        The trie; each row comes from the first group that brings it.
    """
    nodes: list[PrefixNode] = []
    paths: list[Path] = [()] * len(prefixes)
    rows = 0

    def visit(members: list[int], depth: int, path: Path) -> None:
        nonlocal rows
        branches: dict[Hashable, list[int]] = {}
        for member in members:
            if len(prefixes[member]) == depth:
                paths[member] = path
            else:
                branches.setdefault(prefixes[member][depth], []).append(member)
        for branch in branches.values():
            end = _common_length([prefixes[member] for member in branch])
            nodes.append(PrefixNode(branch[0], depth, end, rows, path))
            below = (*path, (rows, rows + end - depth))
            rows += end - depth
            visit(branch, end, below)

    visit(list(range(len(prefixes))), 0, ())
    return PrefixTrie(tuple(nodes), tuple(paths), rows)


def group_texts(texts: Sequence[tuple[int, ...]]) -> list[tuple[int, list[int]]]:
    """Split texts into groups of one length each that share a prefix, to compute few tokens.

    Args:
        texts: Different rows of token ids, each ending with EOT.

    Returns:
        (P, indices of the texts): the texts of a group are of one length and equal in their first
        P tokens, which leave out EOT at least.
    """
    by_length: dict[int, list[int]] = {}
    for index, text in enumerate(texts):
        by_length.setdefault(len(text), []).append(index)
    groups = []
    for members in by_length.values():
        groups += _split(texts, members, 0)[1]
    return groups


def _split(
    texts: Sequence[tuple[int, ...]], members: list[int], depth: int
) -> tuple[int, list[tuple[int, list[int]]]]:
    """Least cost of texts that are equal up to `depth`, and the groups that reach it."""
    length = len(texts[members[0]])
    shared = min(_common_length([texts[member] for member in members]), length - 1)
    together = len(members) * (length - shared) + _GROUP_COST
    whole = (shared - depth + together, [(shared, members)])
    # Splitting leaves EOT to each text at least; if even that saves less than a group costs, stop.
    if len(members) * (length - 1 - shared) <= _GROUP_COST:
        return whole
    branches: dict[int, list[int]] = {}
    for member in members:
        branches.setdefault(texts[member][shared], []).append(member)
    parts = [_split(texts, branch, shared) for branch in branches.values()]
    cost = shared - depth + sum(part[0] for part in parts)
    return min(whole, (cost, [group for part in parts for group in part[1]]), key=lambda s: s[0])


def _common_length(rows: Sequence[Sequence[Hashable]]) -> int:
    first, *others = rows
    length = min(len(row) for row in rows)
    for position in range(length):
        if any(row[position] != first[position] for row in others):
            return position
    return length
