"""What is known of generated images and of a set of them, as it lies in JSON beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hardfast.ops import _checks

__all__ = ["FORMATS", "Candidate", "Settings"]

FORMATS = ("folder", "webdataset")
_MOST = 10**9  # images of a set


@dataclass(frozen=True)
class Candidate:
    """What became of one number of the set.

    Args:
        number: its place in the set.
        seed: what its noise and cut-outs came from.
        label: the class that it was to show.
        class_name: the name of that.
        teacher_before: the teacher's probability of the label on the unguided image; None where it was not finite.
        teacher_after: on the final image.
        student_before: the student's.
        student_after: on the final image.
        score: the objective of the final image.
        kept: whether the image is in the set.
        reason: why not: ``"not finite"`` or ``"teacher"``; None where it was kept.
    """

    number: int
    seed: int
    label: int
    class_name: str
    teacher_before: float | None
    teacher_after: float | None
    student_before: float | None
    student_after: float | None
    score: float | None
    kept: bool
    reason: str | None = None

    def __post_init__(self) -> None:
        for name in ("number", "seed", "label"):
            _checks.integer(name, getattr(self, name), 0)
        for name in ("teacher_before", "teacher_after", "student_before", "student_after", "score"):
            value = getattr(self, name)
            if value is not None:
                _checks.number(name, value)
        if not isinstance(self.kept, bool):
            raise TypeError(f"kept must be true or false, got {self.kept!r}")
        _text("class_name", self.class_name)
        if self.reason is not None:
            _text("reason", self.reason)


@dataclass(frozen=True)
class Settings:
    """All that decides what is in a set, as ``generation.json`` has it."""

    recipe: str
    fields: Mapping[str, Any]
    format: str
    class_names: tuple[str, ...]
    group_size: int
    count: int

    def __post_init__(self) -> None:
        _checks.one_of("format", self.format, FORMATS)
        _checks.integer("group_size", self.group_size, 1)
        _checks.integer("count", self.count, 1)
        if self.count > _MOST:
            raise ValueError(f"count must be at most {_MOST}, got {self.count}")
        if not isinstance(self.fields, Mapping):
            raise TypeError(f"fields must be values by name, got {type(self.fields).__name__}")
        for name, value in {"recipe": self.recipe, **{f"class {n}": v for n, v in enumerate(self.class_names)}}.items():
            _text(name, value)

    @property
    def groups(self) -> int:
        """How many groups the set has; the last one may be cut short."""
        return -(-self.count // self.group_size)

    def numbers(self, group: int) -> range:
        """The numbers of a group, below the count."""
        return range(group * self.group_size, min((group + 1) * self.group_size, self.count))


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, got {value!r}")
