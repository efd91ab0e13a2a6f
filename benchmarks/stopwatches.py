"""Clocks: the host's, CUDA events around eager calls, and the replay of a CUDA graph."""

import time
from collections.abc import Callable
from typing import Any

import torch

Run = Callable[[], Any]
Stopwatch = Callable[[int], float]
"""Takes a number of calls, returns seconds per call."""

# Calls in one captured graph: enough to hide the replay's own launch and to rotate input sets.
_GRAPH_CALLS = 20
_GRAPH_SECONDS = 0.1
_CALLS_BEFORE_CAPTURE = 3


class CaptureError(RuntimeError):
    """A provider cannot be captured into a CUDA graph."""


def stopwatches(device: torch.device, graphs: bool) -> dict[str, Callable[..., Stopwatch]]:
    """Clocks of a device by name; each is made from a provider's function and the device."""
    if device.type != "cuda":
        return {"host": host_stopwatch}
    return {"eager": event_stopwatch, **({"graph": graph_stopwatch} if graphs else {})}


def host_stopwatch(run: Run, device: torch.device) -> Stopwatch:
    """Wall time, the device's work included."""

    def measure(calls: int) -> float:
        _synchronize(device)
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        _synchronize(device)
        return (time.perf_counter() - begin) / calls

    return measure


def event_stopwatch(run: Run, device: torch.device) -> Stopwatch:
    """Time between two CUDA events around eager calls: launches bound small ones."""

    def measure(calls: int) -> float:
        return _between_events(run, calls, device) / calls

    return measure


def graph_stopwatch(run: Run, device: torch.device) -> Stopwatch:
    """Time per call in the replay of one captured graph of several calls.

    The current stream is captured, which must not be the default one.

    Raises:
        CaptureError: The calls cannot be captured, for instance because they wait for the device.
    """
    for _ in range(_CALLS_BEFORE_CAPTURE):
        run()
    long = host_stopwatch(run, device)(1) > _GRAPH_SECONDS / _GRAPH_CALLS
    inside = 1 if long else _GRAPH_CALLS
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream(device)):
            for _ in range(inside):
                run()
    except RuntimeError as error:
        torch.cuda.synchronize(device)
        raise CaptureError(f"no CUDA graph: {str(error).splitlines()[0]}") from error

    def measure(calls: int) -> float:
        replays = -(-calls // inside)
        return _between_events(graph.replay, replays, device) / (replays * inside)

    return measure


def _between_events(run: Run, calls: int, device: torch.device) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1e3


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
