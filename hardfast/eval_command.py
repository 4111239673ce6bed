"""What ``hardfast eval`` does once its arguments are known."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import time
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import nn

from hardfast.data.evaluation_sets import EVALUATION_SETS, EvaluationPart, open_set
from hardfast.distill.evaluate import SetMetrics, measure
from hardfast.distill.evaluation_rows import EvaluationRow, read_rows, write_rows
from hardfast.distill.processes import LostProcessError, Processes, joined, told_of_loss
from hardfast.models.networks import load_weights
from hardfast.ops import _checks
from hardfast.recipes import RECIPES
from hardfast.recipes.hard_recipe import HardRecipe
from hardfast.report.evaluation import METRICS, build_evaluation, metric_tables
from hardfast.report.tables import print_table

__all__ = ["EvaluationError", "Weights", "recipe_of_run", "run"]

Weights = Literal["last", "best", "ema"]
_TEACHER = "teacher"
_OWN_SET = "test"
_ALL = "all"
_Config = TypeVar("_Config")


class EvaluationError(Exception):
    """The command cannot go on, and the message says all that the user needs."""


class _Trained(NamedTuple):
    """A network of a run."""

    method: str
    seed: int


def run(
    run: Path,
    sets: Sequence[str],
    roots: Sequence[Path],
    methods: Sequence[str],
    weights: Weights | None,
    device: Literal["auto", "cpu", "cuda"],
    batch_size: int,
) -> int:
    """Evaluates the methods of a run on the sets, prints tables, writes evaluation.json and evaluation.html.

    With torchrun, its processes share the images; what they find is what one process finds, to the last digit.

    Returns:
        Exit status 0.

    Raises:
        EvaluationError: wrong settings, missing or damaged files, a full disk.
    """
    try:
        with joined() as processes, told_of_loss(processes):
            _run(run, sets, roots, methods, weights, device, batch_size, processes)
    except (ValueError, OSError, LostProcessError, torch.OutOfMemoryError) as error:
        raise EvaluationError(error) from error
    return 0


def _run(
    run: Path,
    sets: Sequence[str],
    roots: Sequence[Path],
    methods: Sequence[str],
    weights: Weights | None,
    device: Literal["auto", "cpu", "cuda"],
    batch_size: int,
    processes: Processes,
) -> None:
    start = time.perf_counter()
    _checks.integer("batch_size", batch_size, 1)
    recipe = dataclasses.replace(recipe_of_run(run), device=device)
    weights = weights or ("ema" if recipe.ema_decay else "last")
    processes.from_first(lambda: read_rows(run))  # a damaged file is found before anything is computed
    names = _chosen_sets(recipe, sets)
    with recipe.machine() as machine_device:
        networks, unfinished = _load_networks(recipe, run, methods, weights, machine_device)
        skipped = [f"{key.method} of seed {key.seed} is left out: its training has not ended" for key in unfinished]
        for name in names:
            try:
                rows = list(_evaluate(recipe, name, roots, networks, methods, weights, batch_size, processes))
            except FileNotFoundError as error:
                if _ALL not in sets:
                    raise
                skipped.append(f"{name} is left out: {error}")
                continue
            if processes.first:
                write_rows(run, rows, time.perf_counter() - start)
    if not processes.first:
        return
    everything = read_rows(run)
    for sentence in skipped:
        print(sentence)
    if not everything:
        raise EvaluationError(f"none of the sets was found: {', '.join(names)}; say where they are with --root")
    for table in metric_tables(everything):
        print_table(table)
    print(f"evaluation  {run / 'evaluation.json'}\npage        {build_evaluation(run, everything)}")


def recipe_of_run(run: Path) -> HardRecipe:
    """The recipe of a run, with the values that its config.json has.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: it is damaged, or not of a recipe of HARD as this version knows it.
    """
    path = run / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give the directory of a run, such as runs/RECIPE/TIME")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        name = config["recipe"]
        values = {field: entry["value"] for field, entry in config["fields"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must be what `hardfast train` wrote, got: {error!r}") from error
    recipe = RECIPES.get(name)
    if not isinstance(recipe, HardRecipe):
        known = [key for key, other in RECIPES.items() if isinstance(other, HardRecipe)]
        raise ValueError(f"{path} must be of one of the recipes {known}, got {name!r}")
    restored = _with_values(recipe, values)
    if values:
        raise ValueError(f"{path} must have only fields that {name} has in this version, got {', '.join(values)}")
    return restored


def _with_values(config: _Config, values: dict[str, Any], prefix: str = "") -> _Config:
    """Takes the values of the fields out of ``values``; fields that are not there keep theirs."""
    changes: dict[str, Any] = {}
    hints = typing.get_type_hints(type(config))
    for item in dataclasses.fields(config):  # type: ignore[arg-type]
        name, value = prefix + item.name, getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            changes[item.name] = _with_values(value, values, f"{name}.")
        elif name in values:
            changes[item.name] = _from_json(values.pop(name), hints[item.name])
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _from_json(value: Any, hint: Any) -> Any:
    """What JSON has made text and lists of, as the field has it."""
    if isinstance(value, list):
        return tuple(_from_json(item, hint) for item in value)
    if isinstance(value, str) and "Path" in str(hint):
        return Path(value)
    return value


def _chosen_sets(recipe: HardRecipe, sets: Sequence[str]) -> list[str]:
    valid = [_OWN_SET, *EVALUATION_SETS, _ALL]
    if not sets:
        raise ValueError(f"--sets must name at least one of {', '.join(valid)}")
    for name in sets:
        if name not in valid:
            raise ValueError(f"--sets must be of {', '.join(valid)}, got {name!r}")
    shape, classes = recipe.image_shape, recipe.classes
    fitting = [_OWN_SET, *(name for name, entry in EVALUATION_SETS.items() if entry.fits(shape, classes))]
    for name in sets:
        if name not in (*fitting, _ALL):
            raise ValueError(
                f"{name} is for {EVALUATION_SETS[name].wants()}, and {recipe.name} has {classes} classes and images "
                f"{list(shape)}; sets that fit: {', '.join(fitting)}"
            )
    return fitting if _ALL in sets else list(dict.fromkeys(sets))


def _load_networks(
    recipe: HardRecipe, run: Path, methods: Sequence[str], weights: Weights, device: torch.device
) -> tuple[dict[_Trained, nn.Module], list[_Trained]]:
    """The chosen methods and all teachers, these as they taught: with their last weights; and what is still trained."""
    found = {}
    for path in sorted(run.glob("*/seed-*")):
        if re.fullmatch(r"seed-\d+", path.name):
            key = _Trained(path.parent.name, int(path.name.removeprefix("seed-")))
            found[key] = path / f"{'last' if key.method == _TEACHER else weights}.safetensors"
    files = {key: path for key, path in found.items() if path.is_file()}
    trained = {key: path for key, path in files.items() if (path.parent / "tested.json").is_file()}
    there = list(dict.fromkeys(key.method for key in trained))
    for method in methods:
        if method not in there:
            raise FileNotFoundError(
                f"{run / method}/seed-N/{weights}.safetensors is missing, or its training has not ended; "
                f"methods that have it: {', '.join(there) or 'none'}"
            )
    students = {key.method for key in found} - {_TEACHER}
    if weights != "last" and students.isdisjoint(key.method for key in files):
        raise FileNotFoundError(f"{run} has no METHOD/seed-N/{weights}.safetensors of a student: try other --weights")
    if not there:
        raise FileNotFoundError(
            f"{run} has no METHOD/seed-N/{weights}.safetensors of a training that has ended; has any student been "
            "trained to its end?"
        )
    chosen = {key: path for key, path in sorted(files.items()) if not methods or key.method in (*methods, _TEACHER)}
    networks = {key: _load_network(recipe, key, path).to(device) for key, path in chosen.items() if key in trained}
    return networks, [key for key in chosen if key not in trained]


def _load_network(recipe: HardRecipe, key: _Trained, path: Path) -> nn.Module:
    # Without the files that weights once came from: the run has them.
    untrained = dataclasses.replace(recipe, teacher=dataclasses.replace(recipe.teacher, weights=""), student_weights="")
    return load_weights((untrained.make_teacher if key.method == _TEACHER else untrained.make_student)(key.seed), path)


def _evaluate(
    recipe: HardRecipe,
    name: str,
    roots: Sequence[Path],
    networks: Mapping[_Trained, nn.Module],
    methods: Sequence[str],
    weights: Weights,
    batch_size: int,
    processes: Processes,
) -> Iterator[EvaluationRow]:
    """The rows of one set."""
    teachers = {
        key: _Trained(_TEACHER, key.seed)
        for key in networks
        if key.method != _TEACHER and (_TEACHER, key.seed) in networks
    }
    for part in _parts(recipe, name, roots):
        label = " ".join(str(word) for word in (name, part.corruption, part.severity) if word is not None)
        found = measure(
            networks,
            part.images,
            teachers=teachers,
            classes=part.classes,
            batch_size=batch_size,
            processes=processes,
            progress=label if processes.first else None,
        )
        for method, keys in itertools.groupby(found, lambda key: key.method):
            metrics = [found[key] for key in keys]
            if not methods or method in methods:
                yield from _rows(recipe, method, "last" if method == _TEACHER else weights, name, part, metrics)


def _parts(recipe: HardRecipe, name: str, roots: Sequence[Path]) -> Iterator[EvaluationPart]:
    if name == _OWN_SET:
        return iter([EvaluationPart(recipe.load().test)])
    places = [*roots, *_data_folders(recipe)]
    return open_set(name, list(dict.fromkeys(places)), recipe.image_shape[1], threads=torch.get_num_threads())


def _data_folders(recipe: HardRecipe) -> list[Path]:
    """Where the recipe has its own data: other sets often lie in or beside them."""
    values = (entry["value"] for entry in recipe.describe()["fields"].values())
    folders = [value for value in values if isinstance(value, Path)] or [Path("data")]
    return [*folders, *(folder.parent for folder in folders)]


def _rows(
    recipe: HardRecipe, method: str, weights: str, name: str, part: EvaluationPart, metrics: Sequence[SetMetrics]
) -> Iterator[EvaluationRow]:
    classes = recipe.classes if part.classes is None else len(part.classes)
    for metric in METRICS:
        seeds = [value for found in metrics if (value := getattr(found, metric)) is not None]
        if seeds:
            yield EvaluationRow(
                recipe.name,
                method,
                weights,
                name,
                part.corruption,
                part.severity,
                metric,
                seeds,
                len(part.images),
                classes,
            )
