"""The parts of a data set whose images belong to groups."""

from __future__ import annotations

from dataclasses import dataclass

from hardfast.data.groups import GroupedImages


@dataclass(frozen=True)
class GroupedSplits:
    """Training, validation and test parts; whole groups may be absent from the first.

    Args:
        train: what the student may see.
        validation: of all groups; which group an image belongs to is for reports, not for selection.
        test: of all groups.
        class_names: of the labels, in their order.
    """

    train: GroupedImages
    validation: GroupedImages
    test: GroupedImages
    class_names: tuple[str, ...]
