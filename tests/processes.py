"""Run a function in several processes that share a `World`, as torchrun would start them."""

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from vireid_fast.engine.distributed import World

# The server imports once; every process is a fork of it. Optimisers import torch._dynamo.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch", "torch._dynamo", "torch.utils.tensorboard", "vireid_fast.engine.workflow"]
)


def run_processes(
    function: Callable[..., Any],
    size: int,
    folder: Path,
    *args: Any,
    timeout: float = 60.0,
    join: float = 60.0,
) -> list[Any]:
    """What `function(world, *args)` returns in each process, or the exception that left it.

    Args:
        function: Importable by name.
        size: Number of processes.
        folder: Where results travel.
        args: Further arguments.
        timeout: Of `World.from_environment`.
        join: Seconds until processes are ended.

    Returns:
        One entry per process in rank order; None for a process that ended without a result.
    """
    return run_like_torchrun(_in_world, size, folder, function, timeout, args, join=join)


def run_like_torchrun(
    function: Callable[..., Any],
    size: int,
    folder: Path,
    *args: Any,
    join: float = 60.0,
    restarts: int = 0,
) -> list[Any]:
    """What `function(*args)` returns in processes that have torchrun's environment.

    Arguments and result as of `run_processes`, but for the world, which the function may make;
    `restarts` more times all processes are started anew, and the last results count.
    """
    folder.mkdir(exist_ok=True)
    # As torchrun's agent does, this process holds the store.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for attempt in range(restarts + 1):
        environment = {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(size),
            "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": str(attempt),
        }  # fmt: skip
        results = _start(function, size, folder, args, environment, join)
    return results


def _start(
    function: Callable[..., Any],
    size: int,
    folder: Path,
    args: tuple,
    environment: dict[str, str],
    join: float,
) -> list[Any]:
    processes = [
        CONTEXT.Process(target=_run, args=(function, rank, environment, folder, args))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + join
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    files = [folder / f"{rank}.pt" for rank in range(size)]
    return [torch.load(f, weights_only=False) if f.exists() else None for f in files]


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _in_world(function: Callable[..., Any], timeout: float, args: tuple) -> Any:
    with World.from_environment("cpu", timeout=timeout) as world:
        return function(world, *args)


def _run(
    function: Callable[..., Any], rank: int, environment: dict[str, str], folder: Path, args: tuple
) -> None:
    torch.set_num_threads(1)
    os.environ |= {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    try:
        result = function(*args)
    except Exception as error:
        traceback.print_exc()
        result = error
    torch.save(result, folder / f"{rank}.pt")
