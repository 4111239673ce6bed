"""The recipes of HARD: their parts, and what an experiment needs of a data set."""

# ruff: noqa: RUF009 - the defaults are frozen dataclasses, and so may be shared
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import nn

from hardfast.augment.baselines import make_baseline
from hardfast.data.image_set import ImageSet
from hardfast.data.shifts import ShiftedSet
from hardfast.data.splits import LabelledImages
from hardfast.distill.alternation import Alternation, Budget, FixedRatio, Thresholds
from hardfast.distill.objectives import StudentObjective
from hardfast.distill.run_dir import ResultRow, RunDir
from hardfast.distill.trainer import TrainerConfig, Transform
from hardfast.models.networks import check_network, check_timm_network, create_network, create_timm_network
from hardfast.recipes.hard_augmentor import AugmentorConfig
from hardfast.recipes.recipe import (
    CACHE,
    ExecutionConfig,
    Recipe,
    TeacherConfig,
    earlier_code,
    of_other_choices,
    our_choice,
    prefixed,
    seeded,
    training_config,
)

if TYPE_CHECKING:
    from typing_extensions import Self


#: Fixed augmentations, each of which is a method.
LABEL_PRESERVING = ("none", "crop_flip", "rand_augment", "auto_augment", "trivial_augment", "augmix")
FIXED = (*LABEL_PRESERVING[1:], "mixup", "cutmix")
#: From here on, the seeds of the weights of teachers whose students have their architecture.
_TEACHER_SEEDS = 2**31
#: All methods beside the teacher, in the order in which they are run.
METHODS = ("student", "distillation", *FIXED, "random_augmentor", "hard")


class ExperimentData(NamedTuple):
    """What an experiment needs of a data set; ``tests`` and ``shifts`` are for the final tests only.

    Args:
        train: what teacher and student are trained on.
        validation: images like those of ``train``, for the log.
        tests: test sets by name; the first one is like ``train``.
        shifts: test images under whole-pixel shifts, for the accuracy at each shift; None for none. Their mean is the
            result on ``shifted``, unless ``tests`` has a set of that name.
    """

    train: ImageSet
    validation: ImageSet
    tests: Mapping[str, ImageSet]
    shifts: ShiftedSet | None = None

    @property
    def test(self) -> ImageSet:
        """The test images that are like those of the training."""
        return next(iter(self.tests.values()))

    def to(self, device: torch.device | str) -> ExperimentData:
        """Returns the data on another device; files are decoded where they are."""
        train, validation, *tests = (
            images.to(device) if isinstance(images, LabelledImages) else images
            for images in (self.train, self.validation, *self.tests.values())
        )
        shifts = None if self.shifts is None else self.shifts.to(device)
        return ExperimentData(train, validation, dict(zip(self.tests, tests, strict=True)), shifts)


@dataclass(frozen=True)
class AlternationConfig:
    """When the augmentor learns.

    Args:
        kind: ``fixed_ratio``, ``thresholds`` or ``budget``.
        student_steps: student steps per augmentor step, of ``fixed_ratio``.
        augmentor_steps: in all, of ``budget``.
        lower: disagreement below which the augmentor's turn begins, of ``thresholds``.
        upper: disagreement above which the student's turn begins, of ``thresholds``.
        max_augmentor_steps: cap on consecutive augmentor steps, of ``thresholds``.
    """

    kind: Literal["fixed_ratio", "thresholds", "budget"] = our_choice("fixed_ratio")
    student_steps: int = our_choice(5)
    augmentor_steps: int = our_choice(700)
    lower: float = our_choice(0.2)
    upper: float = our_choice(0.5)
    max_augmentor_steps: int = our_choice(5)

    def unused(self) -> dict[str, str]:
        """The options that the kind does not read, and what each is of."""
        return of_other_choices(
            "kind",
            self.kind,
            {
                "student_steps": ("fixed_ratio",),
                "augmentor_steps": ("budget",),
                **dict.fromkeys(("lower", "upper", "max_augmentor_steps"), ("thresholds",)),
            },
        )

    def check(self, steps: int) -> None:
        """Raises ``ValueError`` where the augmentor would never learn in so many student steps."""
        if self.kind == "fixed_ratio" and self.student_steps >= steps:
            raise ValueError(
                f"alternation.student_steps must be below the {steps} steps, or no augmentor learns; "
                f"got {self.student_steps}"
            )
        if self.kind == "thresholds" and self.lower == 0:
            raise ValueError("alternation.lower must be above 0, for no disagreement is below that; got 0.0")

    def build(self, steps: int) -> Alternation:
        """Makes the schedule of a training of so many student steps."""
        if self.kind == "fixed_ratio":
            return FixedRatio(self.student_steps)
        if self.kind == "budget":
            return Budget(self.augmentor_steps, steps)
        return Thresholds(self.lower, self.upper, max_augmentor_steps=self.max_augmentor_steps)


