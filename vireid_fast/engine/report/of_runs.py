"""The report of several runs that make one result, as RegDB's ten splits do."""

from collections.abc import Mapping, Sequence

from vireid_fast._version import __version__
from vireid_fast.engine.report.curves import cmc_curve
from vireid_fast.engine.report.facts import cmc_ranks
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.report.content import Report
from vireid_fast.retrieval.protocols import PROTOCOLS
from vireid_fast.retrieval.results import EvaluationResult


def report_of_runs(
    runs: Sequence[RunFolder], results: Mapping[str, EvaluationResult]
) -> Report:
    """What runs have in common: the joined results and their CMC; the rest is on each run's page.

    Args:
        runs: The runs, at least one.
        results: Of `evaluate_runs`, with the trials of all runs.
    """
    config = runs[0].config()
    own = config.evaluation
    seeds = sorted({run.config().seed for run in runs})
    facts = {
        "runs": ", ".join(str(run.path) for run in runs),
        "method": f"{config.method}, {config.clip.architecture}, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}",
        "data": config.data.name,
        "protocol": f"{own.protocol}, mode {own.mode}",
        "CMC ranks": cmc_ranks(PROTOCOLS[own.protocol]),
        "version": f"vireid_fast {__version__}",
    }
    note = (
        "Ranked lists, distances, map and training belong to one model each: see report.html in "
        "the folder of each run."
    )
    return Report(
        title=f"{config.method} on {config.data.name}, {len(runs)} runs",
        facts=facts,
        results=dict(results),
        cmc=tuple(cmc_curve(name, result) for name, result in results.items()),
        notes=(note,),
    )
