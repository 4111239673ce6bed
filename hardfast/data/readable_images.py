"""A set some of whose images cannot be read."""

from __future__ import annotations

import torch
from torch import Tensor

from hardfast.data.image_files import UnreadableImageError
from hardfast.data.image_set import ImageSet
from hardfast.data.splits import LabelledImages

__all__ = ["ReadableImages", "readable", "shown", "unreadable"]

_TOLD = 3


class ReadableImages:
    """An :class:`~hardfast.data.ImageSet` that does without files which are gone or damaged, up to a share of them.

    Where one cannot be read, the next one with its label stands in for it, here and in every later batch, so that
    labels stay true and batches full. What stands in is an image of the set itself.

    Args:
        images: the set; ``load`` raises ``UnreadableImageError`` or ``FileNotFoundError`` for what cannot be read.
        max_unreadable: share of the images, in [0, 1), above which loading raises.

    Memory: a number and a sentence for each image that could not be read.
    """

    def __init__(self, images: ImageSet, max_unreadable: float) -> None:
        self.images, self.max_unreadable = images, max_unreadable
        self.unreadable: list[str] = []
        self._stand_ins: dict[int, int] = {}

    @property
    def labels(self) -> Tensor:
        """``[N]``, int64."""
        return self.images.labels

    def __len__(self) -> int:
        return len(self.images)

    def shown(self, index: Tensor) -> Tensor:
        """The numbers of the images that stand, so far, for those of the numbers ``index``."""
        if not self._stand_ins:
            return index
        return torch.tensor([self._stand_ins.get(number, number) for number in index.tolist()], dtype=torch.int64)

    def load(self, index: Tensor) -> Tensor:
        """Images of the numbers ``index``, ``[n]``, int64.

        Raises:
            UnreadableImageError: too many cannot be read.
        """
        index = self.shown(index)
        try:
            return self.images.load(index)
        except (UnreadableImageError, FileNotFoundError):
            return torch.cat([self._load_one(number) for number in index.tolist()])

    def _load_one(self, number: int) -> Tensor:
        labels = self.labels.cpu()
        same = (labels == labels[number]).nonzero()[:, 0].tolist()
        place = same.index(number)
        failed = []
        for candidate in (*same[place:], *same[:place]):
            candidate = self._stand_ins.get(candidate, candidate)
            if candidate in failed:
                continue
            try:
                image = self.images.load(torch.tensor([candidate]))
            except (UnreadableImageError, FileNotFoundError) as error:
                failed.append(candidate)
                self._bear(error)
                continue
            before = {number: candidate for number, at in self._stand_ins.items() if at in failed}
            self._stand_ins |= before | dict.fromkeys(failed, candidate)
            return image
        raise UnreadableImageError(f"none of the {len(same)} images with the label {int(labels[number])} can be read")

    def _bear(self, error: Exception) -> None:
        """Notes an image that cannot be read, or raises where there are too many."""
        self.unreadable.append(str(error))
        if len(self.unreadable) > self.max_unreadable * len(self):
            told = "; ".join(self.unreadable[:_TOLD])
            more = len(self.unreadable) - _TOLD
            raise UnreadableImageError(
                f"{len(self.unreadable)} of {len(self)} images cannot be read, more than the share of "
                f"{self.max_unreadable:g} that a training does without: {told}" + (f"; and {more} more" * (more > 0))
            ) from error


def readable(images: ImageSet, max_unreadable: float) -> ImageSet:
    """The set as :class:`ReadableImages`, or as it is where it is in memory."""
    return images if isinstance(images, LabelledImages) else ReadableImages(images, max_unreadable)


def shown(images: ImageSet, index: Tensor) -> Tensor:
    """The numbers of the images that ``images`` has brought for those of the numbers ``index``."""
    return images.shown(index) if isinstance(images, ReadableImages) else index


def unreadable(images: ImageSet | None) -> list[str]:
    """A sentence for each image of a set that could not be read so far."""
    return images.unreadable if isinstance(images, ReadableImages) else []
