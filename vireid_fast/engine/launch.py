"""What torchrun tells a process of its place among the others."""

import os

import torch

from vireid_fast._checks import require

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets."""

WHAT = "distributed"


def require_one_process(what: str) -> None:
    """Refuse to run a command that is not shared by processes under torchrun."""
    size = os.environ.get("WORLD_SIZE", "1")
    require(size == "1", what, "WORLD_SIZE", "be 1 or absent", size, "Start it without torchrun.")


def read_environment() -> tuple[int, int, int]:
    """RANK, WORLD_SIZE and LOCAL_RANK.

    Raises:
        ValueError: A variable is absent or does not fit.
    """
    remedy = "Start with torchrun --nproc-per-node N -m vireid_fast train ..."
    absent = [name for name in VARIABLES if name not in os.environ]
    require(
        not absent, WHAT, "the environment", f"hold {', '.join(VARIABLES)} or neither RANK nor "
        "WORLD_SIZE", f"no {', '.join(absent)}", remedy,
    )  # fmt: skip
    values = []
    for name in VARIABLES[:3]:
        text = os.environ[name]
        require(text.isdecimal(), WHAT, name, "be a number", repr(text), remedy)
        values.append(int(text))
    rank, size, local = values
    require(rank < size, WHAT, "RANK", f"be below WORLD_SIZE {size}", rank, remedy)
    return rank, size, local


def place_of(device: str, local: int) -> str:
    """Device of the process with this local rank.

    Raises:
        ValueError: There is no such device.
    """
    require(
        device in ("cpu", "cuda"), WHAT, "device", "be cpu or cuda with several processes",
        repr(device), "Each process takes the GPU of its LOCAL_RANK.",
    )  # fmt: skip
    if device == "cpu":
        return device
    count = torch.cuda.device_count()
    require(
        local < count, WHAT, "LOCAL_RANK", f"be below the {count} GPUs of this machine", local,
        "Start at most as many processes as there are GPUs, or add device=cpu.",
    )  # fmt: skip
    torch.cuda.set_device(local)
    return f"cuda:{local}"
