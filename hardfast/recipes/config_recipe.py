"""The recipes of ConfiG: what they have in common, and what one must bring."""

# ruff: noqa: RUF009 - the defaults are frozen dataclasses, and so may be shared
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import nn

from hardfast.augment import AffineAugmentor
from hardfast.data.groups import GroupedImages
from hardfast.data.image_set import ImageSet
from hardfast.diffusion.cutouts import CutOuts
from hardfast.diffusion.generate import Maker
from hardfast.diffusion.guidance import GuidanceSettings
from hardfast.diffusion.maker import SEEDS, AugmentorMaker, DiffusionMaker, ImageModel, NumberedImages
from hardfast.diffusion.memory import Memory
from hardfast.diffusion.objective import GuidanceObjective
from hardfast.distill.evaluate import group_accuracies
from hardfast.distill.objectives import StudentObjective
from hardfast.distill.run_dir import ResultRow, RunDir
from hardfast.distill.trainer import TrainerConfig
from hardfast.ops import _checks
from hardfast.recipes.recipe import (
    CACHE,
    ExecutionConfig,
    Recipe,
    earlier_code,
    of_other_choices,
    our_choice,
    prefixed,
    reported,
    training_config,
)

if TYPE_CHECKING:
    from typing_extensions import Self

#: In the order in which they are run; the first two always are.
METHODS = (
    "teacher",
    "distillation",
    "cutmix",
    "mixup",
    "unguided",
    "image_to_image",
    "other_class",
    "teacher_only",
    "student_only",
    "config",
)
#: Methods that begin in the middle of a chain, and from which images.
_STARTS = {"image_to_image": "same_class", "other_class": "other_class"}
#: Steps of the schedules that the diffusion models were trained with.
_MOST_CHAIN_STEPS = 1000
#: Rounds of one seed, whose images have seeds of their own.
MOST_ROUNDS = 1000
_GUIDED = {"teacher_only": "teacher", "student_only": "student", "config": "both"}


@dataclass(frozen=True)
class GeneratorConfig:
    """How images are generated; the methods differ in nothing else.

    Args:
        kind: ``diffusion``, or ``affine`` to search affine maps of real images in its place.
        count: candidates a round.
        group_size: images made as one batch.
        steps: denoiser calls of a chain.
        guidance_scale: of classifier-free guidance; 1 for none.
        memory: how the chain's gradient is paid for.
        iterations: gradient steps of the search.
        rate: Adam's, for offsets of the conditions, or for affine maps.
        latents_rate: Adam's, for the initial latents.
        offsets: whether embeddings of the conditions are searched too, step by step.
        keep_last: how many of the last predicted clean images are judged.
        form: of the objective.
        gamma: of its probabilities.
        cutouts: squares of each image that the classifiers see.
        smallest_cutout: side of the smallest, in sides of the image.
        cutout_noise: standard deviation of the noise on them.
        chunk: images decoded and judged at a time; 0 for all.
        min_teacher_confidence: an image of which the teacher is less sure is dropped.
        strength: part of the chain that an image-to-image augmentation runs.
        other_class_strength: the same, from an image of another class.
    """

    #: Options that affine maps of real images have no use for.
    of_diffusion: ClassVar[tuple[str, ...]] = (
        "steps",
        "guidance_scale",
        "memory",
        "latents_rate",
        "offsets",
        "keep_last",
        "strength",
        "other_class_strength",
    )

    kind: Literal["diffusion", "affine"] = our_choice("diffusion")
    count: int = our_choice(160)
    group_size: int = our_choice(32)
    steps: int = earlier_code(20)
    guidance_scale: float = earlier_code(3.0)
    memory: str = our_choice("per_step")
    iterations: int = earlier_code(20)
    rate: float = earlier_code(0.01)
    latents_rate: float = earlier_code(0.001)
    offsets: bool = earlier_code(True)
    keep_last: int = earlier_code(3)
    form: Literal["probability", "log", "logit", "kl"] = reported("probability")
    gamma: float = reported(2.0)
    cutouts: int = earlier_code(16)
    smallest_cutout: float = earlier_code(0.4375)
    cutout_noise: float = earlier_code(0.005)
    chunk: int = our_choice(0)
    min_teacher_confidence: float = our_choice(0.5)
    strength: float = our_choice(0.5)
    other_class_strength: float = our_choice(0.8)

    def unused(self) -> dict[str, str]:
        """The options that others leave without effect, and what each is of."""
        unused = of_other_choices("kind", self.kind, dict.fromkeys(self.of_diffusion, ("diffusion",)))
        unused |= of_other_choices("form", self.form, {"gamma": ("probability",)})
        if self.kind == "diffusion" and not self.offsets:
            unused["rate"] = "for offsets of the conditions, and for affine maps"
        return unused

    def settings(self, image_size: int, seen_size: int, method: str) -> GuidanceSettings:
        """Those of a method's search, for images of one size that the classifiers see at another."""
        _checks.integer("generator.cutouts", self.cutouts, 1)
        _checks.not_negative("generator.cutout_noise", self.cutout_noise)
        if not 0 < self.smallest_cutout <= 1:
            raise ValueError(f"generator.smallest_cutout must be in (0, 1], got {self.smallest_cutout}")
        gamma = self.gamma if self.form == "probability" else 1.0
        objective = GuidanceObjective(self.form, gamma, models=_GUIDED.get(method, "both"))
        smallest = max(1, round(self.smallest_cutout * image_size))
        return GuidanceSettings(
            objective,
            CutOuts(seen_size, smallest, None, self.cutouts, self.cutout_noise),
            iterations=self.iterations if method in _GUIDED else 0,
            rate=self.rate,
            latents_rate=self.latents_rate,
            keep_last=self.keep_last,
            offsets=self.offsets,
            chunk=self.chunk or None,
            min_teacher_confidence=self.min_teacher_confidence,
        )


