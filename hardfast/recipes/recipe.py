"""What every recipe is made of: frozen dataclasses whose fields say where their values come from.

The source of a field, in its metadata, is ``"known"`` (the abstract of the paper states it), ``"earlier code"`` (the
authors' public code of earlier work has it), ``"reported"`` (a third party reports it of the paper) or
``"our choice"``.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

import torch
from torch import nn

from hardfast.distill.execution import Execution
from hardfast.distill.processes import Processes
from hardfast.distill.run_dir import ResultRow, RunDir
from hardfast.distill.trainer import TrainerConfig
from hardfast.interruption import Flag, Interrupted, interruption, obey

if TYPE_CHECKING:
    from typing_extensions import Self

#: Networks that are trained once, for several runs.
CACHE = Path("runs", "cache")
_MOST_THREADS = 1024
_Result = TypeVar("_Result")
#: One value a seed, by (method, split, metric).
Results = dict[tuple[str, str, str], list[float]]


def earlier_code(default: Any) -> Any:
    """A field whose value is that of the authors' public code of earlier work."""
    return field(default=default, metadata={"source": "earlier code"})


def reported(default: Any) -> Any:
    """A field whose value a third party reports of the paper."""
    return field(default=default, metadata={"source": "reported"})


def our_choice(default: Any) -> Any:
    """A field whose value is ours."""
    return field(default=default, metadata={"source": "our choice"})


class Published(NamedTuple):
    """A published result: a value, such as an accuracy in [0, 1], and where it stands."""

    method: str
    split: str
    value: float
    source: str
    metric: str = "accuracy"


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
class ExecutionConfig:
    """How networks are run in training.

    Args:
        compile: whether student, teacher and augmentor are compiled, each as one graph.
        precision: of the networks' layers.
        channels_last: whether images and convolutions have their channels innermost.
        fold_teacher: whether the teacher's batch norms are folded into its convolutions, which rounds otherwise.
        fully_shard: whether the processes of torchrun divide the weights of the network that learns among them, its
            gradients and its optimizer's state; it changes memory, speed and rounding.
    """

    compile: bool = our_choice(False)
    precision: Literal["float32", "bfloat16"] = our_choice("float32")
    channels_last: bool = our_choice(True)
    fold_teacher: bool = our_choice(False)
    fully_shard: bool = our_choice(False)

    def build(self) -> Execution:
        """What the trainer takes."""
        return Execution(self.compile, self.precision, self.channels_last, self.fold_teacher, self.fully_shard)


@dataclass(frozen=True)
class Recipe:
    """An experiment, run for several seeds.

    Args:
        seeds: number of seeds.
        first_seed: the seeds are this and the following ones.
        device: ``auto`` for a GPU where there is one.
        threads: CPU threads of PyTorch; 0 for PyTorch's own choice.
        smoke: shrinks everything to seconds, to see that it runs; the results mean nothing.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    citation: ClassVar[str]
    published: ClassVar[tuple[Published, ...]] = ()

    seeds: int = our_choice(3)
    first_seed: int = our_choice(0)
    device: Literal["auto", "cpu", "cuda"] = our_choice("auto")
    threads: int = our_choice(0)
    smoke: bool = our_choice(False)

    def run(self, run_dir: RunDir, progress: bool = True) -> list[ResultRow]:
        """Runs every method for every seed and writes the run.

        Raises:
            FileNotFoundError: data or models are missing; the message says where to get them.
            OSError: the directory cannot be written.
        """
        raise NotImplementedError

    def resolved(self) -> Self:
        """Returns the recipe that is run: this one, or with ``smoke`` a small one.

        Raises:
            ValueError: a value is out of its range, or chosen where it has no effect; everything but the data is
                checked, before anything is trained.
        """
        unused, own = self.unused(), type(self)()
        # What nobody chose: the recipe's own values, those that smoke makes of them, and those of each part's class.
        given = [own.values(), (own.shrunk() if self.smoke else own).values()]
        for name, value, item in _leaves(self):
            _check_value(name, value)
            known = [item.default, *(values.get(name, value) for values in given)]
            if name in unused and value not in known:
                raise ValueError(f"{name} has no effect here: it is {unused[name]}; leave it out, got {value!r}")
        if self.seeds < 1 or self.first_seed < 0:
            raise ValueError(f"seeds must be >= 1 and first_seed >= 0; got {self.seeds} and {self.first_seed}")
        if not 0 <= self.threads <= _MOST_THREADS:
            raise ValueError(
                f"threads must be from 1 to {_MOST_THREADS}, or 0 for PyTorch's own choice; got {self.threads}"
            )
        return self.shrunk() if self.smoke else self

    def unused(self) -> dict[str, str]:
        """The fields that other fields leave without effect, nested ones with dots, and what each is of.

        Those that only some methods read are not among them: which methods run is changed from run to run.
        """
        return {}

    def shrunk(self) -> Self:
        """Returns the recipe that ``smoke`` stands for."""
        raise NotImplementedError

    def values(self, *without: str) -> dict[str, Any]:
        """Fields and their values, nested ones with dots, but for those below the given names."""
        return {name: value for name, value, _ in _leaves(self) if name.split(".")[0] not in without}

    def describe(self) -> dict[str, Any]:
        """Returns the content of config.json: every field, nested ones with dots, with its value and its
        source.

        The source of a value that is not the recipe's own is ``"overridden"``.
        """
        own = type(self)().values()
        # Where a value came from is told of the recipe's own value, and is no longer true of another one.
        fields = {
            name: {"value": value, "provenance": item.metadata["source"] if value == own[name] else "overridden"}
            for name, value, item in _leaves(self)
        }
        return {"recipe": self.name, "title": self.title, "citation": self.citation, "fields": fields}

    def result_rows(self, results: Results) -> list[ResultRow]:
        """Joins what was measured with what was published, also of methods that are not run here."""
        published = {(row.method, row.split, row.metric): row for row in self.published}
        rows = []
        for key in [*results, *(key for key in published if key not in results)]:
            other = published.get(key)
            value, source = (None, None) if other is None else (other.value, other.source)
            rows.append(ResultRow(self.name, *key, results.get(key, []), value, source))
        return rows

    @contextmanager
    def machine(self) -> Iterator[torch.device]:
        """Sets PyTorch's CPU threads inside the block, and gives the device."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device must be 'auto' or 'cpu' on this machine: PyTorch finds no usable GPU; got 'cuda'")
        cuda = self.device != "cpu" and torch.cuda.is_available()
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(self.threads or before)
            yield torch.device("cuda" if cuda else "cpu")
        finally:
            torch.set_num_threads(before)


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Makes a network, with weights from a seed of its own; PyTorch's random state is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def training_config(source: Any, **options: Any) -> TrainerConfig:
    """How the network of a recipe's part is trained, by its fields of the same names."""
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


