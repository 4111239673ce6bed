"""How well networks answer, on sets of images and under every shift of them.

Several processes deal the chunks of a set among them, so that each image is seen once, and every process returns what
one process alone would, to the last digit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from hardfast.data.groups import GroupedImages
from hardfast.data.image_set import ImageSet
from hardfast.data.shifts import ShiftedSet
from hardfast.distill.constant import held_constant
from hardfast.distill.processes import ALONE, Processes

_Key = TypeVar("_Key", bound=Hashable)
_CALIBRATION_BINS = 15


class SetMetrics(NamedTuple):
    """What :func:`measure` finds of a network on a set: None where it has no teacher, NaN where an answer is NaN.

    Args:
        accuracy: share of the images whose largest logit is at the label.
        agreement: share of the images for which network and teacher give the same answer.
        kl_to_teacher: mean of ``KL(teacher || network)`` in nats, at temperature 1.
        calibration_error: expected calibration error, with 15 bins of equal width.
        nll: mean negative log-likelihood of the labels, in nats.
    """

    accuracy: float
    agreement: float | None
    kl_to_teacher: float | None
    calibration_error: float
    nll: float


class ShiftAccuracy(NamedTuple):
    """Accuracy per shift; ``dx_px`` is to the right and ``dy_px`` down, ``[M]`` each."""

    dx_px: np.ndarray
    dy_px: np.ndarray
    accuracy: np.ndarray

    @property
    def mean(self) -> float:
        """Accuracy over all images under all shifts, in [0, 1]."""
        return float(self.accuracy.mean())


@torch.no_grad()
def predict_logits(
    model: nn.Module, images: Tensor | ImageSet, batch_size: int = 256, processes: Processes = ALONE
) -> Tensor:
    """Runs a network in evaluation mode over images ``[N, C, H, W]`` in chunks; its mode is restored after.

    Args:
        model: maps images to logits.
        images: a tensor, or a set, whose images are moved to the device of the network's parameters.
        batch_size: of the chunks, >= 1.
        processes: among which the chunks are dealt.

    Returns:
        Logits ``[N, K]``, in every process.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1; got {batch_size}")
    numbers = torch.arange(len(images)).split(batch_size)
    device = _device(model)
    answers: list[tuple[Tensor, Tensor]] = []
    with held_constant(model):
        for index in processes.deal(numbers):
            chunk = images[index.to(images.device)] if isinstance(images, Tensor) else images.load(index).to(device)
            answers.append((index, model(chunk)))
    if processes.alone:
        return torch.cat([logits for _, logits in answers])
    return _merged(answers, len(images), processes)


def _merged(answers: Sequence[tuple[Tensor, Tensor]], count: int, processes: Processes) -> Tensor:
    """All processes' answers to ``count`` images, in order."""
    like = answers[0][1] if answers else None
    described = None if like is None else (like.shape[1:], like.dtype, like.device.type)
    shape, dtype, device = next(found for found in processes.gather(described) if found is not None)
    whole = torch.zeros(count, *shape, dtype=dtype, device=device)
    for index, logits in answers:
        whole[index.to(device)] = logits
    return processes.merge(whole)


def accuracy(
    model: nn.Module,
    images: Tensor | ImageSet,
    labels: Tensor,
    batch_size: int = 256,
    processes: Processes = ALONE,
) -> float:
    """Fraction of images ``[N, C, H, W]`` whose largest logit is at the label ``[N]``; NaN is no answer, and so wrong.

    Raises:
        ValueError: there are no images, or their number is not that of the labels.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(f"images and labels must be as many, at least one; got {len(images)} and {len(labels)}")
    logits = predict_logits(model, images, batch_size, processes)
    return int(answered(logits, labels.to(logits.device)).sum()) / len(labels)


def answered(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the largest logit of each row of ``[N, K]`` is at the label ``[N]``; where one is NaN, it is not."""
    return (logits.argmax(1) == labels) & ~logits.isnan().any(1)


def group_accuracies(
    model: nn.Module, tested: GroupedImages, batch_size: int = 1024, processes: Processes = ALONE
) -> dict[str, float]:
    """Accuracy of each group that has images, in [0, 1], by name.

    Worst-group accuracy is the least of them, mean-group accuracy their mean: a large group counts no more than others.

    Raises:
        ValueError: there are no images.
    """
    if len(tested) == 0:
        raise ValueError("tested must hold images, got none")
    logits = predict_logits(model, tested.images, batch_size, processes).cpu()
    correct = answered(logits, tested.images.labels.cpu()).double()
    members = [tested.groups == group for group in range(len(tested.group_names))]
    return {
        name: float(correct[where].mean())
        for name, where in zip(tested.group_names, members, strict=True)
        if where.any()
    }


