"""The spurious score: how well the probability of a class tells it from what only goes with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from hardfast.data.groups import GroupedImages
from hardfast.distill.evaluate import predict_logits


@dataclass(frozen=True)
class SpuriousScores:
    """Per class, how well its probability ranks images that show it before those with its spurious feature alone.

    Args:
        classes: ``[M]``, the labels that were scored.
        average_precision: ``[M]``, in [0, 1]; what the authors' code publishes. By chance, the share of images that
            show the class: 0.4 for 50 against 75.
        roc_auc: ``[M]``, in [0, 1]; 0.5 by chance.
    """

    classes: np.ndarray
    average_precision: np.ndarray
    roc_auc: np.ndarray

    @property
    def mean_average_precision(self) -> float:
        """Averaged over the classes."""
        return float(self.average_precision.mean())

    @property
    def mean_roc_auc(self) -> float:
        """Averaged over the classes."""
        return float(self.roc_auc.mean())


def class_probabilities(model: nn.Module, images: GroupedImages, *, batch_size: int = 256) -> Tensor:
    """The probability that a network in evaluation mode gives the label of each image, ``[N]``, float64 on the CPU.

    Args:
        model: maps images ``[B, C, H, W]`` to logits ``[B, K]``; its mode is restored after.
        images: loaded a batch at a time.
        batch_size: >= 1.

    Raises:
        ValueError: a label is none of the ``K`` classes.
    """
    logits = predict_logits(model, images.images, batch_size).cpu()
    labels = images.images.labels.cpu()
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"labels must be among the {logits.shape[1]} classes of the model, got {labels}")
    return logits.double().softmax(1).gather(1, labels[:, None])[:, 0]


def spurious_scores(probabilities: Tensor, labels: Tensor, spurious: Tensor) -> SpuriousScores:
    """Scores class by class; both measures are scikit-learn's.

    Args:
        probabilities: ``[N]``, of the label of each image.
        labels: ``[N]``, the class that an image shows or must not be taken for.
        spurious: ``[N]``, whether the image shows the spurious feature alone.

    Raises:
        ValueError: shapes differ, a probability is not finite, or a class has images of one kind only.

    Source: Neuhaus et al., Spurious Features Everywhere, 2023, section 5.
    """
    # scikit-learn takes a second to import, and only this function needs it.
    from sklearn.metrics import average_precision_score, roc_auc_score

    if not probabilities.shape == labels.shape == spurious.shape or probabilities.dim() != 1 or not len(labels):
        raise ValueError(
            "probabilities, labels and spurious must have one shape [N] with N >= 1, got "
            f"{list(probabilities.shape)}, {list(labels.shape)} and {list(spurious.shape)}"
        )
    if not bool(probabilities.isfinite().all()):
        raise ValueError("probabilities must be finite, got NaN or infinity")
    values, classes, shown = probabilities.cpu().numpy(), labels.cpu().numpy(), ~spurious.bool().cpu().numpy()
    precision, auc = [], []
    for label in np.unique(classes):
        of_class = classes == label
        if len(np.unique(shown[of_class])) != 2:
            raise ValueError(f"labels must have images that show them and spurious ones, got one kind for {label}")
        precision.append(average_precision_score(shown[of_class], values[of_class]))
        auc.append(roc_auc_score(shown[of_class], values[of_class]))
    return SpuriousScores(np.unique(classes), np.array(precision), np.array(auc))
