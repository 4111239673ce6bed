"""The loop over seeds and methods that every recipe shares."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from hardfast.augment import AffineAugmentor
from hardfast.distill.alternation import Alternation
from hardfast.distill.evaluate import accuracy, accuracy_per_shift
from hardfast.distill.run_dir import MethodDir, ResultRow, RunDir
from hardfast.distill.trainer import Trainer
from hardfast.models import create_model
from hardfast.recipes.recipe import ExperimentData, Recipe

#: In the order in which they are run.
METHODS = ("teacher", "student", "distillation", "random_affine", "hard")

Accuracies = dict[tuple[str, str], list[float]]


class _Parts(NamedTuple):
    """What a method trains with beside the student."""

    teacher: nn.Module | None
    augmentor: AffineAugmentor | None
    alternation: Alternation | None


def run(recipe: Recipe, run_dir: RunDir, progress: bool = True) -> list[ResultRow]:
    """Runs every method for every seed and writes the run; the results so far are written after each method.

    Every student of a seed starts from the same weights, sees the same clean batches and takes as many steps.
    The last weights are tested, so that no selection at all stands between the training and the shifted
    images.

    Args:
        recipe: the experiment.
        run_dir: where it is written.
        progress: whether to show progress bars and a line per method.

    Returns:
        Accuracy per method and test split, and the published rows of methods that are not run here.

    Raises:
        FileNotFoundError: the data are missing.
        OSError: the directory cannot be written.
    """
    recipe = recipe.resolved()
    with _threads(recipe.threads):
        return _run(recipe, run_dir, progress)


def _run(recipe: Recipe, run_dir: RunDir, progress: bool) -> list[ResultRow]:
    start = time.perf_counter()
    device = _device(recipe.device)
    data = recipe.load().to(device)
    run_dir.write_config(recipe.describe())
    results: Accuracies = {}
    for seed in range(recipe.first_seed, recipe.first_seed + recipe.seeds):
        teacher: nn.Module | None = None
        for method in METHODS:
            with run_dir.method(method, seed) as directory:
                model = _train(recipe, method, seed, data, teacher, device, directory, progress)
                _test(model, method, data, results, directory)
            if method == "teacher":
                teacher = model
            if progress:
                tqdm.write(_line(method, seed, results, time.perf_counter() - start))
            run_dir.write_results(result_rows(recipe, results), time.perf_counter() - start)
    return result_rows(recipe, results)


def result_rows(recipe: Recipe, results: Accuracies) -> list[ResultRow]:
    """Joins accuracies by (method, split) with the published ones."""
    published = {(row.method, row.split): row for row in recipe.published}
    rows = []
    for key in [*results, *(key for key in published if key not in results)]:
        other = published.get(key)
        value, source = (None, None) if other is None else (other.accuracy, other.source)
        rows.append(ResultRow(recipe.name, *key, "accuracy", results.get(key, []), value, source))
    return rows


def _train(
    recipe: Recipe,
    method: str,
    seed: int,
    data: ExperimentData,
    teacher: nn.Module | None,
    device: torch.device,
    directory: MethodDir,
    progress: bool,
) -> nn.Module:
    name = recipe.teacher.model if method == "teacher" else recipe.student
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model(name).to(device)
    if method == "teacher":
        # Convolutions on the CPU are up to twice as fast this way, and the teacher is most of the work.
        model = model.to(memory_format=torch.channels_last)
    parts = _parts(recipe, method, teacher, device)
    trainer = Trainer(
        model,
        data.splits.train,
        data.splits.validation,
        recipe.teacher_training() if method == "teacher" else recipe.student_training(),
        **parts._asdict(),
        seed=seed,
        directory=directory,
        progress=f"seed {seed} {method}" if progress else None,
    )
    trainer.fit()
    return model


def _parts(recipe: Recipe, method: str, teacher: nn.Module | None, device: torch.device) -> _Parts:
    if method in ("teacher", "student"):
        return _Parts(None, None, None)
    if method == "distillation":
        return _Parts(teacher, None, None)
    augmentor = recipe.augmentor.build().to(device)
    if method == "random_affine":
        return _Parts(teacher, augmentor.frozen(), None)
    return _Parts(teacher, augmentor, recipe.alternation.build())


def _test(model: nn.Module, method: str, data: ExperimentData, results: Accuracies, directory: MethodDir) -> None:
    test, shifted = data.splits.test, data.shifted_test
    per_shift = accuracy_per_shift(model, data.shifts)
    directory.save_arrays("shift_accuracy", **per_shift._asdict())
    values = {
        "centred": accuracy(model, test.images, test.labels),
        "shifted": per_shift.mean if shifted is None else accuracy(model, shifted.images, shifted.labels),
    }
    for split, value in values.items():
        results.setdefault((method, split), []).append(value)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Sets PyTorch's CPU threads inside the block; 0 leaves them."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be 'auto' or 'cpu' on this machine: PyTorch finds no usable GPU; got 'cuda'")
    return torch.device(name)


def _line(method: str, seed: int, results: Accuracies, seconds: float) -> str:
    values = (f"{split} {results[method, split][-1]:7.2%}" for split in ("centred", "shifted"))
    return f"seed {seed}  {method:14s} {'   '.join(values)}   after {seconds:4.0f} s"
