"""Peak memory of one call above what was loaded before it, and of the whole process.

python benchmarks/memory.py GROUP OP CASE PROVIDER    # prints both; one CPU provider per process

On the CPU a fresh process builds the case, calls the provider once (code, thread pools and
libraries' scratch space are then in place), resets the kernel's high-water mark and calls it again:
the figure is the mark above the resident memory before that call. Allocations of 64 KiB or more
come from the system and go back to it, so nothing freed before hides in the mark. A provider whose
time is taken in one call is called once here too. The whole process holds interpreter, torch and
inputs besides. On a GPU torch's allocator counts, and "whole" is all that it handed out.
"""

import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from cases import Case, Workload, find_case
from timing import Provider

_MAPPED_FROM = str(64 * 1024)
_SECONDS = 600


class Peak(NamedTuple):
    """Bytes at the peak.

    Attributes:
        call: One call of a provider above what was resident before it, its result included.
        whole: All that the process (on a GPU: torch's allocator) held.
    """

    call: int
    whole: int


def peak_memory(case: Case, provider: str, workload: Workload, device: torch.device) -> Peak:
    """Measure one provider.

    Args:
        case: Built anew in another process on the CPU.
        provider: Name of a provider of the case.
        workload: The case as it is built in this process; used on a GPU.
        device: Where it runs.

    Raises:
        RuntimeError: The measuring process failed; its error output is in the message.
    """
    if device.type == "cuda":
        return _peak_on_gpu(workload, provider, device)
    command = [sys.executable, str(Path(__file__).resolve()),
               case.group, case.op, case.name, provider]  # fmt: skip
    settings = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": _MAPPED_FROM,
        "MALLOC_TRIM_THRESHOLD_": _MAPPED_FROM,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    done = subprocess.run(
        command, env=settings, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"memory of {case}, {provider}:\n{done.stderr}")
    return Peak(*map(int, done.stdout.split()[-2:]))


def _peak_on_gpu(workload: Workload, name: str, device: torch.device) -> Peak:
    provider = _provider(workload, name)
    provider.run()
    gc.collect()
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    provider.run()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    return Peak(peak - before, peak)


def _peak_in_this_process(name: str, workload: Workload) -> Peak:
    provider = _provider(workload, name)
    if not provider.once:
        provider.run()
    gc.collect()
    earlier = _status("VmHWM")
    ctypes.CDLL(None).malloc_trim(0)
    # 5 resets the high-water mark to what is resident now (Linux).
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    result = provider.run()
    peak = _status("VmHWM")
    del result
    return Peak(peak - before, max(peak, earlier))


def _provider(workload: Workload, name: str) -> Provider:
    (provider,) = (one for one in workload.providers if one.name == name)
    return provider


def _status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def main() -> None:
    """Measure one provider of one case on the CPU."""
    group, op, name, provider = sys.argv[1:]
    workload = find_case(group, op, name, "cpu").build(torch.device("cpu"))
    print(*_peak_in_this_process(provider, workload))


if __name__ == "__main__":
    main()
