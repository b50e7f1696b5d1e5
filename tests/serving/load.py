"""Load on the servers of the tests, by the process of bench/serving_load.py, so that no server waits for what a test does."""

from bench.serving_load import Clients, Load, Report, run

__all__ = ["Clients", "Load", "Report", "run", "unharmed"]


def unharmed(report: Report, least: int = 1) -> Report:
    """The report, if no request failed and at least so many were answered; else an error that names the failures."""
    assert not report.failures, f"{len(report.failures)} of {len(report.records)} requests failed\n{report}"
    assert len(report.answered) >= least, f"{len(report.answered)} requests were answered, and {least} are needed\n{report}"
    return report
