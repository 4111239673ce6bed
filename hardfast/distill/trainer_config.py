"""How long and how fast a network learns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hardfast.distill.execution import Execution
from hardfast.distill.objectives import AugmentorObjective, StudentObjective


@dataclass(frozen=True)
class TrainerConfig:
    """How long and how fast a network learns.

    Args:
        steps: student steps, >= 1. Augmentor steps come on top.
        batch_size: clean images a step, >= 1.
        learning_rate: of AdamW, > 0, reached after ``warmup_steps``, then falling to 0 along half a cosine.
        weight_decay: of AdamW, >= 0.
        warmup_steps: >= 0.
        augmentor_learning_rate: the highest, of Adam, > 0; it rises and falls with the student's, so that the learned
            distribution settles instead of ending wherever it wandered last.
        student_objective: what a student with a teacher minimises.
        augmentor_objective: what the augmentor minimises.
        label_smoothing: in [0, 1], of a network without a teacher.
        ema_decay: of the moving average of the weights, in [0, 1); 0 for none. At step ``n`` it is at most
            ``1 - n**(-2/3)``, so that the average soon forgets the start.
        reuse_augmented: whether the student's next step trains on the images that an augmentor step made, with the
            teacher's answers that are there already.
        cache_teacher: whether the teacher answers the clean images once, before training: ``[N, K]`` float32 in memory.
        execution: how the networks are run.
        validate_every: student steps from one validation and checkpoint to the next, >= 1.
        log_every: steps of a phase from one line of metrics to the next, >= 1.
        most_skipped: steps in a row with a loss or gradients that are not finite, >= 1, at which the training stops;
            each of them is skipped.
        max_unreadable: share of a set's images, in [0, 1), above which files that cannot be read stop the training; for
            fewer, others of their labels stand in.
        snapshots: number of snapshots of the augmentor, >= 2.
        snapshot_images: number of images in them, >= 1.
    """

    steps: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup_steps: int = 0
    augmentor_learning_rate: float = 0.01
    student_objective: StudentObjective = field(default_factory=StudentObjective)
    augmentor_objective: AugmentorObjective = field(default_factory=AugmentorObjective)
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    reuse_augmented: bool = True
    cache_teacher: bool = True
    execution: Execution = field(default_factory=Execution)
    validate_every: int = 200
    log_every: int = 20
    most_skipped: int = 10
    max_unreadable: float = 0.01
    snapshots: int = 9
    snapshot_images: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validate_every", "log_every", "most_skipped", "snapshot_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1; got {getattr(self, name)}")
        for name in ("learning_rate", "augmentor_learning_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be finite and > 0; got {getattr(self, name)}")
        for name in ("weight_decay", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0; got {getattr(self, name)}")
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be in [0, 1]; got {self.label_smoothing}")
        for name in ("ema_decay", "max_unreadable"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1); got {getattr(self, name)}")
        if self.snapshots < 2:
            raise ValueError(f"snapshots must be >= 2 (the first and the last step); got {self.snapshots}")

    def schedule(self, step: int) -> float:
        """What every learning rate is multiplied with after ``step`` student steps, in (0, 1]."""
        warmup = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return warmup * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    @property
    def memory_advice(self) -> str:
        """What to change where memory runs out."""
        hints = [f"a batch_size below {self.batch_size} (--batch-size, or --teacher.batch-size for the teacher)"]
        if self.execution.precision == "float32":
            hints.append("--execution.precision bfloat16")
        if not self.execution.fully_shard:
            hints.append("--execution.fully-shard, where torchrun starts several processes")
        hints.append("fewer --workers, if there are several")
        return f"Memory ran out in training. Try in this order: {'; '.join(hints)}."
