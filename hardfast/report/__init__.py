"""Pictures and tables of a run."""

from hardfast.report.html import build_report
from hardfast.report.load import BrokenRunError, load_run
from hardfast.report.tables import print_table, results_tables

__all__ = ["BrokenRunError", "build_report", "load_run", "print_table", "results_tables"]
