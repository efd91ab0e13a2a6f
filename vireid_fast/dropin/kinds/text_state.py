"""What the text kinds have in common: the encoder over a foreign tower, and its validity."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vireid_fast._checks import may_read_values
from vireid_fast.dropin.kinds.base import UnsuitableError
from vireid_fast.nn.prompt_text_encoder import PromptTextEncoder

_ID_DTYPES = (torch.int64, torch.int32)


@dataclass
class EotCache:
    """Places of EOT in a tensor of token ids, read once.

    Attributes:
        ids: The tensor.
        version: Its version counter when it was read.
        places: Place of EOT in each row.
    """

    ids: Tensor
    version: int
    places: tuple[int, ...]


@dataclass
class TextState:
    """State of an accelerated text tower.

    Attributes:
        encoder: Reads the tower's parameters where they are.
        passed_by: Modules of the tower that the encoder does not call, as they were then.
        learners: Prompt learners whose prefix the prompts may begin with.
        eot: Last places of EOT.
    """

    encoder: PromptTextEncoder
    passed_by: tuple[nn.Module, ...]
    learners: tuple[nn.Module, ...] = ()
    eot: EotCache | None = None

    def is_valid(self, modules: Iterable[nn.Module]) -> bool:
        """Whether the tower still has the modules it had."""
        now = tuple(modules)
        return len(now) == len(self.passed_by) and all(
            a is b for a, b in zip(now, self.passed_by, strict=True)
        )

    def encode_tokens(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor | None:
        """Features of token ids (B, L); None where the tower itself must be called."""
        if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.dtype not in _ID_DTYPES:
            return None
        eot_id = self.encoder.view.eot_id
        if eot_id is not None and may_read_values() and not bool((ids == eot_id).any(dim=1).all()):
            return None
        try:
            return self.encoder.encode_tokens(ids.long(), attention_mask)
        except NotImplementedError:
            # Dropout or hooks came after `accelerate`, or the mask hides tokens before EOT.
            return None

    def encode_embeddings(self, x: Tensor, eot: int | Tensor, shared: int) -> Tensor | None:
        """Features of embeddings with positions; None where the tower itself must be called."""
        try:
            return self.encoder.encode_embeddings(x, eot, shared)
        except NotImplementedError:
            return None


def text_state(tower: nn.Module, passed_by: Iterable[nn.Module]) -> TextState:
    """The state of a tower, if the shortcut is exact for it.

    Raises:
        UnsuitableError: It is not.
    """
    try:
        encoder = PromptTextEncoder(tower)
    except NotImplementedError as error:
        raise UnsuitableError(str(error)) from error
    return TextState(encoder, tuple(passed_by))


def clip_text_modules(tower: nn.Module) -> Iterator[nn.Module]:
    """The modules of an OpenAI-shaped text tower."""
    yield from tower.transformer.modules()
    yield tower.ln_final
    if isinstance(getattr(tower, "token_embedding", None), nn.Module):
        yield tower.token_embedding
