"""The files of results: one for each machine and version."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .measure import Row

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Result:
    """A run of the benchmark: what :func:`bench.machine.describe` says, the measured rates, and the rows."""

    machine: dict[str, Any]
    rates: dict[str, dict[str, float]]
    rows: Sequence[Row]

    @property
    def file_name(self) -> str:
        """From the machine's name and hardfast's version; of a CPU also its cores and instruction set."""
        name = re.sub(r"[^a-z0-9]+", "-", self.machine["machine"].lower()).strip("-")
        if self.machine["device"] == "cpu":
            name += f"-{self.machine['cores']}-cores-{self.machine['cpu_isa']}"
        return f"{name}-{self.machine['hardfast']}.json"

    def path_at(self, target: Path) -> Path:
        """The file that results go to: ``target`` itself, or one of their own name in a folder.

        Raises:
            ValueError: they cannot be added to it.
        """
        path = target / self.file_name if target.is_dir() else target
        if path.suffix != ".json" or not path.parent.is_dir():
            raise ValueError(f"--json must be a folder that there is, or a .json file in one, got {target}")
        if path.exists():
            Result.read(path)
        return path

    def add_to(self, target: Path) -> Path:
        """Writes to a file, or under its own name into a folder; other cases in it stay, each with its commit."""
        path = self.path_at(target)
        rows, rates = list(self.rows), self.rates
        if path.exists():
            before, measured = Result.read(path), {row.case_name for row in self.rows}
            rows = [row for row in before.rows if row.case_name not in measured] + rows
            rates = before.rates | rates
        Result(self.machine, rates, rows).write(path)
        return path

    def write(self, path: Path) -> None:
        """Writes to a file, one line a row."""
        content = {"machine": self.machine, "rates": self.rates}
        head = json.dumps(content, indent=1)[:-2]
        rows = ",\n  ".join(json.dumps(row.to_json()) for row in self.rows)
        path.write_text(f'{head},\n "rows": [\n  {rows}\n ]\n}}\n')

    @classmethod
    def read(cls, path: Path) -> Result:
        try:
            content = json.loads(path.read_text())
            return cls(content["machine"], content["rates"], [Row.from_json(row) for row in content["rows"]])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} must be a file of results, got {error!r}") from error
