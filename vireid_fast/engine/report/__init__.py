"""What a report holds, gathered from a run or from feature files."""

from vireid_fast.engine.report.of_features import report_of_features
from vireid_fast.engine.report.of_run import report_of_run
from vireid_fast.engine.report.of_runs import report_of_runs

__all__ = ["report_of_features", "report_of_run", "report_of_runs"]
