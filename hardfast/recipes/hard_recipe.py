"""The recipes of HARD: their parts, and what an experiment needs of a data set."""

# ruff: noqa: RUF009 - the defaults are frozen dataclasses, and so may be shared
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch

from hardfast.augment import AffineAugmentor
from hardfast.data.shifts import ShiftedSet
from hardfast.data.splits import LabelledImages, Splits
from hardfast.distill.alternation import Alternation, FixedRatio, Thresholds
from hardfast.distill.objectives import AugmentorObjective, StudentObjective
from hardfast.distill.run_dir import ResultRow, RunDir
from hardfast.distill.trainer import TrainerConfig
from hardfast.models import MODELS
from hardfast.recipes.recipe import Recipe, TeacherConfig, earlier_code, our_choice, training_config

if TYPE_CHECKING:
    from typing_extensions import Self


class ExperimentData(NamedTuple):
    """What an experiment needs of a data set; ``shifts`` and ``shifted_test`` are for the final tests only.

    Args:
        splits: centred images for training, validation and test.
        shifts: test images under whole-pixel shifts, for accuracy as a function of the shift.
        shifted_test: the shifted test set; None if it is ``shifts``.
    """

    splits: Splits
    shifts: ShiftedSet
    shifted_test: LabelledImages | None

    def to(self, device: torch.device | str) -> ExperimentData:
        """Returns the data on another device."""
        shifted_test = None if self.shifted_test is None else self.shifted_test.to(device)
        return ExperimentData(self.splits.to(device), self.shifts.to(device), shifted_test)


@dataclass(frozen=True)
class AugmentorConfig:
    """The affine augmentor and what it minimises.

    Args:
        mode: ``full``, ``translation`` or ``no_translation``.
        initial_scale: initial standard deviation, in half image sides.
        learning_rate: the highest, of Adam; it falls with the student's.
        teacher_weight: how strongly the teacher's answer is held.
        student_weight: how strongly disagreement is sought.
        form: of the objective.
    """

    mode: Literal["full", "translation", "no_translation"] = earlier_code("full")
    initial_scale: float = earlier_code(0.1)
    learning_rate: float = our_choice(0.03)
    teacher_weight: float = our_choice(4.0)
    student_weight: float = our_choice(1.0)
    form: Literal["saturating", "non_saturating"] = our_choice("non_saturating")

    def build(self) -> AffineAugmentor:
        """Makes the augmentor."""
        return AffineAugmentor(self.mode, initial_scale=self.initial_scale)

    def objective(self, temperature: float) -> AugmentorObjective:
        """Makes the objective."""
        return AugmentorObjective(temperature, self.teacher_weight, self.student_weight, self.form)


@dataclass(frozen=True)
class AlternationConfig:
    """When the augmentor learns.

    Args:
        kind: ``fixed_ratio`` or ``thresholds``.
        student_steps: student steps per augmentor step, of ``fixed_ratio``.
        lower: disagreement below which the augmentor's turn begins, of ``thresholds``.
        upper: disagreement above which the student's turn begins, of ``thresholds``.
        max_augmentor_steps: cap on consecutive augmentor steps, of ``thresholds``.
    """

    kind: Literal["fixed_ratio", "thresholds"] = our_choice("fixed_ratio")
    student_steps: int = our_choice(5)
    lower: float = our_choice(0.2)
    upper: float = our_choice(0.5)
    max_augmentor_steps: int = our_choice(5)

    def build(self) -> Alternation:
        """Makes the schedule."""
        if self.kind == "fixed_ratio":
            return FixedRatio(self.student_steps)
        return Thresholds(self.lower, self.upper, max_augmentor_steps=self.max_augmentor_steps)


@dataclass(frozen=True)
class HardRecipe(Recipe):
    """An experiment: one teacher, one student, and every method at the same number of steps and batch size.

    Args:
        steps: student steps of every method.
        batch_size: clean images a step of every method.
        learning_rate: the student's highest, of AdamW.
        warmup_steps: steps until then.
        weight_decay: of AdamW.
        student: a name of ``hardfast.models.MODELS``.
        temperature: of every disagreement.
        clean_weight: weight of the term on clean images where there are augmented ones.
        teacher: the teacher and its training.
        augmentor: the augmentor and its objective.
        alternation: when the augmentor learns.
    """

    citation: ClassVar[str] = (
        "Nix, Burg, Sinz: HARD: Hard Augmentations for Robust Distillation, arXiv 2305.14890, 2023"
    )

    #: Of the images that its networks take, ``[C, H, W]``, and number of classes that they tell apart.
    image_shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    classes: ClassVar[int] = 10

    steps: int = our_choice(3500)
    batch_size: int = our_choice(64)
    learning_rate: float = our_choice(3e-3)
    warmup_steps: int = our_choice(100)
    weight_decay: float = our_choice(0.0)
    student: str = earlier_code("mlp")
    temperature: float = our_choice(1.0)
    clean_weight: float = our_choice(1.0)
    teacher: TeacherConfig = our_choice(TeacherConfig())
    augmentor: AugmentorConfig = our_choice(AugmentorConfig())
    alternation: AlternationConfig = our_choice(AlternationConfig())

    def load(self) -> ExperimentData:
        """Loads the data.

        Raises:
            FileNotFoundError: files are missing; the message says where to get them.
        """
        raise NotImplementedError

    def run(self, run_dir: RunDir, progress: bool = True) -> list[ResultRow]:
        from hardfast.recipes import hard_experiment

        return hard_experiment.run(self, run_dir, progress)

    def resolved(self) -> Self:
        for name, model in {"student": self.student, "teacher.model": self.teacher.model}.items():
            if model not in MODELS:
                raise ValueError(f"{name} must be one of {sorted(MODELS)}; got {model!r}")
        recipe = super().resolved()
        recipe.teacher_training()
        recipe.student_training()
        recipe.augmentor.build()
        recipe.alternation.build()
        return recipe

    def teacher_training(self) -> TrainerConfig:
        """How the teacher is trained."""
        return training_config(self.teacher, label_smoothing=self.teacher.label_smoothing)

    def student_training(self) -> TrainerConfig:
        """How the student of every method is trained."""
        return training_config(
            self,
            augmentor_learning_rate=self.augmentor.learning_rate,
            student_objective=StudentObjective(self.temperature, self.clean_weight),
            augmentor_objective=self.augmentor.objective(self.temperature),
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
        )
