"""Report pages as the commands write them: of a run, of feature files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vireid_fast._checks import require, sentence
from vireid_fast.engine.extraction import Extraction
from vireid_fast.engine.report import report_of_features, report_of_run, report_of_runs
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.report.page import write_page
from vireid_fast.retrieval.results import EvaluationResult


def write_run_page(
    run: RunFolder,
    features: Extraction | None = None,
    results: Mapping[str, EvaluationResult] | None = None,
    *,
    out: Path | None = None,
    **options: Any,
) -> Path:
    """Write the report of a run.

    Args:
        run: The run.
        features: Its test features, where they are at hand.
        results: Its results, where they are at hand.
        out: Page; None: report.html of the run.
        **options: See `report_of_run`.

    Returns:
        Path of the page.

    Raises:
        ValueError: See `require_page` and `report_of_run`. OSError: The page cannot be written.
    """
    page = require_page(out or run.path / "report.html")
    write_page(report_of_run(run, features=features, results=results, **options), page)
    return page


def write_runs_page(
    runs: Sequence[RunFolder], results: Mapping[str, EvaluationResult], out: Path
) -> Path:
    """Write the joint report of several runs.

    Args:
        runs: The runs.
        results: Of `evaluate_runs`.
        out: Page.

    Returns:
        Path of the page.

    Raises:
        ValueError: See `require_page`. OSError: The page cannot be written.
    """
    page = require_page(out)
    write_page(report_of_runs(runs, results), page)
    return page


def write_features_page(
    query: Path | None = None,
    gallery: Path | None = None,
    features: Path | None = None,
    *,
    out: Path | None = None,
    **options: Any,
) -> Path:
    """Write the report of feature files.

    Args:
        query: See `report_of_features`, `gallery` and `features` too.
        gallery: See query.
        features: See query.
        out: Page; None: beside the features, or the query, under their name with .html.
        **options: See `report_of_features`.

    Returns:
        Path of the page.

    Raises:
        ValueError: See `require_page` and `report_of_features`. OSError: The page cannot be
            written.
    """
    source = features or query
    if source is None:
        raise ValueError(sentence("report", "source",
                                  "be a run, or --features, or --query with --gallery",
                                  "none"))  # fmt: skip
    page = require_page(out or source.with_suffix(".html"))
    write_page(report_of_features(query, gallery, features, **options), page)
    return page


def require_page(path: Path) -> Path:
    """`path`, if a page may be written there; refused before anything is computed.

    Raises:
        ValueError: It does not end in .html, or is a folder.
    """
    require(path.suffix in (".html", ".htm"), "report", str(path), "end in .html",
            repr(path.suffix))  # fmt: skip
    require(not path.is_dir(), "report", str(path), "be a file", "a folder")
    return path
