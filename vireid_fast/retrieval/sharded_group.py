"""The processes that hold a gallery together, and what they tell each other.

A world of one needs no `torch.distributed`: every method then answers from what this process has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast._collectives import (
    Broadcast,
    CollectiveError,
    all_gather,
    all_reduce_max,
    all_reduce_sum,
    group_rank,
    group_size,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Value = TypeVar("Value")

_ERRORS = {kind.__name__: kind for kind in (ValueError, TypeError, RuntimeError)}


class ShardGroup:
    """Processes that call the same methods in the same order.

    Args:
        group: A `torch.distributed` process group; None: the default one, or this process alone
            where none was made.
        device: Where tensors travel from and to: "cpu" for gloo, the process's GPU for NCCL.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    def __init__(self, group: ProcessGroup | None, device: torch.device) -> None:
        self.rank = group_rank(group)
        _checks.require(
            self.rank >= 0, "ShardGroup", "group", "contain this process", "a group without it",
            "Call this in the group's processes only.",
        )  # fmt: skip
        self.size = group_size(group)
        self.device = device
        self._group = group

    def sum(self, tensor: Tensor) -> Tensor:
        """Elementwise sum over processes; a process alone gets its own tensor back."""
        if self.size == 1:
            return tensor
        return all_reduce_sum(tensor.clone(), self._group)

    def maximum(self, tensor: Tensor) -> Tensor:
        """Elementwise maximum over processes."""
        if self.size == 1:
            return tensor
        return all_reduce_max(tensor.clone(), self._group)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes in rank order: of one dtype, whose first size may differ.

        What travels is as long as what a process has; nothing is padded.
        """
        if self.size == 1:
            return [tensor]
        lengths = self.counts(tensor.shape[0])
        parts = [tensor.new_empty((length, *tensor.shape[1:])) for length in lengths]
        parts[self.rank] = tensor.contiguous()
        on_their_way = [
            Broadcast(part, rank, self._group)
            for rank, part in enumerate(parts)
            if part.numel() > 0
        ]
        for broadcast in on_their_way:
            broadcast.wait()
        return parts

    def counts(self, *numbers: int) -> list[Any]:
        """The number of each process, in rank order; of several numbers, a tuple of each."""
        if self.size == 1:
            return [numbers[0] if len(numbers) == 1 else numbers]
        own = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        found = [tuple(part.tolist()) for part in all_gather(own, self._group)]
        return [each[0] if len(numbers) == 1 else each for each in found]

    def send(
        self, tensor: Tensor | None, shape: Sequence[int], dtype: torch.dtype, source: int
    ) -> Arrival:
        """Start a tensor of process `source` on its way to all.

        Args:
            tensor: What the source sends; not read in the others.
            shape: Its shape.
            dtype: Its dtype.
            source: Number of the sending process.
        """
        if tensor is None or self.rank != source:
            tensor = torch.empty(tuple(shape), dtype=dtype, device=self.device)
        if self.size == 1:
            return Arrival(tensor)
        return Arrival(tensor.contiguous(), source, self._group)

    def texts(self, text: str) -> list[str]:
        """The texts of all processes in rank order."""
        own = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)
        parts = self.gather(own.to(self.device))
        return [bytes(part.tolist()).decode().rstrip("\0") for part in parts]

    def agree(self, action: Callable[[], Value]) -> Value:
        """`action()`; what goes wrong in one process is raised in all, which then do not wait.

        Raises:
            ValueError, TypeError, RuntimeError: As the first process in which the action raises;
                among several processes the sentence ends with its number.
        """
        if self.size == 1:
            return action()
        result: Any = None
        failure = None
        try:
            result = action()
        except CollectiveError:
            raise
        except Exception as error:
            failure = error
        told = self.texts("" if failure is None else f"{_kind(failure)} {failure}")
        for rank, text in enumerate(told):
            if text:
                kind, _, message = text.partition(" ")
                raise _ERRORS[kind](f"{message} (process {rank})") from failure
        return result


class Arrival:
    """A tensor that this process has, or that is on its way to it."""

    def __init__(
        self, tensor: Tensor, source: int | None = None, group: ProcessGroup | None = None
    ) -> None:
        self._tensor = tensor
        self._broadcast = None
        if source is not None and tensor.numel() > 0:
            self._broadcast = Broadcast(tensor, source, group)

    def wait(self) -> Tensor:
        """The tensor, once it is here."""
        return self._tensor if self._broadcast is None else self._broadcast.wait()


def _kind(error: Exception) -> str:
    """Name of the listed type that an error is of, or of the type of what nobody expects."""
    return next((n for n, kind in _ERRORS.items() if isinstance(error, kind)), "RuntimeError")
