"""What every recipe is made of: frozen dataclasses whose fields say where their values come from.

The source of a field, in its metadata, is ``"known"`` (the abstract of the paper states it), ``"earlier code"`` (the
authors' public code of earlier work has it) or ``"our choice"``.
"""

# ruff: noqa: RUF009 - the defaults are frozen dataclasses, and so may be shared
from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch

from hardfast.augment import AffineAugmentor
from hardfast.data.shifts import ShiftedSet
from hardfast.data.splits import LabelledImages, Splits
from hardfast.distill.alternation import Alternation, FixedRatio, Thresholds
from hardfast.distill.objectives import AugmentorObjective, StudentObjective
from hardfast.distill.trainer import TrainerConfig
from hardfast.models import MODELS

if TYPE_CHECKING:
    from typing_extensions import Self


def earlier_code(default: Any) -> Any:
    """A field whose value is that of the authors' public code of earlier work."""
    return field(default=default, metadata={"source": "earlier code"})


def our_choice(default: Any) -> Any:
    """A field whose value is ours."""
    return field(default=default, metadata={"source": "our choice"})


class Published(NamedTuple):
    """A published result: an accuracy in [0, 1] and where it stands."""

    method: str
    split: str
    accuracy: float
    source: str


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
class TeacherConfig:
    """The teacher and its training on labels.

    Args:
        model: a name of ``hardfast.models.MODELS``.
        steps: training steps.
        batch_size: images a step.
        learning_rate: the highest, of AdamW.
        warmup_steps: steps until then.
        weight_decay: of AdamW.
        label_smoothing: in [0, 1].
    """

    model: str = our_choice("shift_robust_cnn")
    steps: int = our_choice(600)
    batch_size: int = our_choice(64)
    learning_rate: float = our_choice(2e-3)
    warmup_steps: int = our_choice(50)
    weight_decay: float = our_choice(0.0)
    label_smoothing: float = our_choice(0.0)


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
class Recipe:
    """An experiment: one teacher, one student, and every method at the same number of steps and batch size.

    Args:
        seeds: number of seeds.
        first_seed: the seeds are this and the following ones.
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
        device: ``auto`` for a GPU where there is one.
        threads: CPU threads of PyTorch; 0 for PyTorch's own choice.
        smoke: shrinks everything to seconds, to see that it runs; the results mean nothing.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    citation: ClassVar[str] = (
        "Nix, Burg, Sinz: HARD: Hard Augmentations for Robust Distillation, arXiv 2305.14890, 2023"
    )
    published: ClassVar[tuple[Published, ...]] = ()

    seeds: int = our_choice(3)
    first_seed: int = our_choice(0)
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
    device: Literal["auto", "cpu", "cuda"] = our_choice("auto")
    threads: int = our_choice(0)
    smoke: bool = our_choice(False)

    def load(self) -> ExperimentData:
        """Loads the data.

        Raises:
            FileNotFoundError: files are missing; the message says where to get them.
        """
        raise NotImplementedError

    def resolved(self) -> Self:
        """Returns the recipe that is run: this one, or with ``smoke`` a small one.

        Raises:
            ValueError: a value is out of its range; everything but the data is checked, before anything is trained.
        """
        if self.seeds < 1 or self.first_seed < 0:
            raise ValueError(f"seeds must be >= 1 and first_seed >= 0; got {self.seeds} and {self.first_seed}")
        if self.threads < 0:
            raise ValueError(f"threads must be >= 1, or 0 for PyTorch's own choice; got {self.threads}")
        for name, model in {"student": self.student, "teacher.model": self.teacher.model}.items():
            if model not in MODELS:
                raise ValueError(f"{name} must be one of {sorted(MODELS)}; got {model!r}")
        recipe = self._shrunk() if self.smoke else self
        recipe.teacher_training()
        recipe.student_training()
        recipe.augmentor.build()
        recipe.alternation.build()
        return recipe

    def teacher_training(self) -> TrainerConfig:
        """How the teacher is trained."""
        return _training(self.teacher, label_smoothing=self.teacher.label_smoothing)

    def student_training(self) -> TrainerConfig:
        """How the student of every method is trained."""
        return _training(
            self,
            augmentor_learning_rate=self.augmentor.learning_rate,
            student_objective=StudentObjective(self.temperature, self.clean_weight),
            augmentor_objective=self.augmentor.objective(self.temperature),
        )

    def _shrunk(self) -> Self:
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

    def describe(self) -> dict[str, Any]:
        """Returns the content of config.json: every field, nested ones with dots, with its value and its
        source.

        The source of a value that is not the recipe's own is ``"overridden"``.
        """
        leaves = _leaves(self, type(self)())
        fields = {name: {"value": value, "provenance": source} for name, value, source in leaves}
        return {"recipe": self.name, "title": self.title, "citation": self.citation, "fields": fields}


def _training(source: TeacherConfig | Recipe, **options: Any) -> TrainerConfig:
    return TrainerConfig(
        steps=source.steps,
        batch_size=source.batch_size,
        learning_rate=source.learning_rate,
        warmup_steps=source.warmup_steps,
        weight_decay=source.weight_decay,
        validate_every=max(50, source.steps // 10),
        log_every=max(1, min(20, source.steps // 50)),
        **options,
    )


def _leaves(config: Any, defaults: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Gives name, value and source of every field that is not itself a dataclass."""
    for item in dataclasses.fields(config):
        value, default = getattr(config, item.name), getattr(defaults, item.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, default, f"{prefix}{item.name}.")
        else:
            # Where a value came from is told of the recipe's own value, and is no longer true of another one.
            yield prefix + item.name, value, item.metadata["source"] if value == default else "overridden"
