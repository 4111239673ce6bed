"""What ``hardfast generate`` does once its arguments are known."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from hardfast.diffusion.generate import GenerationSummary, Maker, generate_images
from hardfast.diffusion.image_store import ImageStore
from hardfast.distill.processes import from_environment, local_rank
from hardfast.interruption import exit_status
from hardfast.ops import _checks
from hardfast.report.contact_sheet import build_contact_sheet
from hardfast.report.tables import Table, print_table

__all__ = ["GeneratingRecipe", "GenerationError", "run"]


class GenerationError(Exception):
    """The command cannot go on, and the message says all that the user needs."""


@runtime_checkable
class GeneratingRecipe(Protocol):
    """A recipe that can make images."""

    name: str
    group_size: int

    def resolved(self) -> GeneratingRecipe:
        """The recipe that is run, checked."""

    def values(self, *without: str) -> dict[str, Any]:
        """Every field with its value, nested ones with dots, but for those below the given names."""

    def maker(self, cache: Path, progress: bool) -> Maker:
        """Loads teacher, student and diffusion model from the cache, or makes them."""


def run(recipe: GeneratingRecipe, count: int, out: Path | None, format: str, cache: Path) -> int:
    """Generates images, or goes on with it, and writes the contact sheet.

    With torchrun, each process makes its share.

    Returns:
        Exit status: 0 done, 130 interrupted by Ctrl-C, 143 by SIGTERM.

    Raises:
        GenerationError: wrong settings, missing files, a full disk, or too little memory.
    """
    try:
        rank, world_size = from_environment("RANK", 0), from_environment("WORLD_SIZE", 1)
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank())
        first = rank == 0
        _checks.integer("count", count, 1)
        recipe = recipe.resolved()
        path = out or Path("generated") / recipe.name
        store = ImageStore(path, format, recipe=recipe.name, fields=recipe.values("execution"))
        store.check(count=count, group_size=recipe.group_size)  # before anything is trained
        if first:
            print(f"{recipe.name}: {count:,} candidates, writing to {path}", flush=True)
        maker = recipe.maker(cache, first)
        store.check(count=count, group_size=recipe.group_size, class_names=tuple(maker.class_names))
    except (ValueError, OSError, FloatingPointError, torch.OutOfMemoryError) as error:
        raise GenerationError(error) from error
    try:
        summary = generate_images(
            maker, count, store, group_size=recipe.group_size, rank=rank, world_size=world_size, progress=first
        )
        sheet = build_contact_sheet(path)
    except KeyboardInterrupt as stop:
        print(f"\ninterrupted; what is in {path} is whole, and the same command continues it", file=sys.stderr)
        return exit_status(stop)
    except (OSError, torch.OutOfMemoryError) as error:
        raise GenerationError(f"{error}\nwhat is in {path} is whole, and the same command continues it") from error
    if first:
        print_table(_table(summary, store.counts()))
        print(f"images         {path}\ncontact sheet  {sheet}")
    return 0


def _table(summary: GenerationSummary, counts: Mapping[str, int]) -> Table:
    rows = [[name, f"{count:,}"] for name, count in counts.items() if count or name == "kept"]
    rows.append(["made in this run", f"{summary.made:,}"])
    if summary.skipped:
        rows.append(["done before", f"{summary.skipped:,}"])
    if summary.broken:
        rows.append(["damaged groups made again", f"{len(summary.broken):,}"])
    if summary.made:
        rows.append(["images per second", f"{summary.images_per_second:.3g}"])
    return Table(["candidates", ""], rows, numeric=True)