def check_workers(workers: int, processes: Processes) -> None:
    """Seeds are dealt among the workers of one process, or several processes share each of them.

    Raises:
        ValueError: both are asked for.
    """
    if workers > 1 and not processes.alone:
        raise ValueError(f"workers must be 1 where {processes.world_size} processes train together; got {workers}")


def of_each_seed(function: Callable[[int], _Result], seeds: Sequence[int], workers: int) -> Iterator[_Result]:
    """Calls a function of every seed, in order; with several workers in processes of their own.

    Args:
        function: can be pickled.
        seeds: its arguments.
        workers: number of processes, >= 1; 1 for this one.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, once every process has saved a checkpoint; at once after a second one.
        WorkerDiedError: a process ended without an answer.
    """
    if workers == 1:
        yield from map(function, seeds)
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    told = "every process saves what it has learned"
    with ProcessPoolExecutor(workers, context, _begin_worker, (stop,)) as pool, interruption(told, stop) as asked:
        try:
            for answer in [pool.submit(_unless_stopped, function, seed) for seed in seeds]:
                yield answer.result()
        except BrokenProcessPool as error:
            asked.raise_if_requested()
            raise WorkerDiedError(
                f"one of the {workers} processes of --workers died; if it was killed for want of memory, take fewer. "
                "The others saved what they had learned, and the same command continues"
            ) from error
        except Interrupted:  # a second time: nobody is waited for
            for child in multiprocessing.active_children():
                child.kill()
            raise
        finally:
            stop.set()


class WorkerDiedError(RuntimeError):
    """A process that trained some of the seeds ended without an answer."""


def _begin_worker(stop: Flag) -> None:
    """Lets a process stop when its parent says so, or is no more."""
    obey(stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _unless_stopped(function: Callable[[int], _Result], seed: int) -> _Result:
    try:
        with interruption("") as asked:
            asked.raise_if_requested()
        return function(seed)
    except Interrupted:
        sys.stdout.flush()
        os._exit(0)  # or the pool would give this process the next seed


def of_other_choices(field: str, choice: str, users: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """What :meth:`Recipe.unused` says of options that not every choice of one field reads.

    Args:
        field: that chooses, such as ``augmentor.family``.
        choice: its value.
        users: by the name of an option, the choices that read it.
    """
    return {
        name: f"for {field} {', '.join(choices)}, not {choice!r}"
        for name, choices in users.items()
        if choice not in choices
    }


def prefixed(prefix: str, names: Mapping[str, str]) -> dict[str, str]:
    """With ``prefix`` and a dot before each name."""
    return {f"{prefix}.{name}": value for name, value in names.items()}


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Gives every field that is not itself a dataclass: its name with dots, its value, and the field."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, value, item


def _check_value(name: str, value: Any) -> None:
    """Refuses what no field means, whatever it is of: numbers that are not finite, or too large for a count or seed."""
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"{name} must be finite; got {item}")
        if isinstance(item, int) and abs(item) >= 2**31:
            raise ValueError(f"{name} must be less than 2**31; got {item}")
