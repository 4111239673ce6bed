"""What ``hardfast report`` does."""

from __future__ import annotations

from pathlib import Path

from hardfast.report.html import build_report
from hardfast.report.load import load_run
from hardfast.report.tables import print_table, results_tables

__all__ = ["run"]


def run(path: Path) -> None:
    """Prints the results of a run, as far as it has come, and writes its report.

    Raises:
        FileNotFoundError, BrokenRunError, OSError: as :func:`build_report`.
    """
    loaded = load_run(path)
    if loaded.rows:
        for table in results_tables(loaded.rows):
            print_table(table)
        print(f"results  {path / 'results.json'}")
    else:
        print("no results yet")
    print(f"report   {build_report(path)}")
