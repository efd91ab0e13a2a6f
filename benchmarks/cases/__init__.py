"""The benchmark cases by group: inputs at real sizes, providers, correctness gate and floors.

A group is one module here, one result file a device and one table. SYSU-MM01 all-search
single-shot has 3803 queries and 301 gallery images, RegDB 2060 and 2060; CLIP features have 2048
(RN50 map), 1024 or 512 (projected) values; 395 identities train on SYSU-MM01.
"""

from cases import (
    accelerate,
    attention,
    attention_pool,
    diffusion,
    evaluation,
    extraction,
    injection,
    large_galleries,
    method_steps,
    metric_losses,
    neighbours,
    ops,
    rerank,
    stfl,
    text_tower,
)
from cases.case import DEVICES, Case, Workload

GROUPS: dict[str, tuple[Case, ...]] = {
    module.__name__.rpartition(".")[2]: module.CASES
    for module in (
        text_tower, attention, injection, attention_pool, accelerate, metric_losses, method_steps,
        extraction, stfl, diffusion, rerank, neighbours, evaluation, large_galleries, ops,
    )
}  # fmt: skip

__all__ = ["DEVICES", "GROUPS", "Case", "Workload", "cases_on", "find_case"]


def cases_on(device: str) -> list[Case]:
    """All cases that are measured on a device type."""
    return [case for cases in GROUPS.values() for case in cases if device in case.devices]


def find_case(group: str, op: str, name: str, device: str) -> Case:
    """The case of that name."""
    key = (group, op, name)
    (case,) = (one for one in cases_on(device) if (one.group, one.op, one.name) == key)
    return case
