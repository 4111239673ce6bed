"""The loop over seeds and methods that the recipes of HARD share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from hardfast.augment import Augmentor
from hardfast.augment.baselines import make_baseline
from hardfast.distill.alternation import Alternation
from hardfast.distill.evaluate import accuracy, accuracy_per_shift
from hardfast.distill.run_dir import MethodDir, ResultRow, RunDir
from hardfast.distill.trainer import Trainer, TrainerConfig, Transform
from hardfast.out_of_memory import ran_out_of_memory
from hardfast.recipes.hard_recipe import FIXED, ExperimentData, HardRecipe
from hardfast.recipes.recipe import Results, check_workers, of_each_seed

TEACHER = "teacher"
#: A method and its accuracy on every test set.
Tested = tuple[str, dict[str, float]]


class _Parts(NamedTuple):
    """What a method trains with beside the network."""

    teacher: nn.Module | None = None
    augmentor: Augmentor | None = None
    alternation: Alternation | None = None
    transform: Transform | None = None


def run(recipe: HardRecipe, run_dir: RunDir, cache: Path, progress: bool = True) -> list[ResultRow]:
    """Runs every method for every seed and writes the run; the results so far are written after each method, or with
    several processes after each seed. What the directory has already is not done again.

    Every student of a seed starts from the same weights, sees the same clean batches and takes as many steps.
    The last weights are tested, or their moving average, so that no selection at all stands between the training and
    the test images.

    Args:
        recipe: the experiment.
        run_dir: where it is written.
        cache: directory of networks that are trained once.
        progress: whether to show progress bars and a line per method.

    Returns:
        Accuracy per method and test set, and the published rows of methods that are not run here.

    Raises:
        FileNotFoundError: data or weights are missing.
        ValueError: the directory is of a run with other settings, or seeds are to be dealt among workers of several
            processes.
        OSError: the directory cannot be written.
        Interrupted: after Ctrl-C or SIGTERM, once a checkpoint is saved.
    """
    recipe = recipe.resolved()
    check_workers(recipe.workers, run_dir.processes)
    start = time.perf_counter() - run_dir.seconds()
    results: Results = {}
    seeds = range(recipe.first_seed, recipe.first_seed + recipe.seeds)
    with recipe.machine() as device:
        data = recipe.load().to(device)
        _look_ahead(recipe, data, cache, device)
        run_dir.write_config(recipe.describe())
        if recipe.workers > 1:
            elsewhere = partial(_elsewhere, recipe, run_dir, cache, progress)
            tested = (method for seed in of_each_seed(elsewhere, seeds, recipe.workers) for method in seed)
        else:
            tested = (
                method
                for seed in seeds
                for method in _Seed(recipe, seed, data, run_dir, cache, device, progress, bars=progress).methods()
            )
        for method, accuracies in tested:
            for name, value in accuracies.items():
                results.setdefault((method, name, "accuracy"), []).append(value)
            run_dir.write_results(recipe.result_rows(results), time.perf_counter() - start)
    return recipe.result_rows(results)


def _look_ahead(recipe: HardRecipe, data: ExperimentData, cache: Path, device: torch.device) -> None:
    """Loads all weights that come from files and tries the networks: before anything is trained, what is missing is
    missed, and what does not fit is told."""
    teacher, student = recipe.make_teacher(recipe.first_seed), recipe.make_student(recipe.first_seed)
    # With augmented images there are twice as many.
    together = recipe.batch_size * (1 if {"student", "distillation"} & {*recipe.methods} else 2)
    _try("student", student, recipe.image_shape, together, training=True)
    _try("teacher.model", teacher, recipe.image_shape, recipe.teacher.batch_size, training=not recipe.teacher.weights)
    for method in recipe.methods:
        config = recipe.augmentor_of(method)
        if config is not None and config.source:
            config.build(data.train, recipe.image_shape, cache, device, progress=False)


def _try(name: str, network: nn.Module, shape: tuple[int, int, int], batch_size: int, *, training: bool) -> None:
    """Shows blank images to a network that is thrown away afterwards, and raises ``ValueError`` if it does not take
    them."""
    blank = torch.zeros(min(batch_size, 2), *shape)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            network.train(training)(blank)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        if ran_out_of_memory(error):
            raise
        raise ValueError(
            f"{name} must be a network that takes images {list(shape)} in batches of {batch_size}; got: {error}"
        ) from error


def _elsewhere(recipe: HardRecipe, run_dir: RunDir, cache: Path, progress: bool, seed: int) -> list[Tested]:
    """All methods of a seed, in a process of its own and so without progress bars."""
    with recipe.machine() as device:
        data = recipe.load().to(device)
        return list(_Seed(recipe, seed, data, run_dir, cache, device, progress, bars=False).methods())


class _Seed:
    """One seed: its teacher, and the students of all methods."""

    def __init__(
        self,
        recipe: HardRecipe,
        seed: int,
        data: ExperimentData,
        run_dir: RunDir,
        cache: Path,
        device: torch.device,
        progress: bool,
        bars: bool,
    ) -> None:
        self.recipe, self.seed, self.data, self.run_dir = recipe, seed, data, run_dir
        self.cache, self.device, self.progress, self.bars = cache, device, progress, bars

    def methods(self) -> Iterator[Tested]:
        """Trains and tests the networks in turn; those that were tested before are read back."""
        start = time.perf_counter()
        chosen = [method for method in self.recipe.known_methods if method in self.recipe.methods]
        for method in (TEACHER, *chosen):
            with self.run_dir.method(method, self.seed) as directory:
                tested = directory.tested()
                if tested is None:
                    directory.restore_metrics()
                    network = self._teacher if method == TEACHER else self._student(method, directory)
                    tested = self._test(network, directory)
                    directory.finish(tested)
                    if method != TEACHER:  # which the students after it are taught by
                        directory.checkpoints(0, self.recipe.steps).keep(1)
            if self.progress:
                values = "   ".join(f"{name} {value:7.2%}" for name, value in tested.items())
                tqdm.write(f"seed {self.seed}  {method:17s} {values}   after {time.perf_counter() - start:4.0f} s")
            yield method, tested

    @cached_property
    def _teacher(self) -> nn.Module:
        """The teacher of this seed, from its weights, its last checkpoint or its training."""
        teacher = self.recipe.make_teacher(self.seed).to(self.device)
        with self.run_dir.method(TEACHER, self.seed) as directory:
            if self.recipe.teacher.weights:
                directory.save_weights("last", teacher)
                return teacher
            parts = _Parts(transform=self.recipe.teacher_transform())
            return self._trained(teacher, self.recipe.teacher_training(), parts, TEACHER, directory)

    def _student(self, method: str, directory: MethodDir) -> nn.Module:
        student = self.recipe.make_student(self.seed).to(self.device)
        parts = self._parts(method)
        size = self.recipe.image_shape[1:]
        before = None if parts.augmentor is None else parts.augmentor.describe(size)
        trained = self._trained(student, self.recipe.student_training(method), parts, method, directory)
        if parts.augmentor is not None:
            directory.save_json("augmentor", {"before": before, "after": parts.augmentor.describe(size)})
        return trained

    def _trained(
        self, network: nn.Module, config: TrainerConfig, parts: _Parts, method: str, directory: MethodDir
    ) -> nn.Module:
        trainer = Trainer(
            network,
            self.data.train,
            self.data.validation,
            config,
            **parts._asdict(),
            seed=self.seed,
            directory=directory,
            processes=self.run_dir.processes,
            progress=f"seed {self.seed} {method}" if self.bars else None,
        )
        trainer.resume()
        trainer.fit()
        return trainer.trained

    def _parts(self, method: str) -> _Parts:
        recipe = self.recipe
        if method == "student":
            return _Parts()
        teacher = self._teacher
        if method in FIXED:
            augmentor = make_baseline(method, flip=recipe.flip, policy=recipe.policy)
            return _Parts(teacher, augmentor.to(self.device))
        config = recipe.augmentor_of(method)
        if config is None:
            return _Parts(teacher)
        augmentor = config.build(self.data.train, recipe.image_shape, self.cache, self.device, self.bars)
        if method == "random_augmentor":
            return _Parts(teacher, augmentor.frozen())
        return _Parts(teacher, augmentor, recipe.alternation.build(recipe.steps))

    def _test(self, network: nn.Module, directory: MethodDir) -> dict[str, float]:
        processes = self.run_dir.processes
        values = {
            name: accuracy(network, images, images.labels, processes=processes)
            for name, images in self.data.tests.items()
        }
        if self.data.shifts is not None:
            per_shift = accuracy_per_shift(network, self.data.shifts, processes=processes)
            directory.save_arrays("shift_accuracy", **per_shift._asdict())
            values.setdefault("shifted", per_shift.mean)
        return values
