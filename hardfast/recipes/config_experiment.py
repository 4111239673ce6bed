"""ConfiG's method: distil on biased data, generate against the student, add, train on; and its controls."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from hardfast.augment import Augmentor, CutMix, MixUp
from hardfast.data.image_files import JoinedImages
from hardfast.data.splits import LabelledImages
from hardfast.diffusion.cutouts import CutOuts
from hardfast.diffusion.generate import Maker, generate_images
from hardfast.diffusion.image_store import ImageStore, load_generated
from hardfast.diffusion.maker import ImageModel
from hardfast.distill.processes import ALONE
from hardfast.distill.run_dir import MethodDir, ResultRow, RunDir
from hardfast.distill.trainer import Trainer
from hardfast.recipes.cache import cached
from hardfast.recipes.config_recipe import METHODS, MOST_ROUNDS, ConfigData, ConfigRecipe
from hardfast.recipes.recipe import Results, check_workers, of_each_seed

_MIXES: dict[str, type[Augmentor]] = {"cutmix": CutMix, "mixup": MixUp}


def run(recipe: ConfigRecipe, run_dir: RunDir, cache: Path, progress: bool) -> list[ResultRow]:
    """Runs every method for every seed and writes the run; the results so far are written after each method, or with
    several processes after each seed. What the directory has already is not done again.

    All students of a seed begin as the same distilled one, see the same real batches and take as many steps. Where
    images are generated there are as many candidates, and as many of the kept ones in a batch as real ones. No group
    is looked at before the test, and the last weights are tested.

    Args:
        recipe: the experiment.
        run_dir: where it is written.
        cache: directory of networks that are trained once.
        progress: whether to show progress bars and a line per method.

    Returns:
        The recipe's metrics per method, and the published rows of methods that are not run here.
    """
    recipe = recipe.resolved()
    recipe.check_methods()
    check_workers(recipe.workers, run_dir.processes)
    start = time.perf_counter() - run_dir.seconds()
    seeds = range(recipe.first_seed, recipe.first_seed + recipe.seeds)
    results: Results = {}

    def add(tested: Iterable[tuple[str, dict[str, float]]]) -> None:
        for method, metrics in tested:
            for metric, value in metrics.items():
                results.setdefault((method, recipe.split, metric), []).append(value)
            run_dir.write_results(recipe.result_rows(results), time.perf_counter() - start)

    with recipe.machine() as device:
        data = recipe.load()
        if recipe.workers > 1:
            if data.generator_train is not None and recipe.generator.kind == "diffusion":
                recipe.make_image_model(data, cache, device, progress)  # once, before all processes need it
            elsewhere = partial(_elsewhere, recipe, run_dir, cache, progress)
            for of_seed in of_each_seed(elsewhere, seeds, recipe.workers):
                add(of_seed)
        else:
            image_model = _image_model(recipe, data, cache, device, progress)
            for seed in seeds:
                add(_methods(recipe, seed, data, image_model, device, run_dir, progress, bars=progress))
    return recipe.result_rows(results)


def _elsewhere(
    recipe: ConfigRecipe, run_dir: RunDir, cache: Path, progress: bool, seed: int
) -> list[tuple[str, dict[str, float]]]:
    """What :func:`_methods` gives, in a process of its own and so without progress bars."""
    with recipe.machine() as device:
        data = recipe.load()
        image_model = _image_model(recipe, data, cache, device, progress=False)
        return list(_methods(recipe, seed, data, image_model, device, run_dir, progress, bars=False))


def _image_model(
    recipe: ConfigRecipe, data: ConfigData, cache: Path, device: torch.device, progress: bool
) -> ImageModel | None:
    if recipe.generator.kind != "diffusion":
        return None
    return recipe.make_image_model(data, cache, device, progress)


def _methods(
    recipe: ConfigRecipe,
    seed: int,
    data: ConfigData,
    image_model: ImageModel | None,
    device: torch.device,
    run_dir: RunDir,
    progress: bool,
    bars: bool,
) -> Iterator[tuple[str, dict[str, float]]]:
    """Runs the methods of one seed; gives each one's metrics."""
    start = time.perf_counter()
    teacher, base = recipe.make_teacher(data, seed).to(device), recipe.make_student(data, seed).to(device)
    # Nothing is written before: where data or weights are missing, the directory stays empty and can be used again.
    run_dir.write_config(recipe.describe())
    chosen = [method for method in METHODS if method in ("teacher", "distillation", *recipe.methods)]
    # Others begin with what the first two come to, which is read from their checkpoints where they are done.
    pending = any(run_dir.method(method, seed).tested() is None for method in chosen)
    for method in chosen:
        with run_dir.method(method, seed) as directory:
            metrics = directory.tested()
            if metrics is None:
                directory.restore_metrics()
            experiment = _Method(recipe, method, seed, data, image_model, teacher, directory, bars)
            if pending and method == "teacher":
                _train_teacher(recipe, teacher, data, seed, directory, bars)
            if pending and method == "distillation":
                experiment.train(base, 0, recipe.steps)
            if metrics is None:
                network = teacher if method == "teacher" else experiment.run(copy.deepcopy(base))
                metrics = recipe.evaluate(network, data)
                directory.finish(metrics)
        if progress:
            told = "   ".join(f"{name} {value:7.2%}" for name, value in metrics.items())
            tqdm.write(f"seed {seed}  {method:14s} {told}   after {time.perf_counter() - start:4.0f} s")
        yield method, metrics


