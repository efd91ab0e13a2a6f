"""A text tower that does not compute what nobody reads."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from vireid_fast._checks import (
    may_read_values,
    positive_int,
    require,
    require_choice,
    require_dtype,
    require_same_device,
    require_shape,
)
from vireid_fast.nn.prompt_group import PromptGroup
from vireid_fast.nn.prompt_inputs import (
    check_eot,
    check_groups,
    check_ids,
    require_embedding,
    require_equal_rows,
    require_index,
    require_length,
)
from vireid_fast.nn.prompt_stream import (
    Segment,
    all_tokens,
    last_tokens,
    prefix_segments,
    split_prompts,
)
from vireid_fast.nn.prompt_trie import PrefixTrie, build_trie, group_texts
from vireid_fast.nn.tower_check import check_tower, refuse, state_problems
from vireid_fast.nn.tower_readers import view_tower
from vireid_fast.ops import BACKENDS, Backend

_WHAT = "PromptTextEncoder"
# Tokens per chunk on a CPU: the hidden activations of more leave the cache.
_CPU_TOKENS = 1024


class PromptTextEncoder(nn.Module):
    """Text features of prompts that share beginnings, equal to those of the full tower.

    A causal tower lets no token see a later one. So tokens after end of text (EOT) cannot change
    its feature and are left out, tokens that several prompts begin with are computed once, and
    the last block is computed for EOT alone. The prefixes of all groups of a call form a trie,
    whose tokens run through the linear maps together with all others.

    The tower is not registered here: `state_dict()` and `parameters()` are empty, and `.to()`
    moves nothing. Train, move and save the tower. Its parameters are read at each call and get
    gradients.

    Args:
        tower: `clip.TextTower`; a module with the text parts of OpenAI's CLIP
            (`transformer.resblocks` with `attn_mask`, `ln_final`, `positional_embedding`, perhaps
            `text_projection` and `token_embedding`; tokens first or batch first); or Hugging
            Face's `CLIPTextModel`, `CLIPTextModelWithProjection` or `CLIPModel`.
        backend: "fused" (the above) or "reference": the tower's own blocks on prompts padded to
            the context length, for checking, and for towers with dropout or hooks.
        block: Prompts per chunk, which bounds the memory of a forward pass without gradients.
            None: about 1024 tokens on a CPU, everything at once elsewhere and while compiling.

    Raises:
        NotImplementedError: The shortcut would not be exact for this tower; all reasons are named.
            Dropout, hooks and replaced forwards are looked for again at each call.
        ValueError: `backend` or `block` does not fit. TypeError: `block` is no integer.
    """

    def __init__(
        self, tower: nn.Module, *, backend: Backend = "fused", block: int | None = None
    ) -> None:
        super().__init__()
        require_choice(_WHAT, "backend", backend, BACKENDS)
        self.backend = backend
        self.block = None if block is None else positive_int(_WHAT, "block", block)
        # The view is no module, so it registers nothing.
        self.view = view_tower(tower)
        if backend == "fused":
            check_tower(tower)
        else:
            refuse(self.view, list(self.view.not_causal))

    def forward(self, groups: PromptGroup | Sequence[PromptGroup]) -> Tensor | list[Tensor]:
        """Features of prompts, read at their last token.

        Args:
            groups: One group or several, which are then computed together. Embeddings of the
                dtype of the tower's linear maps (any floating dtype under autocast), with
                P + T up to the context length. Expanded and strided tensors are accepted.

        Returns:
            Features of shape (B, d), not normalised; a list of them for several groups.

        A prefix that requires a gradient is shared only with groups that pass the same tensor
        object, so that each prefix gets its own gradient.

        Raises:
            ValueError: A shape, device or number of tokens does not fit. TypeError: A dtype does
                not fit. NotImplementedError: The tower has become unsuitable, see the class.
        """
        if isinstance(groups, PromptGroup):
            return self._encode([groups])[0]
        return self._encode(list(groups))

    def encode_tokens(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Features of tokenised texts; what the texts have in common is computed once.

        Equal texts and equal beginnings are found on the host, which reads `ids`. While compiling
        or capturing a CUDA graph, the host cannot: then all tokens of all texts are computed.

        Args:
            ids: Token ids, any padding after EOT. Shape (B, L), int64, L up to the context length.
                EOT is where the tower's EOT id first stands; if the tower does not tell it, the
                largest id of each text, as in CLIP.
            attention_mask: Hugging Face's padding mask, 1 for tokens and 0 for padding; padding
                after EOT changes nothing. Shape (B, L).

        Returns:
            Features of shape (B, d), not normalised.

        Raises:
            ValueError: A shape does not fit, or a text has no EOT. TypeError: `ids` is not int64.
            NotImplementedError: The tower has no token embeddings, or `attention_mask` hides
                tokens before EOT.
        """
        check_ids("encode_tokens", ids, self.view)
        blind = not may_read_values()
        require(
            attention_mask is None or not blind,
            "encode_tokens", "attention_mask", "be None while compiling or capturing", "a tensor",
            "Leave it out where it hides only padding after EOT.", NotImplementedError,
        )  # fmt: skip
        eot = self.view.find_eot(ids)
        if not blind:
            check_eot("encode_tokens", ids, eot, attention_mask, self.view)
        if blind or self.backend == "reference" or len(ids) == 0:
            return self._encode_whole(self.view.embed(ids), eot)
        rows = zip(ids.tolist(), eot.tolist(), strict=True)
        return self._encode_texts([tuple(row[: end + 1]) for row, end in rows], ids.device)

    def encode_embeddings(self, prompts: Tensor, eot: int | Tensor, shared: int = 0) -> Tensor:
        """Features of prompts given as whole embeddings.

        Args:
            prompts: Embeddings plus positions. Shape (B, L, W), L up to the context length.
            eot: Index of EOT: one for all, or one per prompt with shape (B,), int64. The host reads
                a tensor; while compiling or capturing a CUDA graph, all L tokens are computed.
            shared: Number P of leading tokens that are equal in all prompts, not above any EOT:
                one tensor expanded over B, as it were. They are computed from prompt 0, which gets
                the whole gradient of these P rows, the others none; summed over B, as expanding
                does, the gradient is exact. On the CPU, rows that differ are refused.

        Returns:
            Features of shape (B, d), not normalised.

        Raises:
            ValueError: A shape, `eot` or `shared` does not fit. TypeError: A dtype does not fit.
        """
        what = "encode_embeddings"
        require_shape(what, "prompts", prompts, ("B", "L", self.view.width))
        require_length(what, "prompts", prompts.shape[1], self.view)
        require_embedding(what, "prompts", prompts, self.view)
        if isinstance(eot, Tensor):
            require_dtype(what, "eot", eot, (torch.int64,))
            require_shape(what, "eot", eot, (len(prompts),))
            require_same_device(what, prompts=prompts, eot=eot)
            if not may_read_values() or len(prompts) == 0:
                return self._encode_whole(prompts, eot)
            ends = eot.tolist()
        else:
            require(
                isinstance(eot, int), what, "eot", "be an int or an int64 tensor",
                type(eot).__name__,
                error=TypeError,
            )  # fmt: skip
            ends = [eot]
        last, first = prompts.shape[1] - 1, min(ends)
        require_index(what, "eot", first, last)
        require_index(what, "eot", max(ends), last)
        require_index(what, "shared", shared, first, " (EOT)")
        require_equal_rows(what, prompts, shared)
        if len(prompts) == 0:
            return self.view.finish(prompts[:, 0])
        return self._encode_by_end(prompts, ends, shared)

    def _encode_by_end(self, prompts: Tensor, ends: list[int], shared: int) -> Tensor:
        """Prompts that share `shared` tokens, one group for each place of EOT."""
        key = range(shared)
        prefix = prompts[0, :shared]
        members: dict[int, list[int]] = {}
        for row, end in enumerate(ends):
            members.setdefault(end, []).append(row)
        if len(members) == 1:
            group = PromptGroup(prefix, prompts[:, shared : ends[0] + 1])
            return self._encode([group], [key])[0]
        groups = []
        for end, rows in members.items():
            index = torch.tensor(rows, device=prompts.device)
            groups.append(PromptGroup(prefix, prompts[index, shared : end + 1]))
        features = torch.cat(self._encode(groups, [key] * len(groups)))
        order = torch.tensor([row for rows in members.values() for row in rows])
        return features[order.argsort().to(prompts.device)]

    def _encode_texts(self, rows: list[tuple[int, ...]], device: torch.device) -> Tensor:
        """Texts given as ids up to EOT, each different one computed once."""
        texts = list(dict.fromkeys(rows))
        groups, keys = [], []
        order: dict[tuple[int, ...], int] = {}
        for shared, members in group_texts(texts):
            ids = torch.tensor([texts[member] for member in members], device=device)
            prefix = self.view.embed(ids[0, :shared])
            groups.append(PromptGroup(prefix, self.view.embed(ids[:, shared:], first=shared)))
            keys.append(texts[members[0]][:shared])
            for member in members:
                order[texts[member]] = len(order)
        features = torch.cat(self._encode(groups, keys))
        return features[torch.tensor([order[row] for row in rows], device=device)]

    def _encode_whole(self, x: Tensor, eot: Tensor) -> Tensor:
        """All tokens of (B, L, W), read at `eot`, without a look at values by the host."""
        if len(x) == 0:
            return self.view.finish(x[:, 0])
        if self.backend == "reference":
            hidden = self.view.run_plain(x)
        else:
            refuse(self.view, state_problems(self.view))
            hidden = all_tokens(self.view.blocks, x)
        return self.view.finish(hidden[torch.arange(len(x), device=x.device), eot])

    def _encode(
        self, groups: list[PromptGroup], keys: Sequence[Sequence[Hashable]] | None = None
    ) -> list[Tensor]:
        """Features of groups; `keys` name their prefix tokens where the ids do not."""
        check_groups(_WHAT, groups, self.view)
        if self.backend == "reference":
            return [self._encode_padded(group) for group in groups]
        refuse(self.view, state_problems(self.view))
        # Groups without prompts take no part, so that nothing is computed for them.
        live = [index for index, group in enumerate(groups) if len(group.suffix)]
        if not live:
            return [self.view.finish(group.suffix[:, 0]) for group in groups]
        keys = _prefix_keys(groups) if keys is None else keys
        trie = build_trie([keys[index] for index in live])
        found = dict(zip(live, self._encode_trie([groups[i] for i in live], trie), strict=True))
        return [
            found[index] if index in found else found[live[0]][:0] for index in range(len(groups))
        ]

    def _encode_trie(self, groups: list[PromptGroup], trie: PrefixTrie) -> Sequence[Tensor]:
        sizes = [len(group.suffix) for group in groups]
        last, cache = [], None
        for parts in split_prompts(sizes, self._prompts_per_chunk(groups)):
            segments, pieces, num_nodes = [], [], 0
            if cache is None:
                segments = prefix_segments(trie)
                pieces = [groups[n.group].prefix[n.first : n.last] for n in trie.nodes]
                num_nodes = len(segments)
            for part in parts:
                suffix = groups[part.group].suffix[part.first : part.last]
                count, length, width = suffix.shape
                segments.append(Segment(count, length, trie.paths[part.group]))
                pieces.append(suffix.reshape(count * length, width))
            stream = torch.cat(pieces)
            tokens, cache = last_tokens(self.view.blocks, stream, segments, num_nodes, cache)
            last.append(tokens)
        return self.view.finish(torch.cat(last)).split(sizes)

    def _encode_padded(self, group: PromptGroup) -> Tensor:
        """The plain path: every prompt through the tower's own blocks at full length."""
        prefix, suffix, _ = group
        end = prefix.shape[0] + suffix.shape[1] - 1
        # Not `len`, which would fix the number of prompts in an exported graph.
        if suffix.shape[0] == 0:
            return self.view.finish(suffix[:, 0])
        last = [
            self._run_padded(prefix, part)[:, end]
            for part in (suffix.split(self.block) if self.block else [suffix])
        ]
        return self.view.finish(torch.cat(last))

    def _run_padded(self, prefix: Tensor, suffix: Tensor) -> Tensor:
        """All tokens of some prompts of a group."""
        prefix = prefix.expand(suffix.shape[0], -1, -1)
        return self.view.run_plain(torch.cat([prefix, suffix], dim=1))

    def _prompts_per_chunk(self, groups: list[PromptGroup]) -> int:
        if self.block is not None:
            return self.block
        total = sum(len(group.suffix) for group in groups)
        if groups[0].suffix.device.type != "cpu" or torch.compiler.is_compiling():
            return total
        longest = max(group.suffix.shape[1] for group in groups)
        chunks = -(-total * longest // _CPU_TOKENS)
        # Equal chunks, so that no small one is left over.
        return -(-total // chunks)


def _prefix_keys(groups: list[PromptGroup]) -> list[list[Hashable]]:
    """Keys that are equal where one row may stand for another, its gradient included."""
    keys: list[list[Hashable]] = []
    for index, group in enumerate(groups):
        prefix, _, ids = group
        if ids is None:
            keys.append([("own", index, position) for position in range(prefix.shape[0])])
        elif prefix.requires_grad and torch.is_grad_enabled():
            owner = next(i for i, other in enumerate(groups) if other.prefix is prefix)
            keys.append([("learned", owner, token) for token in ids])
        else:
            keys.append([("constant", 0, token) for token in ids])
    return keys