@dataclass(frozen=True)
class HardTeacherConfig(TeacherConfig):
    """The teacher and its training on labels.

    Args:
        weights: a file of trained weights, or for models of timm ``hub`` for the published ones in the hub's cache;
            empty for a teacher that is trained here.
        augmentation: of the images it is trained on, one of ``LABEL_PRESERVING``.
    """

    weights: str = our_choice("")
    augmentation: str = our_choice("none")


@dataclass(frozen=True)
class HardRecipe(Recipe):
    """An experiment: one teacher, one student, and every method at the same number of steps and batch size.

    Args:
        methods: those to run, beside the teacher: ``student`` (on labels), ``distillation`` (on clean images),
            ``random_augmentor`` (the learned one's initial distribution), ``hard``, and the fixed augmentations
            ``crop_flip``, ``rand_augment``, ``auto_augment``, ``trivial_augment``, ``augmix``, ``mixup``, ``cutmix``.
        steps: student steps of every method.
        batch_size: clean images a step of every method.
        learning_rate: the student's highest, of AdamW.
        warmup_steps: steps until then.
        weight_decay: of AdamW.
        student: a name of ``hardfast.models.MODELS``, or of timm.
        student_weights: where it starts: a file of trained weights, or for models of timm ``hub``, as for the teacher;
            random if empty.
        temperature: of every disagreement.
        divergence: of every disagreement: ``forward``, ``reverse`` or ``jensen_shannon``.
        clean_weight: weight of the term on clean images where there are augmented ones.
        flip: whether fixed augmentations mirror images.
        policy: of ``auto_augment``.
        ema_decay: of the moving average of the student's weights, which is then tested; 0 for none.
        teacher: the teacher and its training.
        alternation: when the augmentor learns.
        execution: how networks are run.
        workers: processes among which the seeds are dealt.
    """

    citation: ClassVar[str] = (
        "Nix, Burg, Sinz: HARD: Hard Augmentations for Robust Distillation, arXiv 2305.14890, 2023"
    )

    #: Number of classes that its networks tell apart.
    classes: ClassVar[int] = 10
    #: All methods beside the teacher, in the order in which they are run.
    known_methods: ClassVar[tuple[str, ...]] = METHODS
    #: Whether the teacher's answers to all training images are kept in memory.
    cache_teacher: ClassVar[bool] = True
    #: Whether all names of networks are timm's, also those that ``hardfast.models.MODELS`` has too.
    timm_only: ClassVar[bool] = False

    methods: tuple[str, ...] = our_choice(("student", "distillation", "random_augmentor", "hard"))
    steps: int = our_choice(3500)
    batch_size: int = our_choice(64)
    learning_rate: float = our_choice(3e-3)
    warmup_steps: int = our_choice(100)
    weight_decay: float = our_choice(0.0)
    student: str = earlier_code("mlp")
    student_weights: str = our_choice("")
    temperature: float = our_choice(1.0)
    divergence: Literal["forward", "reverse", "jensen_shannon"] = earlier_code("forward")
    clean_weight: float = our_choice(1.0)
    flip: bool = our_choice(False)
    policy: Literal["cifar10", "imagenet"] = our_choice("cifar10")
    ema_decay: float = our_choice(0.0)
    teacher: HardTeacherConfig = our_choice(HardTeacherConfig())
    alternation: AlternationConfig = our_choice(AlternationConfig())
    execution: ExecutionConfig = our_choice(ExecutionConfig())
    workers: int = our_choice(1)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of the images that its networks take, ``[C, H, W]``."""
        return 1, 28, 28

    def load(self) -> ExperimentData:
        """Loads the data.

        Raises:
            FileNotFoundError: files are missing; the message says where to get them.
        """
        raise NotImplementedError

    def run(self, run_dir: RunDir, progress: bool = True) -> list[ResultRow]:
        from hardfast.recipes import hard_experiment

        return hard_experiment.run(self, run_dir, CACHE, progress)

    def make_teacher(self, seed: int) -> nn.Module:
        """Makes the teacher, with its weights if it has some; otherwise it begins unlike every student."""
        if self.teacher.model.partition(".")[0] == self.student.partition(".")[0]:  # timm names weights after a dot
            seed += _TEACHER_SEEDS
        return self._make(self.teacher.model, self.teacher.weights, seed, new_head=False)

    def make_student(self, seed: int) -> nn.Module:
        """Makes a student that has learned nothing here yet."""
        return self._make(self.student, self.student_weights, seed, new_head=True)

    def _make(self, name: str, weights: str, seed: int, *, new_head: bool) -> nn.Module:
        create = create_timm_network if self.timm_only else create_network
        shape, classes = self.image_shape, self.classes
        return seeded(lambda: create(name, shape, classes, weights=weights or None, new_head=new_head), seed)

    def teacher_transform(self) -> Transform | None:
        """What the teacher's training does to its images, and leaves their labels true."""
        if self.teacher.augmentation == "none":
            return None
        return make_baseline(self.teacher.augmentation, flip=self.flip, policy=self.policy)

    def augmentor_of(self, method: str) -> AugmentorConfig | None:
        """The augmentor that a method learns, or of whose initial distribution it draws; None for other methods."""
        raise NotImplementedError

    def unused(self) -> dict[str, str]:
        unused = super().unused() | prefixed("alternation", self.alternation.unused())
        if self.teacher.weights:
            trained = [item.name for item in dataclasses.fields(self.teacher) if item.name not in ("model", "weights")]
            of = "of a teacher that is trained here, not of one with teacher.weights"
            unused |= prefixed("teacher", dict.fromkeys(trained, of))
        return unused

    def resolved(self) -> Self:
        for name, model in {"student": self.student, "teacher.model": self.teacher.model}.items():
            (check_timm_network if self.timm_only else check_network)(name, model)
        for method in self.methods:
            if method not in self.known_methods:
                raise ValueError(f"methods must be among {list(self.known_methods)}; got {method!r}")
        if self.teacher.augmentation not in LABEL_PRESERVING:
            raise ValueError(
                f"teacher.augmentation must be one of {list(LABEL_PRESERVING)}; got {self.teacher.augmentation!r}"
            )
        if self.workers < 1:
            raise ValueError(f"workers must be >= 1; got {self.workers}")
        learned = [method for method in self.methods if method != "random_augmentor" and self.augmentor_of(method)]
        if learned and not self.smoke:
            self.alternation.check(self.steps)
        recipe = super().resolved()
        recipe.teacher_training()
        recipe.student_training("distillation")
        for method in recipe.methods:
            recipe.student_training(method)
        recipe.alternation.build(recipe.steps)
        return recipe

    def teacher_training(self) -> TrainerConfig:
        """How the teacher is trained."""
        return training_config(
            self.teacher, label_smoothing=self.teacher.label_smoothing, execution=self.execution.build()
        )

    def student_training(self, method: str) -> TrainerConfig:
        """How the student of a method is trained; methods differ in nothing but their augmentor."""
        config = self.augmentor_of(method)
        learned: dict[str, Any] = {}
        if config is not None:
            learned["augmentor_learning_rate"] = config.learning_rate
            learned["augmentor_objective"] = config.objective(self.temperature, self.divergence)
        return training_config(
            self,
            **learned,
            student_objective=StudentObjective(self.temperature, self.clean_weight, self.divergence),
            ema_decay=self.ema_decay,
            cache_teacher=self.cache_teacher,
            execution=self.execution.build(),
        )

    def shrunk(self) -> Self:
        teacher = dataclasses.replace(
            self.teacher, steps=min(self.teacher.steps, 6), batch_size=min(self.teacher.batch_size, 16)
        )
        return dataclasses.replace(
            self,
            seeds=min(self.seeds, 2),
            steps=min(self.steps, 12),
            batch_size=min(self.batch_size, 16),
            teacher=teacher,
            workers=1,
        )


@dataclass(frozen=True)
class HardAugmentorRecipe(HardRecipe):
    """An experiment with one augmentor: learned, and as its own baseline with its initial distribution.

    Args:
        augmentor: the augmentor and its objective.
    """

    augmentor: AugmentorConfig = our_choice(AugmentorConfig())

    def augmentor_of(self, method: str) -> AugmentorConfig | None:
        return self.augmentor if method in ("hard", "random_augmentor") else None

    def unused(self) -> dict[str, str]:
        return super().unused() | prefixed("augmentor", self.augmentor.unused())

    def resolved(self) -> Self:
        self.augmentor.check(self.image_shape)
        return super().resolved()

    def shrunk(self) -> Self:
        return dataclasses.replace(super().shrunk(), augmentor=self.augmentor.shrunk())
