"""Several processes that train as one.

Every process encodes its part of a batch, gathers the features of all, and computes the same loss
L of the whole batch. The trainer divides L by the number of processes n, goes backward, and sums
the gradients of every parameter over the processes. The result is the gradient of L itself:

- Behind the gather each process finds dL/dw / n, and n of them sum to dL/dw.
- The gather's backward sums dL/df / n over the processes, so each sends dL/df of its own rows f
  into its encoder; a parameter's sum over processes is then its sum over all rows.
"""

import math
import os
import pickle
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vireid_fast._checks import require, sentence
from vireid_fast._collectives import CollectiveError, all_gather, all_reduce_sum
from vireid_fast.engine.failures import (
    FAILED,
    explain,
    left_alone,
    mark,
    report_failure,
    tell_loss,
)
from vireid_fast.engine.launch import WHAT, place_of, read_environment
from vireid_fast.engine.liveness import WORDLESS, Loss, Watch, process_name

BUCKET = 1 << 23
"""Elements of the gradients that are summed in one message, at least: 32 MiB of float32."""

_CONNECT = 30.0
"""Seconds in which processes that have met connect to the first one."""

Value = TypeVar("Value")


class World:
    """The processes of a run; one alone does nothing that costs.

    Used as a context manager it ends the process group, tells the others when this process fails,
    and names the process that failed first when this one is left alone.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        device: Device of this process.
    """

    def __init__(self, rank: int, size: int, device: str, store: dist.Store | None = None) -> None:
        self.rank = rank
        self.size = size
        self.device = device
        self._store = store
        self._calls = 0
        self._names = [process_name(rank)]
        self._watch: Watch | None = None

    @classmethod
    def single(cls, device: str = "cpu") -> "World":
        """This process alone."""
        return cls(0, 1, device)

    @classmethod
    def from_environment(cls, device: str = "cpu", *, timeout: float = 60.0) -> "World":
        """The processes that torchrun started, or this one alone.

        CPU tensors travel by gloo, CUDA tensors by NCCL; each process has the GPU of its
        LOCAL_RANK.

        Args:
            device: "cpu" or "cuda".
            timeout: Seconds after which a process that waits for the tensors of another gives up.

        Raises:
            ValueError: A variable of torchrun or the device does not fit.
            CollectiveError: The other processes did not come within `timeout`.
        """
        if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
            return cls.single(device)
        rank, size, local = read_environment()
        if size == 1:
            return cls.single(device)
        place = place_of(device, local)
        limit = timedelta(seconds=timeout)
        backend = "gloo" if place == "cpu" else "cpu:gloo,cuda:nccl"
        try:
            store, _, _ = next(iter(dist.rendezvous("env://", timeout=limit)))
            # What a failed attempt left in the store must not meet those that torchrun restarts.
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = dist.PrefixStore(attempt, store)
            dist.init_process_group(
                backend, store=dist.PrefixStore("group", store), rank=rank, world_size=size,
                timeout=limit,
            )  # fmt: skip
        except RuntimeError as error:
            raise CollectiveError(
                sentence(
                    WHAT, f"all {size} processes", f"meet within {timeout:g} s",
                    str(error).rstrip("."), "See what the other processes printed.",
                )
            ) from error  # fmt: skip
        world = cls(rank, size, place, dist.PrefixStore("world", store))
        world._watch_others(timeout)
        return world

    def _watch_others(self, timeout: float) -> None:
        """Learn the others' names, and from now on of their deaths."""
        store = self._shared
        self._names = self.gather_objects(process_name(self.rank))
        self._watch = Watch(
            store, self.rank, self._names, os.environ["MASTER_ADDR"],
            lambda loss: tell_loss(store, loss.text), min(timeout, _CONNECT),
        )  # fmt: skip

    @property
    def is_main(self) -> bool:
        """Whether this process writes, logs and validates."""
        return self.rank == 0

    def row_slice(self, count: int) -> slice:
        """This process's rows of `count`, in rank order; the first ranks may have one more."""
        short, longer = divmod(count, self.size)
        start = self.rank * short + min(self.rank, longer)
        return slice(start, start + short + (self.rank < longer))

    def identity_slice(self, identities: int, instances: int) -> slice:
        """This process's rows of a batch of P identities in turn, K rows each.

        Args:
            identities: P, a multiple of the number of processes.
            instances: K.

        Raises:
            ValueError: P cannot be shared equally.
        """
        lower = identities - identities % self.size
        fitting = [str(number) for number in (lower, lower + self.size) if number]
        require(
            identities % self.size == 0, WHAT, "identities",
            f"be a multiple of the {self.size} processes", identities,
            f"Set sampler.identities to {' or '.join(fitting)}, or start another number of them.",
        )  # fmt: skip
        rows = identities // self.size * instances
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def gather(self, tensor: Tensor) -> Tensor:
        """Rows of all processes in rank order, with gradient.

        Backward sums the gradients that arrive in all processes and hands each its own rows, see
        the top of this file.

        Args:
            tensor: Shape (b, ...); b may differ between processes and be 0.

        Returns:
            Shape (sum of all b, ...).

        Raises:
            ValueError: Rows of another size, or a gradient wanted in some processes only.
        """
        if self.size == 1:
            return tensor
        require(tensor.dim() > 0, WHAT, "a gathered tensor", "have rows", "a scalar")
        wanted = tensor.requires_grad and torch.is_grad_enabled()
        # Sizes travel as CPU tensors, which no GPU is waited for.
        head = torch.tensor([len(tensor), math.prod(tensor.shape[1:]), int(wanted)])
        heads = [tuple(other.tolist()) for other in all_gather(head)]
        require(
            len({head[1:] for head in heads}) == 1, WHAT, "gathered tensors",
            "have rows of one size and alike require a gradient in all processes",
            f"(rows, row size, gradient) {', '.join(map(str, heads))}",
        )  # fmt: skip
        return _Gather.apply(tensor, [head[0] for head in heads], self.rank)

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in place.

        A gradient that is None in some processes counts as zeros there; one that is None in all
        stays None, so that the optimiser skips it as it does in one process.

        Args:
            parameters: The same ones in the same order in every process.
        """
        if self.size == 1:
            return
        parameters = list(parameters)
        given = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
        present: list[int] = all_reduce_sum(given).tolist()
        waiting: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for parameter, processes in zip(parameters, present, strict=True):
            if not processes:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket = waiting.setdefault((parameter.grad.dtype, parameter.grad.device), [])
            bucket.append(parameter.grad)
            if sum(gradient.numel() for gradient in bucket) >= BUCKET:
                _sum_together(bucket)
                bucket.clear()
        for bucket in waiting.values():
            _sum_together(bucket)

    def first(self, build: Callable[[], Value]) -> Value:
        """`build()` in the first process, then in the others, which find what it left on disk."""
        if not self.is_main:
            self.barrier()
            return build()
        value = build()
        self.barrier()
        return value

    def broadcast_object(self, value: Any) -> Any:
        """The first process's value, which may take it any time to make; pickled."""
        if self.size == 1:
            return value
        key = self._key("object")
        if self.is_main:
            self._shared.set(key, pickle.dumps(value))  # type: ignore[arg-type]  # bytes will do
            return value
        return self._read(key)

    def gather_objects(self, value: Any) -> list[Any]:
        """The values of all processes in rank order; pickled, for a few small ones."""
        if self.size == 1:
            return [value]
        key = self._key("objects")
        own = pickle.dumps(value)
        self._shared.set(f"{key}/{self.rank}", own)  # type: ignore[arg-type]  # bytes will do
        return [self._read(f"{key}/{rank}") for rank in range(self.size)]

    def barrier(self) -> None:
        """Wait for all processes, however long one works alone."""
        if self.size == 1:
            return
        key = self._key("barrier")
        if self._shared.add(key, 1) == self.size:
            self._shared.set(f"{key}/open", "")
        self._wait(f"{key}/open")

    def close(self) -> None:
        """End the process group, all processes together; called twice it does nothing."""
        if self._store is None:
            return
        self.barrier()
        if self._watch is not None:
            self._watch.close(farewell=True)
            self._watch = None
        # The first process may hold the store, so it is the last to leave.
        key = self._key("left")
        if self._store.add(key, 1) == self.size:
            self._store.set(f"{key}/all", "")
        if self.is_main:
            self._wait(f"{key}/all")
        dist.destroy_process_group()
        self._store = None

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        elif self._store is not None:
            self._abandon(error)

    def _abandon(self, error: BaseException) -> None:
        """Leave without the others, who shall know why; name who failed before this process."""
        store, self._store = self._shared, None
        # Whoever was interrupted may have been so on account of another, which it then names.
        lost = self._loss(wait=0.0 if isinstance(error, Exception) else 1.0)
        if lost is not None and not isinstance(error, Exception):
            named = mark(left_alone(lost.text), shown_elsewhere=self.rank > 0)
            raise self._shown_once(named) from error
        if not isinstance(error, CollectiveError):
            report_failure(store, self._names[self.rank], error)
        if self.device == "cpu":
            # Closed connections wake the others. NCCL would wait for them instead.
            dist.destroy_process_group()
        if isinstance(error, CollectiveError):
            found = explain(store, self.rank, self._names, error)
            raise self._shown_once(found) from error

    def _shown_once(self, error: CollectiveError) -> CollectiveError:
        """Marked: of a death the first process tells, or the next one where the first is dead."""
        for rank, name in enumerate(self._names):
            if f"{name} {WORDLESS}" in str(error):
                return mark(error, shown_elsewhere=self.rank > int(rank == 0))
        return error

    def _loss(self, wait: float) -> Loss | None:
        """Who has died, as far as this process knows now or `wait` seconds later."""
        # The connections stay open until this process ends: the others must be told why first.
        watch, self._watch = self._watch, None
        if watch is None:
            return None
        watch.leave()
        if watch.loss is None:
            time.sleep(wait)
        return watch.loss

    @property
    def _shared(self) -> dist.Store:
        """The store, of which there is one where there are several processes."""
        assert self._store is not None
        return self._store

    def _key(self, kind: str) -> str:
        self._calls += 1
        return f"{self._calls}/{kind}"

    def _read(self, key: str) -> Any:
        self._wait(key)
        return pickle.loads(self._shared.get(key))

    def _wait(self, key: str) -> None:
        """Wait for a key, without limit while no process has failed.

        Polls, because a wait in the store that times out writes warnings to the terminal.
        """
        pause = 0.001
        try:
            while not self._shared.check([key]):
                if self._shared.check([FAILED]):
                    raise left_alone(self._shared.get(FAILED).decode())
                time.sleep(pause)
                pause = min(2 * pause, 0.2)
        except dist.DistError as error:
            raise left_alone(str(error)) from error


class _Gather(torch.autograd.Function):
    """All rows in rank order; backward: this process's rows of the summed gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, counts: list[int], rank: int) -> Tensor:
        ctx.start = sum(counts[:rank])
        ctx.count = counts[rank]
        padded = tensor
        if len(tensor) < max(counts):
            padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
            padded[: len(tensor)] = tensor
        parts = all_gather(padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        wide = torch.promote_types(grad.dtype, torch.float32)
        total = all_reduce_sum(grad.to(wide, copy=True, memory_format=torch.contiguous_format))
        return total[ctx.start : ctx.start + ctx.count].to(grad.dtype), None, None


def _sum_together(gradients: list[Tensor]) -> None:
    if not gradients:
        return
    flat = all_reduce_sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
