"""The loop over seeds and methods that the recipes of HARD share."""

from __future__ import annotations

import time
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
from hardfast.recipes.hard_recipe import ExperimentData, HardRecipe
from hardfast.recipes.recipe import Results, seeded

#: In the order in which they are run.
METHODS = ("teacher", "student", "distillation", "random_affine", "hard")


class _Parts(NamedTuple):
    """What a method trains with beside the student."""

    teacher: nn.Module | None
    augmentor: AffineAugmentor | None
    alternation: Alternation | None


def run(recipe: HardRecipe, run_dir: RunDir, progress: bool = True) -> list[ResultRow]:
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
    with recipe.machine() as device:
        return _run(recipe, run_dir, device, progress)


def _run(recipe: HardRecipe, run_dir: RunDir, device: torch.device, progress: bool) -> list[ResultRow]:
    start = time.perf_counter()
    data = recipe.load().to(device)
    run_dir.write_config(recipe.describe())
    results: Results = {}
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
            run_dir.write_results(recipe.result_rows(results), time.perf_counter() - start)
    return recipe.result_rows(results)


def _train(
    recipe: HardRecipe,
    method: str,
    seed: int,
    data: ExperimentData,
    teacher: nn.Module | None,
    device: torch.device,
    directory: MethodDir,
    progress: bool,
) -> nn.Module:
    name = recipe.teacher.model if method == "teacher" else recipe.student
    model = seeded(lambda: create_model(name), seed).to(device)
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


def _parts(recipe: HardRecipe, method: str, teacher: nn.Module | None, device: torch.device) -> _Parts:
    if method in ("teacher", "student"):
        return _Parts(None, None, None)
    if method == "distillation":
        return _Parts(teacher, None, None)
    augmentor = recipe.augmentor.build().to(device)
    if method == "random_affine":
        return _Parts(teacher, augmentor.frozen(), None)
    return _Parts(teacher, augmentor, recipe.alternation.build())


def _test(model: nn.Module, method: str, data: ExperimentData, results: Results, directory: MethodDir) -> None:
    test, shifted = data.splits.test, data.shifted_test
    per_shift = accuracy_per_shift(model, data.shifts)
    directory.save_arrays("shift_accuracy", **per_shift._asdict())
    values = {
        "centred": accuracy(model, test.images, test.labels),
        "shifted": per_shift.mean if shifted is None else accuracy(model, shifted.images, shifted.labels),
    }
    for split, value in values.items():
        results.setdefault((method, split, "accuracy"), []).append(value)


def _line(method: str, seed: int, results: Results, seconds: float) -> str:
    values = (f"{split} {results[method, split, 'accuracy'][-1]:7.2%}" for split in ("centred", "shifted"))
    return f"seed {seed}  {method:14s} {'   '.join(values)}   after {seconds:4.0f} s"
