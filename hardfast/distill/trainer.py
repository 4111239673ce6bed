"""A plain trainer: a network on labels, a student of a teacher, or a student with an augmentor."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hardfast.augment import Augmentor
from hardfast.data.image_set import ImageSet
from hardfast.data.readable_images import readable, shown, unreadable
from hardfast.distill.alternation import Alternation
from hardfast.distill.batches import ShuffledBatches
from hardfast.distill.evaluate import accuracy, predict_logits
from hardfast.distill.finite_steps import FiniteSteps
from hardfast.distill.learner import Learner
from hardfast.distill.processes import ALONE, Processes
from hardfast.distill.random_state import OwnRandomState
from hardfast.distill.run_dir import MethodDir
from hardfast.distill.shard import Shard, sharded
from hardfast.distill.sharded_layers import shard_layers
from hardfast.distill.snapshots import SnapshotRecorder
from hardfast.distill.step import AugmentorStep, augmentor_step, student_step, supervised_step
from hardfast.distill.trainer_config import TrainerConfig
from hardfast.interruption import Interruption, interruption
from hardfast.out_of_memory import advice_when_out_of_memory

__all__ = ["Trainer", "TrainerConfig", "TrainingSummary", "Transform"]

#: Maps images ``[B, C, H, W]`` and a source of noise to images of the same shape.
Transform = Callable[[Tensor, torch.Generator | None], Tensor]


@dataclass(frozen=True)
class TrainingSummary:
    """What a training came to; accuracies are on clean validation images, in [0, 1].

    Skipped steps, of student and augmentor, are those with a loss or gradients that were not finite.
    """

    steps: int
    augmentor_steps: int
    validation_accuracy: float
    best_validation_accuracy: float
    best_step: int
    skipped_steps: int


class Trainer:
    """Trains one network; the same seed and number of threads give bitwise the same weights.

    Several processes train one network together, each on its part of every batch: what they come to is what one process
    comes to, up to rounding.

    Without a teacher the network learns from labels. With a teacher it is a student of the teacher's answers;
    with an augmentor too, on augmented images as well; and with an alternation the augmentor learns. With generated
    images it sees as many of these as of the others. What is validated, and what :attr:`trained` gives, is the moving
    average of the weights where there is one.

    Args:
        model: the network to train; the images are moved to its device.
        train: training images and labels.
        validation: clean images and labels; the weights of the best accuracy on them are kept.
        config: how long and how fast.
        teacher: a constant.
        augmentor: needs a teacher.
        alternation: when the augmentor learns; None if never. Needs an augmentor.
        generated: more images for the student, such as those of the generator. Needs a teacher, and no augmentor.
        transform: changes the images of a network that learns from labels and leaves the labels true. Needs no teacher.
        first_step: steps that the network took before, for the log.
        seed: of batches, noise and dropout, >= 0.
        directory: where metrics, weights, checkpoints and snapshots go; None for nowhere.
        processes: those that train together. With several, layers of the model are replaced (:func:`shard_layers`), and
            with ``config.execution.fully_shard`` it has its weights before and after :meth:`fit`.
        progress: text before a progress bar, which is shown where there is a terminal; None for no bar.
    """

    def __init__(
        self,
        model: nn.Module,
        train: ImageSet,
        validation: ImageSet,
        config: TrainerConfig,
        *,
        teacher: nn.Module | None = None,
        augmentor: Augmentor | None = None,
        alternation: Alternation | None = None,
        generated: ImageSet | None = None,
        transform: Transform | None = None,
        first_step: int = 0,
        seed: int = 0,
        directory: MethodDir | None = None,
        processes: Processes = ALONE,
        progress: str | None = None,
    ) -> None:
        if augmentor is not None and teacher is None:
            raise ValueError("augmentor needs a teacher: labels need not hold for augmented images; got teacher=None")
        if alternation is not None and augmentor is None:
            raise ValueError("alternation needs an augmentor to train; got augmentor=None")
        if generated is not None and (teacher is None or augmentor is not None or not len(generated)):
            raise ValueError(
                "generated needs images, a teacher and no augmentor; "
                f"got {len(generated)} images, {teacher and 'a teacher'} and {augmentor and 'an augmentor'}"
            )
        if transform is not None and teacher is not None:
            raise ValueError("transform is for networks that learn from labels; got a teacher as well")
        if len(train) == 0 or len(validation) == 0:
            raise ValueError(f"train and validation must hold images; got {len(train)} and {len(validation)}")
        self._told_unreadable = 0
        self._processes = processes
        self._shard = Shard(processes, config.batch_size)
        self.model = model = shard_layers(model, self._shard)
        self.train = readable(train, config.max_unreadable)
        self.validation = readable(validation, config.max_unreadable)
        self.config = config
        self.teacher = teacher
        self.augmentor = augmentor
        self.alternation = alternation
        self.directory = directory
        self.progress = progress
        self.step = 0
        self.augmentor_steps = 0
        self.best_step = 0
        self.best_accuracy = -math.inf
        self.last_accuracy = math.nan
        self._device = next(model.parameters()).device
        self.generated = None if generated is None else readable(generated, config.max_unreadable)
        self.transform = sharded(transform, self._shard)
        self.first_step = first_step
        self.seed = seed
        self._noise = torch.Generator(self._device).manual_seed(seed)
        self._random_state = OwnRandomState(self._device, seed)
        self._batches = ShuffledBatches(len(train), config.batch_size, 2 * seed)
        # The augmentor's batches or those of generated images: no student has both.
        others = len(train) if generated is None else len(generated)
        self._other_batches = ShuffledBatches(others, config.batch_size, 2 * seed + 1)
        self._learner = Learner(model, config, processes)
        self._augmentor_optimizer: torch.optim.Adam | None = None
        self._augmentor_finite: FiniteSteps | None = None
        self._unused: AugmentorStep | None = None
        self._snapshots: SnapshotRecorder | None = None
        if augmentor is not None:
            images = self._load(self.train, torch.arange(min(config.snapshot_images, len(train))))
            self._snapshots = SnapshotRecorder(augmentor, images, config.steps, config.snapshots, seed)
        if augmentor is not None and alternation is not None:
            self._augmentor_optimizer = torch.optim.Adam(
                augmentor.parameters(), lr=config.augmentor_learning_rate, fused=True
            )
            self._augmentor_finite = FiniteSteps(self._augmentor_optimizer, augmentor, config.most_skipped)
        execution = config.execution
        self._run_teacher = None if teacher is None else execution.teacher(teacher)
        self._run_augmentor = None if augmentor is None else execution.augmentor(augmentor, self._shard)
        self._learning_augmentor = None
        if self._run_augmentor is not None and alternation is not None:
            self._learning_augmentor = processes.wrap(self._run_augmentor)
        # Clean images are never changed on the way, so the teacher answers each of them once.
        self._teacher_clean = self._teacher_generated = None
        if teacher is not None and config.cache_teacher:
            self._teacher_clean = predict_logits(teacher, self.train, processes=processes)
        if teacher is not None and self.generated is not None:
            self._teacher_generated = predict_logits(teacher, self.generated, processes=processes)
        self._clock = (time.perf_counter(), 0)
        last_step = first_step + config.steps
        self._checkpoints = None if directory is None else directory.checkpoints(first_step, last_step)

    def resume(self) -> bool:
        """Goes back to the directory's last whole checkpoint of this training, its metrics too; damaged ones are told.

        Of a method that is finished the metrics stay as they are, and where it must be trained again, for what comes
        after it, nothing is written.

        Returns:
            Whether there was one.

        Raises:
            ValueError: the checkpoint is of a trainer with other parts.
            OSError: a checkpoint cannot be read, or the metrics cannot be written.
        """
        if self._checkpoints is None or self.directory is None:
            return False
        loaded = self._checkpoints.load()
        for sentence in loaded.broken if self._processes.first else ():
            instead = "the training begins again" if loaded.path is None else f"{loaded.path.name} is used instead"
            tqdm.write(f"{sentence}; {instead}", file=sys.stderr)
        finished = self.directory.tested() is not None
        if loaded.state is None:
            if finished:
                self.directory = self._checkpoints = None
            return False
        self.load_state_dict(loaded.state["trainer"])
        if not finished:
            self.directory.restore_metrics(loaded.state["metrics"])
        return True

    def fit(self) -> TrainingSummary:
        """Trains from where the trainer stands to the last step.

        Raises:
            FloatingPointError: too many steps in a row had a loss or gradients that are not finite.
            OSError: the directory cannot be written; the previous checkpoint survives.
            Interrupted: after Ctrl-C or SIGTERM, once a checkpoint is saved; at once after a second one.
            torch.OutOfMemoryError, RuntimeError: an allocator's, with what to try.
        """
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            desc=self.progress,
            unit="step",
            leave=False,
            disable=True if self.progress is None else None,
        )
        self._clock = (time.perf_counter(), self.step)
        if self.config.execution.compile:
            # PyTorch keeps a limited number of compiled graphs for each class; those of other trainings are done with.
            torch.compiler.reset()
        with (
            bar,
            self._random_state.inside(),
            advice_when_out_of_memory(self.config.memory_advice),
            interruption("saving what was learned") as asked,
            self._learner.training(),
        ):
            self._record_snapshot()
            while self.step < self.config.steps:
                if self.alternation is not None and self.alternation.phase == "augmentor":
                    self._augmentor_step()
                    continue
                self._student_step(bar)
                bar.update()
                self._record_snapshot()
                if self.step % self.config.validate_every == 0 or self.step == self.config.steps:
                    with self._learner.whole():
                        self._validate()
                stop, due = self._agreed(asked)
                self._save_checkpoint(stop or due)
                if stop:
                    asked.raise_if_requested()
        return TrainingSummary(
            self.step,
            self.augmentor_steps,
            self.last_accuracy,
            self.best_accuracy,
            self.best_step,
            self._skipped_steps(),
        )

    @property
    def trained(self) -> nn.Module:
        """The network to use: the moving average of the weights, or the model itself where there is none."""
        return self._learner.trained

    def state_dict(self) -> dict[str, Any]:
        """Everything that a trainer of the same arguments needs to go on bitwise as this one would.

        The same however many processes there are. Of a fully sharded model all must call it, and the first one alone is
        given whole tensors.
        """
        # An augmentor step to be reused is not in it: the next student step uses that up, and is before any checkpoint.
        state: dict[str, Any] = {
            "step": self.step,
            "augmentor_steps": self.augmentor_steps,
            "best_step": self.best_step,
            "best_accuracy": self.best_accuracy,
            "last_accuracy": self.last_accuracy,
            "noise": self._noise.get_state(),
            "dropout": self._random_state.kept,
            **self._learner.state_dict(),
        }
        parts = self._optional_parts()
        return state | {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state_dict`.

        Raises:
            ValueError: the state is of a trainer with other parts.
        """
        parts = self._optional_parts()
        if missing := [name for name in (*self._learner.parts, *parts) if name not in state]:
            raise ValueError(f"state must come from a trainer with the same parts; it lacks {missing}")
        self._learner.load_state_dict(state)
        self._noise.set_state(state["noise"])
        self._random_state.kept = state["dropout"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
        for name in ("step", "augmentor_steps", "best_step", "best_accuracy", "last_accuracy"):
            setattr(self, name, state[name])

    def _optional_parts(self) -> dict[str, Any]:
        parts = {
            "augmentor": self.augmentor,
            "augmentor_optimizer": self._augmentor_optimizer,
            "alternation": self.alternation,
            "augmentor_finite": self._augmentor_finite,
            "snapshots": self._snapshots,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _student_step(self, bar: tqdm) -> None:
        _set_learning_rate(self._learner.optimizer, self.config.learning_rate * self.config.schedule(self.step))
        index = self._shard.of(self._batches.indices(self.step))
        images = self._load(self.train, index)
        disagreement = consistency = None
        if self._run_teacher is None:
            labels = self.train.labels[index.to(self.train.labels.device)].to(self._device)
            if self.transform is not None:
                images = self.config.execution.images(self.transform(images, self._noise))
            loss = supervised_step(
                self._learner.learning,
                images,
                labels,
                self._learner.optimizer,
                label_smoothing=self.config.label_smoothing,
                finite=self._learner.finite,
                shard=self._shard,
            )
        else:
            reused, self._unused = self._unused, None
            others = self._generated_batch() if reused is None else (reused.images, reused.teacher_logits)
            loss, disagreement, consistency = student_step(
                self._learner.learning,
                self._run_teacher,
                images,
                self._learner.optimizer,
                self.config.student_objective,
                augmentor=self._run_augmentor if others is None else None,
                teacher_clean=self._teacher_answers(index),
                generated=others,
                generator=self._noise,
                finite=self._learner.finite,
                shard=self._shard,
            )
            if reused is not None:
                consistency = reused.teacher_consistency
        self.step += 1
        self._learner.update_average(self.step)
        if self.alternation is not None and disagreement is not None:
            self.alternation.update(disagreement)
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            self._log_student(bar, loss, disagreement, consistency)

    def _augmentor_step(self) -> None:
        assert self._learning_augmentor is not None
        assert self.alternation is not None
        assert self._run_teacher is not None
        assert self._augmentor_optimizer is not None
        index = self._shard.of(self._other_batches.indices(self.augmentor_steps))
        rate = self.config.augmentor_learning_rate * self.config.schedule(self.step)
        _set_learning_rate(self._augmentor_optimizer, rate)
        taken = augmentor_step(
            self._learning_augmentor,
            self._learner.constant,
            self._run_teacher,
            self._load(self.train, index),
            self._augmentor_optimizer,
            self.config.augmentor_objective,
            teacher_clean=self._teacher_answers(index),
            generator=self._noise,
            finite=self._augmentor_finite,
            shard=self._shard,
        )
        self._unused = taken if self.config.reuse_augmented else None
        self.augmentor_steps += 1
        self.alternation.update(taken.disagreement)
        # Its first step is always logged, so that a short run has a line of this phase.
        if self.augmentor_steps % self.config.log_every == 1 or self.config.log_every == 1:
            self._log_augmentor(taken)

    def _log_student(self, bar: tqdm, loss: Tensor, disagreement: Tensor | None, consistency: Tensor | None) -> None:
        scalars = {"student_loss": float(loss)}
        if disagreement is not None:
            scalars["disagreement"] = float(disagreement)
        if consistency is not None:
            scalars["teacher_consistency"] = float(consistency)
        then, step = self._clock
        now = time.perf_counter()
        self._clock = (now, self.step)
        scalars["images_per_second"] = (self.step - step) * self.config.batch_size / max(now - then, 1e-9)
        scalars["learning_rate"] = self.config.learning_rate * self.config.schedule(self.step - 1)
        scalars |= self._augmentor_scalars()
        if skipped := self._skipped_steps():
            scalars["skipped_steps"] = skipped
        bar.set_postfix(loss=f"{scalars['student_loss']:.3f}", refresh=False)
        self._log(phase="student", **scalars)

    def _log_augmentor(self, taken: AugmentorStep) -> None:
        self._log(
            phase="augmentor",
            augmentor_loss=float(taken.loss),
            disagreement=float(taken.disagreement),
            teacher_consistency=float(taken.teacher_consistency),
            **self._augmentor_scalars(),
        )

    def _skipped_steps(self) -> int:
        name = "network" if self.teacher is None else "student"
        skipped = self._learner.finite.skipped(name, self.first_step + self.step)
        if self._augmentor_finite is not None:
            skipped += self._augmentor_finite.skipped("augmentor", self.first_step + self.step)
        return skipped

    def _augmentor_scalars(self) -> dict[str, float]:
        if self.augmentor is None:
            return {}
        return {**self.augmentor.scalars(), "augmentor_steps": self.augmentor_steps}

    def _tell_unreadable(self) -> None:
        """Writes down which images could not be read, when there are more of them."""
        mine = [text for images in (self.train, self.validation, self.generated) for text in unreadable(images)]
        found = sorted({text for texts in self._processes.gather(mine) for text in texts})
        if self.directory is not None and len(found) > self._told_unreadable:
            self.directory.add_unreadable(found)
            if self._processes.first:
                tqdm.write(f"{found[-1]}; {len(found)} such so far, and others stand in for them", file=sys.stderr)
        self._told_unreadable = len(found)

    def _load(self, images: ImageSet, index: Tensor) -> Tensor:
        return self.config.execution.images(images.load(index).to(self._device))

    def _teacher_answers(self, index: Tensor) -> Tensor | None:
        return None if self._teacher_clean is None else self._teacher_clean[shown(self.train, index).to(self._device)]

    def _generated_batch(self) -> tuple[Tensor, Tensor] | None:
        """Generated images of this step, and the teacher's logits on them."""
        if self.generated is None or self._teacher_generated is None:
            return None
        index = self._shard.of(self._other_batches.indices(self.step))
        images = self._load(self.generated, index)
        return images, self._teacher_generated[shown(self.generated, index).to(self._device)]

    def _log(self, **values: float | str) -> None:
        if self.directory is not None:
            self.directory.log(self.first_step + self.step, **values)

    def _record_snapshot(self) -> None:
        if self._snapshots is not None:
            self._snapshots.record(self.step)

    def _validate(self) -> None:
        self.last_accuracy = accuracy(self.trained, self.validation, self.validation.labels, processes=self._processes)
        self._log(split="validation", validation_accuracy=self.last_accuracy)
        # Of equally good weights the later ones have learned more: a small validation set has many ties.
        is_best = self.last_accuracy >= self.best_accuracy
        if is_best:
            self.best_accuracy, self.best_step = self.last_accuracy, self.step
        self._random_state.keep()
        self._tell_unreadable()
        if self.directory is None:
            return
        if is_best:
            self.directory.save_weights("best", self.trained)
        self.directory.save_weights("last", self.model)
        if self.trained is not self.model:
            self.directory.save_weights("ema", self.trained)
        if self.augmentor is not None and self._snapshots is not None:
            self.directory.save_weights("augmentor", self.augmentor)
            self.directory.save_arrays("snapshots", **self._snapshots.arrays())

    def _agreed(self, asked: Interruption) -> tuple[bool, bool]:
        """Whether to stop, and whether a checkpoint is due, in which all processes are of one mind."""
        step = self.first_step + self.step
        due = self.step == self.config.steps or (self._checkpoints is not None and self._checkpoints.due(step))
        if self._processes.alone:
            return asked.requested, due
        if self.step % self.config.log_every and self.step < self.config.steps:  # an exchange takes its time
            return False, False
        said = self._processes.stack(torch.tensor([asked.requested, due], dtype=torch.int64))
        stop = bool(said[:, 0].any())
        if stop and not asked.requested:
            asked.request(signal.SIGTERM)
        return stop, bool(said[0, 1])

    def _save_checkpoint(self, now: bool) -> None:
        """Saves where the trainer stands."""
        if not now or self._checkpoints is None or self.directory is None:
            return
        self._random_state.keep()
        self._tell_unreadable()
        state = self.state_dict()
        if self._processes.first:
            whole = {"trainer": state, "metrics": self.directory.metrics()}
            self._checkpoints.save(self.first_step + self.step, whole)


def _set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
