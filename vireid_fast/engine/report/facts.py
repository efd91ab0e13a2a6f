"""What a report says about a run in words."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vireid_fast._version import __version__
from vireid_fast.config import Config
from vireid_fast.data.tracklets import TrackletTable
from vireid_fast.engine.checkpoint import follow
from vireid_fast.engine.data_setup import Table
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.retrieval.protocol import Protocol
from vireid_fast.retrieval.protocols import PROTOCOLS


def run_facts(
    run: RunFolder, config: Config, table: Table, processing: Mapping[str, str]
) -> dict[str, str]:
    """Words by name: method, data, protocol, checkpoint, features, version, machine."""
    own = config.evaluation
    made = json_object(run.path / "environment.json")
    data = config.data.name
    facts = {
        "run": run.path.resolve().name,
        "method": f"{config.method}, {config.clip.architecture}, seed {config.seed}",
        "data": f"{data}: {_test_part(table)}, {config.data.height} x {config.data.width} pixels",
        "protocol": f"{own.protocol}, mode {own.mode}",
        "CMC ranks": cmc_ranks(PROTOCOLS[own.protocol]),
        "checkpoint": _checkpoint(run),
        "features": ", ".join(f"{name} {words}" for name, words in processing.items()),
        "version": _version(made),
        "machine": _machine(made),
    }
    return {name: words for name, words in facts.items() if words}


def _test_part(table: Table) -> str:
    rows = table.rows("test")
    kind = "tracklets" if isinstance(table, TrackletTable) else "images"
    people = len(np.unique(table.person_ids[rows]))
    return f"{len(rows):,} test {kind} of {people:,} identities"


def cmc_ranks(rules: Protocol) -> str:
    """What a rank of the CMC counts, in words."""
    counted = "distinct identities" if rules.cmc == "identity" else "images or tracklets"
    return f"count {counted}"


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _checkpoint(run: RunFolder) -> str:
    folder, facts = follow(run.best)
    words = folder.name
    if "stage" in facts and "epoch" in facts:
        words = f"{facts['stage']} epoch {facts['epoch']}"
    rank = facts.get("rank")
    if isinstance(rank, list) and len(rank) == 2:
        words += f", chosen on validation identities: mAP {rank[0]:.1%}, R1 {rank[1]:.1%}"
    return words


def _version(made: Mapping[str, Any]) -> str:
    trained = made.get("vireid_fast")
    if trained in (None, __version__):
        return f"vireid_fast {__version__}"
    return f"vireid_fast {__version__}; trained with {trained}"


def _machine(made: Mapping[str, Any]) -> str:
    """Of the training, as environment.json has it."""
    parts = [
        f"{name} {made[key]}" if name else str(made[key])
        for key, name in (
            ("platform", ""), ("cuda", ""), ("python", "Python"), ("torch", "torch"),
            ("cpu_count", "CPUs"), ("threads", "threads"), ("processes", "processes"),
        )
        if made.get(key) is not None
    ]  # fmt: skip
    return ", ".join(parts)