class _Method:
    """One method of one seed."""

    def __init__(
        self,
        recipe: ConfigRecipe,
        method: str,
        seed: int,
        data: ConfigData,
        image_model: ImageModel | None,
        teacher: nn.Module,
        directory: MethodDir | None,
        progress: bool,
    ) -> None:
        self.recipe, self.method, self.seed, self.data = recipe, method, seed, data
        self.image_model, self.teacher = image_model, teacher
        self.directory, self.progress = directory, progress
        self.processes = ALONE if directory is None else directory.processes
        self.pool: list[LabelledImages] = []

    def run(self, student: nn.Module) -> nn.Module:
        """Trains the distilled student on, round by round."""
        generates = self.method not in ("distillation", *_MIXES)
        for number in range(self.recipe.rounds):
            if generates:
                self.generate(student, number)
            self.train(student, self.recipe.steps + number * self.recipe.round_steps, self.recipe.round_steps)
        return student

    def generate(self, student: nn.Module, number: int) -> None:
        """Adds what the generator finds against the student as it is."""
        assert self.directory is not None
        recipe = self.recipe
        seed = _images_seed(self.seed, number)
        maker = recipe.method_maker(self.method, self.data, self.image_model, student, self.teacher, seed)
        made_for = {"method": self.method, "seed": self.seed, "round": number}
        path = self.directory.path / f"round-{number}"
        store = ImageStore(path, recipe=recipe.name, fields=recipe.values("workers", "execution") | made_for)
        processes = self.processes
        summary = generate_images(
            maker,
            recipe.generator.count,
            store,
            group_size=recipe.group_size,
            rank=processes.rank,
            world_size=processes.world_size,
            progress=self.progress,
        )
        rate = sum(processes.gather(summary.images_per_second))  # which every process waits for
        kept = store.counts()["kept"]  # of earlier runs too, which the summary leaves out
        if not kept and processes.first:
            tqdm.write(
                f"seed {self.seed} {self.method}: none of the {recipe.generator.count} candidates of round {number} "
                "was kept, and the training goes on with the images that there are",
                file=sys.stderr,
            )
        if kept:
            self.pool.append(_resized(load_generated(path).images, self.data.seen_size))
        self.directory.log(
            recipe.steps + number * recipe.round_steps,
            candidates=recipe.generator.count,
            kept=kept,
            **({"candidates_per_second": rate} if rate else {}),  # none where all were made before an interruption
        )

    def train(self, student: nn.Module, first_step: int, steps: int) -> None:
        """Trains the student in place, for so many steps after the first ones."""
        trainer = Trainer(
            student,
            self.data.train,
            self.data.validation,
            self.recipe.student_training(steps),
            teacher=self.teacher,
            augmentor=_MIXES[self.method]() if self.method in _MIXES else None,
            generated=JoinedImages(self.pool) if self.pool else None,
            seed=_training_seed(self.seed, first_step),
            first_step=first_step,
            directory=self.directory,
            processes=self.processes,
            progress=f"seed {self.seed} {self.method}" if self.progress else None,
        )
        trainer.resume()
        trainer.fit()


def _resized(generated: LabelledImages, size: int) -> LabelledImages:
    """The images as the classifiers saw them whole."""
    if generated.images.shape[-1] == size:
        return generated
    return LabelledImages(CutOuts(size).whole(generated.images), generated.labels)


def cached_maker(recipe: ConfigRecipe, cache: Path, progress: bool) -> Maker:
    """What makes the images of ConfiG's first round for the recipe's first seed, its networks from the cache.

    Args:
        recipe: already resolved.
        cache: directory of networks that are trained once.
        progress: whether to show progress bars.
    """
    torch.set_num_threads(recipe.threads or torch.get_num_threads())
    with recipe.machine() as device:
        data = recipe.load()
        image_model = _image_model(recipe, data, cache, device, progress)
        seed = recipe.first_seed

        def train_teacher(teacher: nn.Module) -> nn.Module:
            _train_teacher(recipe, teacher, data, seed, None, progress)
            return teacher

        def distil(student: nn.Module) -> nn.Module:
            distillation = _Method(recipe, "distillation", seed, data, image_model, teacher, None, progress)
            distillation.train(student, 0, recipe.steps)
            return student

        others = ("generator", "methods", "rounds", "round_steps", "seeds", "first_seed", "workers")
        settings = recipe.values(*others) | {"seed": seed}
        teacher, student = recipe.make_teacher(data, seed).to(device), recipe.make_student(data, seed).to(device)
        if data.teacher_train is not None:
            teacher = cached(cache, f"{recipe.name}-teacher", settings, teacher, train_teacher)
        student = cached(cache, f"{recipe.name}-student", settings, student, distil)
    return recipe.method_maker("config", data, image_model, student, teacher, _images_seed(seed, 0))


def _images_seed(seed: int, number: int) -> int:
    return seed * MOST_ROUNDS + number


def _training_seed(seed: int, first_step: int) -> int:
    return seed * (MOST_ROUNDS + 1) + first_step


def _train_teacher(
    recipe: ConfigRecipe,
    teacher: nn.Module,
    data: ConfigData,
    seed: int,
    directory: MethodDir | None,
    progress: bool,
) -> None:
    if data.teacher_train is None:
        return
    told = f"seed {seed} teacher" if progress else None
    training = recipe.teacher_training()
    trainer = Trainer(
        teacher,
        data.teacher_train,
        data.validation,
        training,
        seed=seed,
        directory=directory,
        processes=ALONE if directory is None else directory.processes,
        progress=told,
    )
    trainer.resume()
    trainer.fit()
