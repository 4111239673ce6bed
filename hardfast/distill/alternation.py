"""Whose turn it is: schedules that alternate student and augmentor steps."""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

from torch import Tensor

Phase = Literal["student", "augmentor"]


class Alternation(Protocol):
    """Decides, step by step, which of the two networks learns next."""

    @property
    def phase(self) -> Phase:
        """Who takes the next step."""

    def update(self, disagreement: Tensor | float) -> None:
        """Tells the schedule that the step of ``phase`` was taken, and what ``D(s(x~), t(x~))`` was in it."""

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands, in plain numbers and text."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state_dict`."""


class FixedRatio:
    """One augmentor step after every ``student_steps`` student steps. Never reads the disagreement.

    Args:
        student_steps: >= 1.
    """

    def __init__(self, student_steps: int) -> None:
        _check_count("student_steps", student_steps)
        self.student_steps = student_steps
        self._since_augmentor = 0

    @property
    def phase(self) -> Phase:
        return "augmentor" if self._since_augmentor == self.student_steps else "student"

    def update(self, disagreement: Tensor | float) -> None:
        self._since_augmentor = 0 if self.phase == "augmentor" else self._since_augmentor + 1

    def state_dict(self) -> dict[str, Any]:
        return {"since_augmentor": self._since_augmentor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._since_augmentor = int(state["since_augmentor"])


class Budget:
    """A number of augmentor steps in all, spread evenly over the student steps. Never reads the disagreement.

    The ``k``-th of ``N`` comes after student step ``ceil(k * (S - 1) / N)`` of ``S``: never before the student has
    learned, and the last one just before the last student step, which still learns from it. ``N`` may exceed ``S``.

    Args:
        augmentor_steps: ``N`` >= 1.
        student_steps: ``S`` >= 2, of the whole training.
    """

    def __init__(self, augmentor_steps: int, student_steps: int) -> None:
        _check_count("augmentor_steps", augmentor_steps)
        _check_count("student_steps", student_steps, 2)
        self.augmentor_steps = augmentor_steps
        self.student_steps = student_steps
        self._taken = {"student": 0, "augmentor": 0}

    @property
    def phase(self) -> Phase:
        last = self.student_steps - 1
        due = min(self._taken["student"], last) * self.augmentor_steps // last
        return "augmentor" if self._taken["augmentor"] < due else "student"

    def update(self, disagreement: Tensor | float) -> None:
        self._taken[self.phase] += 1

    def state_dict(self) -> dict[str, Any]:
        return dict(self._taken)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._taken = {name: int(state[name]) for name in self._taken}


class Thresholds:
    """Trains the student until the disagreement is below ``lower``, then the augmentor until it is above
    ``upper``.

    Between the two the turn stays where it is (hysteresis), so that noise from batch to batch does not flip
    it. An augmentor that cannot reach ``upper`` (the student has learned all it can draw) gives the turn back
    after ``max_augmentor_steps``.

    The disagreement is read, which on a GPU waits for the device, once every ``check_every`` student steps,
    and after every augmentor step except the one that reaches the cap.

    Args:
        lower: >= 0.
        upper: >= ``lower``, finite.
        max_augmentor_steps: cap on consecutive augmentor steps, >= 1.
        check_every: student steps per reading, >= 1.
    """

    def __init__(self, lower: float, upper: float, *, max_augmentor_steps: int = 20, check_every: int = 1) -> None:
        if not 0 <= lower <= upper < math.inf:
            raise ValueError(f"lower and upper must be finite with 0 <= lower <= upper; got {lower!r} and {upper!r}")
        _check_count("max_augmentor_steps", max_augmentor_steps)
        _check_count("check_every", check_every)
        self.lower = lower
        self.upper = upper
        self.max_augmentor_steps = max_augmentor_steps
        self.check_every = check_every
        self._phase: Phase = "student"
        self._steps_in_phase = 0

    @property
    def phase(self) -> Phase:
        return self._phase

    def update(self, disagreement: Tensor | float) -> None:
        self._steps_in_phase += 1
        if self._phase == "student":
            if self._steps_in_phase % self.check_every == 0 and float(disagreement) < self.lower:
                self._turn_to("augmentor")
        elif self._steps_in_phase >= self.max_augmentor_steps or float(disagreement) > self.upper:
            self._turn_to("student")

    def state_dict(self) -> dict[str, Any]:
        return {"phase": self._phase, "steps_in_phase": self._steps_in_phase}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["phase"] not in ("student", "augmentor"):
            raise ValueError(f"state['phase'] must be 'student' or 'augmentor'; got {state['phase']!r}")
        self._phase = state["phase"]
        self._steps_in_phase = int(state["steps_in_phase"])

    def _turn_to(self, phase: Phase) -> None:
        self._phase = phase
        self._steps_in_phase = 0


def _check_count(name: str, value: int, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number; got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}; got {value}")
