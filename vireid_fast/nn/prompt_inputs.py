"""What the text encoder asks of its inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vireid_fast._checks import (
    may_read_values,
    require,
    require_dtype,
    require_same_device,
    require_shape,
    sentence,
)
from vireid_fast.nn.prompt_group import PromptGroup
from vireid_fast.nn.text_tower_view import TowerView


def check_groups(what: str, groups: Sequence[PromptGroup], view: TowerView) -> None:
    """Raise ValueError or TypeError unless the tower can take the groups in one call."""
    for group in groups:
        require(
            isinstance(group, PromptGroup), what, "groups", "hold PromptGroup only",
            type(group).__name__, error=TypeError,
        )  # fmt: skip
        prefix, suffix, ids = group
        require_shape(what, "prefix", prefix, ("P", view.width))
        require_shape(what, "suffix", suffix, ("B", "T", view.width))
        require(
            suffix.shape[1] >= 1, what, "suffix", "have at least 1 token, which is EOT", "0 tokens"
        )
        require_length(what, "prefix and suffix", prefix.shape[0] + suffix.shape[1], view)
        for name, value in (("prefix", prefix), ("suffix", suffix)):
            require_embedding(what, name, value, view)
        require(
            prefix.dtype == suffix.dtype == groups[0].suffix.dtype,
            what, "prefix and suffix", "be of one dtype in all groups",
            (prefix.dtype, suffix.dtype), error=TypeError,
        )  # fmt: skip
        if ids is not None and len(ids) != prefix.shape[0]:
            requirement = f"name the {prefix.shape[0]} tokens of the prefix"
            require(False, what, "prefix_ids", requirement, f"{len(ids)} ids")


def require_embedding(what: str, name: str, value: Tensor, view: TowerView) -> None:
    """Raise TypeError or ValueError unless dtype and device fit the tower's."""
    require_same_device(what, **{name: value, "tower": view.positions})
    # Autocast casts in front of each linear map, so that mixed dtypes are meant there.
    if torch.is_autocast_enabled(value.device.type):
        require(
            value.is_floating_point(), what, name, "be floating point", value.dtype,
            error=TypeError,
        )  # fmt: skip
    else:
        require_dtype(what, name, value, (view.dtype,))


def require_length(what: str, argument: str, length: int, view: TowerView) -> None:
    """Raise ValueError for an empty text, and for more tokens than the context."""
    if not 0 < length <= view.context_length:
        require(
            False, what, argument,
            f"have 1 to {view.context_length} tokens (the context length)", length,
        )  # fmt: skip


def require_index(what: str, argument: str, value: int, last: int, name: str = "") -> None:
    """Raise ValueError unless 0 <= value <= last."""
    # The sentence is made on failure only: torch.compile cannot print a symbolic size.
    if not 0 <= value <= last:
        require(False, what, argument, f"lie in 0..{last}{name}", value)


def check_ids(what: str, ids: Tensor, view: TowerView) -> None:
    """Raise unless `ids` are token ids that the tower can embed."""
    if view.token_embedding is None:
        raise NotImplementedError(
            sentence(
                what,
                "tower",
                "have a token_embedding",
                type(view.tower).__name__,
                "Embed the tokens and call encode_embeddings.",
            )
        )
    require_dtype(what, "ids", ids, (torch.int64,))
    require_shape(what, "ids", ids, ("B", "L"))
    require_length(what, "ids", ids.shape[1], view)
    require_same_device(what, ids=ids, tower=view.positions)


def check_eot(
    what: str, ids: Tensor, eot: Tensor, attention_mask: Tensor | None, view: TowerView
) -> None:
    """Raise unless each text has EOT, and nothing before it is hidden as padding."""
    if view.eot_id is None:
        # Id 0 is padding, so a text of nothing else ends nowhere.
        found, name = (ids > 0).any(dim=1), "EOT (an id above 0)"
    else:
        found, name = (ids == view.eot_id).any(dim=1), f"EOT (id {view.eot_id})"
    if not bool(found.all()):
        require(
            False, what, "ids", f"have {name} in each row",
            f"none in row {int((~found).nonzero()[0])}",
        )  # fmt: skip
    if attention_mask is None:
        return
    require_shape(what, "attention_mask", attention_mask, tuple(ids.shape))
    inside = torch.arange(ids.shape[1], device=ids.device) <= eot[:, None]
    hidden = (attention_mask == 0) & inside
    if bool(hidden.any()):
        raise NotImplementedError(
            sentence(
                what,
                "attention_mask",
                "show all tokens up to EOT",
                f"0 before EOT in row {int(hidden.any(dim=1).nonzero()[0])}",
                "Pad after EOT, or call the tower itself.",
            )
        )


def require_equal_rows(what: str, prompts: Tensor, shared: int) -> None:
    """Raise ValueError if the shared tokens differ, where looking costs no host sync."""
    on_host = prompts.device.type == "cpu" and may_read_values()
    if shared == 0 or prompts.stride(0) == 0 or not on_host:
        return
    same = prompts[:, :shared] == prompts[:1, :shared]
    # NaN differs from itself, and is the caller's to have.
    same |= prompts[:, :shared].isnan() & prompts[:1, :shared].isnan()
    require(
        bool(same.all()), what, "prompts", f"be equal in their first {shared} tokens (shared)",
        "rows that differ", "Pass a smaller `shared`.",
    )  # fmt: skip
