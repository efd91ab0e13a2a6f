"""The few collectives that everything distributed is made of, with their errors.

All run on the default process group, or on `group`; every process must reach them in the same
order.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from vireid_fast._checks import sentence


class CollectiveError(RuntimeError):
    """Another process did not take part: it failed, ended, or went another way."""


def group_size(group: dist.ProcessGroup | None = None) -> int:
    """Number of processes; 1 where no process group was made."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)


def group_rank(group: dist.ProcessGroup | None = None) -> int:
    """Number of this process in the group; 0 where no process group was made."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0
    return dist.get_rank(group)


def all_reduce_sum(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Sum over processes, the same bits on each. `tensor` is overwritten and returned."""
    with _named("all_reduce"):
        dist.all_reduce(tensor, group=group)
    return tensor


def all_reduce_max(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Elementwise maximum over processes. `tensor` is overwritten and returned."""
    with _named("all_reduce"):
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=group)
    return tensor


class Broadcast:
    """A tensor of one process on its way to all others.

    Args:
        tensor: Contiguous. What process `source` sends; in the others, of the same shape and dtype,
            it is overwritten. Not to be touched before `wait`.
        source: Number of the sending process in the group.
        group: The processes.
    """

    def __init__(
        self, tensor: Tensor, source: int, group: dist.ProcessGroup | None = None
    ) -> None:
        self._tensor = tensor
        with _named("broadcast"):
            self._work = dist.broadcast(tensor, group=group, group_src=source, async_op=True)

    def wait(self) -> Tensor:
        """The tensor, once it has arrived."""
        with _named("broadcast"):
            self._work.wait()
        return self._tensor


def all_gather(tensor: Tensor, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """The tensors of all processes in rank order, which have one shape and dtype."""
    tensor = tensor.contiguous()
    parts = [torch.empty_like(tensor) for _ in range(group_size(group))]
    with _named("all_gather"):
        dist.all_gather(parts, tensor, group=group)
    return parts


@contextmanager
def _named(operation: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise CollectiveError(
            sentence(
                "distributed", f"all processes' {operation}", "be reached by each of them",
                _cause(error), "See what the other processes printed.",
            )
        ) from error  # fmt: skip


def _cause(error: RuntimeError) -> str:
    """What gloo says, without its place in the source and its advice."""
    text = re.sub(r"^\[\S+\] ", "", str(error))
    return text.partition(" This is typically")[0].rstrip(".")