@torch.no_grad()
def measure(
    networks: Mapping[_Key, nn.Module],
    images: ImageSet,
    *,
    teachers: Mapping[_Key, _Key] | None = None,
    classes: Tensor | None = None,
    batch_size: int = 256,
    processes: Processes = ALONE,
    progress: str | None = None,
) -> dict[_Key, SetMetrics]:
    """Measures networks in evaluation mode on a set, each image of which is loaded once for all of them.

    Args:
        networks: by a key of your choice; all on one device.
        images: at least one; loaded chunk by chunk.
        teachers: for networks that have one, its key among ``networks``.
        classes: ``[S]``, int64, different: the answers to choose from, of which every label is one; the logits of all
            others are left out, for the teacher too. None for all.
        batch_size: of the chunks, >= 1.
        processes: among which the chunks are dealt.
        progress: label of a progress bar; None for no bar.

    Returns:
        The metrics of each network, from exact counts and sums in float64; the same in every process.

    Memory: logits of one chunk, and six numbers per image and network.

    Errors: ``ValueError`` names what does not fit.

    Source: calibration error: Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    if batch_size < 1 or len(images) == 0:
        raise ValueError(f"batch_size and the number of images must be >= 1, got {batch_size} and {len(images)}")
    labels = images.labels.cpu()
    places = labels if classes is None else _places(labels, classes)
    teachers = teachers or {}
    device = _device(*networks.values())
    width = 1 + int((labels if classes is None else classes).max())
    tallies = {key: _Tally(len(images), device, has_teacher=key in teachers) for key in networks}
    chosen = None if classes is None else classes.to(device)
    with held_constant(*networks.values()):
        chunks = torch.arange(len(images)).split(batch_size)
        for index in tqdm(processes.deal(chunks), progress, leave=False, disable=progress is None):
            batch, target = images.load(index).to(device), places[index].to(device)
            logits = {key: _answers(model, batch, width, chosen) for key, model in networks.items()}
            for key, tally in tallies.items():
                tally.add(index, logits[key], target, logits[teachers[key]] if key in teachers else None)
    return {key: tally.metrics(processes) for key, tally in tallies.items()}


class _Tally:
    """What is known of each image under one network, on its device until it is asked for."""

    def __init__(self, count: int, device: torch.device | None, *, has_teacher: bool) -> None:
        self._has_teacher = has_teacher
        # By image, so that sums do not depend on who saw which: correct, as the teacher, KL to the teacher, negative
        # log-likelihood, confidence.
        self._values = torch.zeros(5, count, dtype=torch.float64, device=device)

    def add(self, index: Tensor, logits: Tensor, target: Tensor, teacher: Tensor | None) -> None:
        log_probabilities = logits.double().log_softmax(1)
        confidences, answers = log_probabilities.max(1)
        correct = (answers == target).double().masked_fill(confidences.isnan(), math.nan)
        nll = F.nll_loss(log_probabilities, target, reduction="none")
        agreed = divergence = torch.zeros_like(nll)
        if teacher is not None:
            log_teacher = teacher.double().log_softmax(1)
            best, taught = log_teacher.max(1)
            agreed = (answers == taught).double().masked_fill(confidences.isnan() | best.isnan(), math.nan)
            divergence = F.kl_div(log_probabilities, log_teacher, reduction="none", log_target=True).sum(1)
        self._values[:, index.to(nll.device)] = torch.stack([correct, agreed, divergence, nll, confidences.exp()])

    def metrics(self, processes: Processes) -> SetMetrics:
        # Importing torchmetrics takes a second, which only evaluation needs to wait.
        from torchmetrics.functional.classification import binary_calibration_error

        values = processes.merge(self._values)
        correct, agreed, divergence, nll, _ = values.mean(1).tolist()
        calibration = math.nan
        if math.isfinite(correct):
            # A confidence of exactly 1 belongs to the last bin; torchmetrics gives it one of its own.
            sure = values[4].float().clamp(max=1 - torch.finfo(torch.float32).eps / 2)
            # Whether the answer is right, and how sure of that the network is: a question with two answers.
            calibration = float(
                binary_calibration_error(sure, values[0].long(), _CALIBRATION_BINS, validate_args=False)
            )
        return SetMetrics(
            correct,
            agreed if self._has_teacher else None,
            divergence if self._has_teacher else None,
            calibration,
            nll,
        )


def _answers(model: nn.Module, batch: Tensor, width: int, classes: Tensor | None) -> Tensor:
    logits = model(batch)
    if logits.dim() != 2 or logits.shape[1] < width:
        raise ValueError(
            f"networks must map images to logits of the {width} or more classes that the set has, "
            f"got shape {list(logits.shape)}"
        )
    return logits if classes is None else logits[:, classes]


def _places(labels: Tensor, classes: Tensor) -> Tensor:
    """Where each label stands in ``classes``."""
    classes = classes.cpu()
    order = classes.argsort()
    ascending = classes[order]
    found = torch.searchsorted(ascending, labels).clamp(max=len(classes) - 1)
    if len(ascending.unique()) != len(classes) or bool((ascending[found] != labels).any()):
        raise ValueError("classes must be different and have every label of the images among them")
    return order[found]


def _device(*models: nn.Module) -> torch.device | None:
    weights = itertools.chain.from_iterable(itertools.chain(model.parameters(), model.buffers()) for model in models)
    return next((tensor.device for tensor in weights), None)


def accuracy_per_shift(
    model: nn.Module, shifted: ShiftedSet, batch_size: int = 1024, processes: Processes = ALONE
) -> ShiftAccuracy:
    """Accuracy on a set of images under each of its shifts; one shifted copy is in memory at a time."""
    rows = [(dx, dy, accuracy(model, images, shifted.labels, batch_size, processes)) for dx, dy, images in shifted]
    dx_px, dy_px, accuracies = zip(*rows, strict=True)
    return ShiftAccuracy(np.array(dx_px), np.array(dy_px), np.array(accuracies))
