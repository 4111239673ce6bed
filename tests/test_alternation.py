"""Whose turn it is."""

import itertools
import math

import pytest
import torch

from hardfast.distill import Budget, FixedRatio, Thresholds


def turns(schedule, disagreements) -> str:
    """Plays a schedule; one letter a step, of who took it."""
    taken = ""
    for value in disagreements:
        taken += schedule.phase[0]
        schedule.update(value)
    return taken


class Watched:
    """A disagreement that counts how often it is read."""

    reads = 0

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        Watched.reads += 1
        return self.value


@pytest.fixture
def watched():
    Watched.reads = 0
    return Watched


@pytest.mark.parametrize(("steps", "expected"), [(1, "sasasasasa"), (3, "sssasssass"), (5, "sssssassss")])
def test_fixed_ratio(steps, expected):
    assert turns(FixedRatio(steps), [0.0] * 10) == expected


def test_fixed_ratio_never_reads_the_disagreement(watched):
    turns(FixedRatio(2), [watched(1.0)] * 20)
    assert watched.reads == 0


@pytest.mark.parametrize(
    ("augmentor_steps", "student_steps", "expected"),
    [(1, 4, "sssas"), (2, 5, "ssassas"), (3, 4, "sasasas"), (5, 3, "saasaaas"), (2, 2, "saas")],
)
def test_budget(augmentor_steps, student_steps, expected):
    assert turns(Budget(augmentor_steps, student_steps), [0.0] * len(expected)) == expected


@pytest.mark.parametrize(("augmentor_steps", "student_steps"), [(7, 100), (100, 7), (99, 100), (1, 2)])
def test_budget_is_spent_evenly_and_before_the_last_student_step(augmentor_steps, student_steps):
    taken = turns(Budget(augmentor_steps, student_steps), [0.0] * (augmentor_steps + student_steps))
    assert taken.count("a") == augmentor_steps
    assert taken.startswith("s")
    assert taken.endswith("as")
    before = [taken[:place].count("s") for place, turn in enumerate(taken) if turn == "a"]
    spacing = (student_steps - 1) / augmentor_steps
    assert before == [math.ceil(k * (student_steps - 1) / augmentor_steps) for k in range(1, augmentor_steps + 1)]
    assert max(abs(b - a - spacing) for a, b in itertools.pairwise([0, *before])) < 1


def test_a_spent_budget_leaves_the_student_alone(watched):
    schedule = Budget(2, 5)
    assert turns(schedule, [watched(1.0)] * 12) == "ssassas" + "sssss"
    assert watched.reads == 0


def test_thresholds_have_hysteresis():
    """Values between the thresholds leave the turn where it is, in both phases."""
    schedule = Thresholds(0.2, 0.5)
    values = [1.0, 0.3, 0.21, 0.19, 0.3, 0.49, 0.51, 0.4, 0.25, 0.1, 0.6, 0.3]
    assert turns(schedule, values) == "ssss" + "aaa" + "sss" + "a" + "s"


def test_thresholds_are_strict():
    assert turns(Thresholds(0.2, 0.2), [0.2, 0.1, 0.2, 0.3, 0.3]) == "ssaas"


def test_cap_gives_the_turn_back_and_the_student_takes_at_least_one_step():
    schedule = Thresholds(0.2, 0.5, max_augmentor_steps=3)
    assert turns(schedule, [0.0] * 9) == "saaasaaas"


def test_thresholds_read_no_more_than_needed(watched):
    schedule = Thresholds(0.2, 0.5, max_augmentor_steps=3, check_every=4)
    assert turns(schedule, [watched(0.0)] * 8) == "ssssaaas"
    # One reading in four student steps, and none at the cap, which decides by itself.
    assert watched.reads == 1 + 2


def test_tensors_are_accepted():
    assert turns(Thresholds(0.2, 0.5), [torch.tensor(0.1), torch.tensor(0.9), torch.tensor(0.9)]) == "sas"


@pytest.mark.parametrize(
    "make", [lambda: FixedRatio(3), lambda: Thresholds(0.2, 0.5, max_augmentor_steps=4), lambda: Budget(6, 7)]
)
def test_state_continues_in_the_middle(make):
    values = [1.0, 0.1, 0.3, 0.1, 0.3, 0.6, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    expected = turns(make(), values)
    for split in range(len(values)):
        first, second = make(), make()
        before = turns(first, values[:split])
        second.load_state_dict(first.state_dict())
        assert before + turns(second, values[split:]) == expected


def test_foreign_state_raises():
    with pytest.raises(ValueError, match="'student' or 'augmentor'; got 'teacher'"):
        Thresholds(0.1, 0.2).load_state_dict({"phase": "teacher", "steps_in_phase": 0})


@pytest.mark.parametrize(("lower", "upper"), [(0.5, 0.2), (-0.1, 0.2), (math.nan, 1.0), (0.1, math.nan), (0, math.inf)])
def test_bad_thresholds_raise(lower, upper):
    with pytest.raises(ValueError, match="lower and upper"):
        Thresholds(lower, upper)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_bad_counts_raise(value, error):
    with pytest.raises(error, match="student_steps"):
        FixedRatio(value)
    with pytest.raises(error, match="student_steps"):
        Budget(3, value)
    with pytest.raises(error, match="augmentor_steps"):
        Budget(value, 3)
    with pytest.raises(error, match="max_augmentor_steps"):
        Thresholds(0.1, 0.2, max_augmentor_steps=value)
    with pytest.raises(error, match="check_every"):
        Thresholds(0.1, 0.2, check_every=value)


def test_a_budget_needs_a_student_step_after_the_augmentor():
    with pytest.raises(ValueError, match="student_steps must be >= 2; got 1"):
        Budget(3, 1)