@dataclass(frozen=True)
class ConfigData:
    """What an experiment needs of a data set.

    Args:
        train: what the student sees: biased, and without whole groups.
        validation: for the log; no weights are chosen by it.
        test: of all groups.
        class_names: by label.
        labels: classes of which images are generated; all if None.
        image_size: side of generated images in pixels.
        seen_size: side of the images of ``train``, and of what the classifiers see of generated ones.
        teacher_train: what the teacher is trained on; None where it comes trained.
        generator_train: the same for the diffusion model.
        sources: real images from which searches start, of side ``image_size``; those of ``train`` if None.
    """

    train: ImageSet
    validation: ImageSet
    test: GroupedImages
    class_names: tuple[str, ...]
    image_size: int
    seen_size: int
    labels: tuple[int, ...] | None = None
    teacher_train: ImageSet | None = None
    generator_train: ImageSet | None = None
    sources: ImageSet | None = None


@dataclass(frozen=True)
class ConfigRecipe(Recipe):
    """An experiment: a biased student of a robust teacher, and every method from there at equal counts and steps.

    Args:
        methods: those to run, beside the teacher and distillation.
        steps: student steps of the first distillation, which all methods share.
        rounds: how often images are generated against the student of the moment, and added.
        round_steps: student steps of each round.
        batch_size: real images a step; as many generated ones are added.
        learning_rate: the highest, of AdamW, in the first distillation and in each round.
        warmup_steps: steps until then.
        weight_decay: of AdamW.
        temperature: of the student's loss.
        clean_weight: weight of the term on real images where there are generated ones.
        generator: how images are made.
        execution: how networks are run.
        workers: processes among which the seeds are dealt.
    """

    citation: ClassVar[str] = (
        "Popp, Laube, Hein, Schott: ConfiG, diffusion guided by the confidences of teacher and student, "
        "arXiv 2506.02294, 2025"
    )
    split: ClassVar[str] = "test"

    methods: tuple[str, ...] = our_choice(METHODS)
    steps: int = our_choice(1000)
    rounds: int = our_choice(1)
    round_steps: int = our_choice(1000)
    batch_size: int = our_choice(64)
    learning_rate: float = our_choice(2e-3)
    warmup_steps: int = our_choice(0)
    weight_decay: float = our_choice(0.0)
    temperature: float = our_choice(1.0)
    clean_weight: float = our_choice(1.0)
    generator: GeneratorConfig = our_choice(GeneratorConfig())
    execution: ExecutionConfig = our_choice(ExecutionConfig(channels_last=False))
    workers: int = our_choice(1)

    @property
    def group_size(self) -> int:
        """Images made as one batch."""
        return self.generator.group_size

    def load(self) -> ConfigData:
        """Loads the data.

        Raises:
            FileNotFoundError: files are missing; the message says where to get them.
        """
        raise NotImplementedError

    def make_teacher(self, data: ConfigData, seed: int) -> nn.Module:
        """Loads the teacher, or makes one that is then trained on ``data.teacher_train``."""
        raise NotImplementedError

    def teacher_training(self) -> TrainerConfig:
        """How the teacher is trained, where ``data.teacher_train`` says that it is."""
        raise NotImplementedError

    def make_student(self, data: ConfigData, seed: int) -> nn.Module:
        """Makes a student that has not seen any image of ``train`` yet."""
        raise NotImplementedError

    def make_image_model(self, data: ConfigData, cache: Path, device: torch.device, progress: bool) -> ImageModel:
        """Loads the diffusion model, or takes it from the cache, or trains it."""
        raise NotImplementedError

    def evaluate(self, model: nn.Module, data: ConfigData) -> dict[str, float]:
        """Metrics of a network on the test images, by name; a recipe's own if it overrides this."""
        accuracies = list(group_accuracies(model, data.test).values())
        return {
            "worst_group_accuracy": min(accuracies),
            "mean_group_accuracy": sum(accuracies) / len(accuracies),
        }

    def run(self, run_dir: RunDir, progress: bool = True) -> list[ResultRow]:
        from hardfast.recipes import config_experiment

        return config_experiment.run(self, run_dir, CACHE, progress)

    def maker(self, cache: Path, progress: bool) -> Maker:
        """What ``hardfast generate`` makes images with: ConfiG's search against the distilled student of a seed."""
        from hardfast.recipes import config_experiment

        return config_experiment.cached_maker(self, cache, progress)

    def method_maker(
        self,
        method: str,
        data: ConfigData,
        image_model: ImageModel | None,
        student: nn.Module,
        teacher: nn.Module,
        seed: int,
    ) -> NumberedImages:
        """What makes a method's images; without an image model they are affine maps of real ones."""
        settings = self.generator.settings(data.image_size, data.seen_size, method)
        sources = data.train if data.sources is None else data.sources
        common: dict[str, Any] = {"seed": seed, "labels": data.labels, "sources": sources, "settings": settings}
        if image_model is None:
            device = next(student.parameters()).device
            augmentor = AffineAugmentor().to(device)
            return AugmentorMaker(student, teacher, data.class_names, **common, augmentor=augmentor)
        start = _STARTS.get(method, "noise")
        strength = self.generator.other_class_strength if start == "other_class" else self.generator.strength
        return DiffusionMaker(
            student, teacher, data.class_names, **common, model=image_model, start=start, strength=strength
        )

    def student_training(self, steps: int) -> TrainerConfig:
        """How the student is trained in a phase of so many steps."""
        objective = StudentObjective(self.temperature, self.clean_weight)
        settings = dataclasses.replace(self, steps=steps)
        return training_config(settings, student_objective=objective, execution=self.execution.build())

    def unused(self) -> dict[str, str]:
        return super().unused() | prefixed("generator", self.generator.unused())

    def check_methods(self) -> None:
        """Raises ``ValueError`` for methods that the kind of generator does not have."""
        for method in self.methods:
            if method in _STARTS and self.generator.kind != "diffusion":
                raise ValueError(
                    f"methods must be without {method!r}, a part of a diffusion's chain, where generator.kind is "
                    f"{self.generator.kind!r}"
                )

    def resolved(self) -> Self:
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"methods must be among {list(METHODS)}; got {method!r}")
        for name in ("rounds", "round_steps", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1; got {getattr(self, name)}")
        for name in ("count", "group_size", "steps"):
            if getattr(self.generator, name) < 1:
                raise ValueError(f"generator.{name} must be >= 1; got {getattr(self.generator, name)}")
        if self.generator.steps > _MOST_CHAIN_STEPS:
            raise ValueError(f"generator.steps must be at most {_MOST_CHAIN_STEPS}; got {self.generator.steps}")
        if self.rounds > MOST_ROUNDS:
            raise ValueError(f"rounds must be at most {MOST_ROUNDS}; got {self.rounds}")
        if self.first_seed + self.seeds > SEEDS // MOST_ROUNDS:
            raise ValueError(
                f"first_seed and the seeds after it must be below {SEEDS // MOST_ROUNDS}, for images have "
                f"{MOST_ROUNDS} seeds of each; got {self.seeds} seeds from {self.first_seed}"
            )
        for name in ("strength", "other_class_strength"):
            if not 0 < getattr(self.generator, name) <= 1:
                raise ValueError(f"generator.{name} must be in (0, 1]; got {getattr(self.generator, name)}")
        if self.generator.keep_last > self.generator.steps:
            raise ValueError(
                f"generator.keep_last must be at most generator.steps, {self.generator.steps}; "
                f"got {self.generator.keep_last}"
            )
        Memory(self.generator.memory)
        recipe = super().resolved()
        recipe.student_training(recipe.steps)
        for method in recipe.methods:
            recipe.generator.settings(64, 64, method)
        return recipe

    def shrunk(self) -> Self:
        generator = dataclasses.replace(
            self.generator,
            count=min(self.generator.count, 20),
            group_size=min(self.generator.group_size, 10),
            steps=min(self.generator.steps, 4),
            iterations=min(self.generator.iterations, 2),
            keep_last=min(self.generator.keep_last, 3),
            cutouts=min(self.generator.cutouts, 2),
        )
        return dataclasses.replace(
            self,
            seeds=min(self.seeds, 2),
            workers=1,
            rounds=min(self.rounds, 2),
            steps=min(self.steps, 8),
            round_steps=min(self.round_steps, 8),
            batch_size=min(self.batch_size, 16),
            generator=generator,
        )
