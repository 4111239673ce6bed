"""Options of recipes with values that nobody would choose: a recipe that resolves, or an error that names an option."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardfast.cli import main
from hardfast.recipes import RECIPES

INTEGERS = st.sampled_from((0, -1, 1, 7, 2**31 - 1, 2**31, 2**63, 10**30, -(2**63)))
NUMBERS = st.sampled_from((0.0, -1.0, math.nan, math.inf, -math.inf, 1e308, 5e-324, 1.0, 0.5, -1e-9))
TEXTS = st.sampled_from(
    (
        "", "x", "../x", "/dev/null", "$(touch run)", "; touch run", "`touch run`", "__import__('os').mkdir('run')",
        "a\x00b", "\ud800", "none", "hub", "auto", "x" * 300,
    )
)  # fmt: skip


def leaves(part: Any, prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any, Any]]:
    """Path, value and type of each option, as the command line has them."""
    hints = get_type_hints(type(part))
    found = []
    for item in dataclasses.fields(part):
        value, path = getattr(part, item.name), (*prefix, item.name)
        nested = dataclasses.is_dataclass(value)
        found += leaves(value, path) if nested else [(path, value, hints[item.name])]
    return found


def changed(part: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *rest = path
    return dataclasses.replace(part, **{name: changed(getattr(part, name), tuple(rest), value) if rest else value})


def values(value: Any, kind: Any) -> st.SearchStrategy[Any]:
    """What the type of an option lets through; a choice of words lets nothing else through."""
    if get_origin(kind) is Literal or isinstance(value, bool):
        return st.just(value)
    if isinstance(value, tuple):
        entries = values(value[0] if value else "", None)
        return st.lists(entries, min_size=0, max_size=3).map(tuple)
    for a_kind, strategy in ((int, INTEGERS), (float, NUMBERS), (Path, TEXTS.map(Path))):
        if isinstance(value, a_kind):
            return strategy
    return TEXTS


@st.composite
def recipes(draw: st.DrawFn) -> tuple[Any, list[str]]:
    """A recipe with up to three options changed, and the names of all of them."""
    recipe = RECIPES[draw(st.sampled_from(sorted(RECIPES)))]
    options = leaves(recipe)
    for _ in range(draw(st.integers(1, 3))):
        path, value, kind = draw(st.sampled_from(options))
        recipe = changed(recipe, path, draw(values(value, kind)))
    return recipe, [path[-1] for path, _, _ in options]


@settings(
    max_examples=500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(recipes())
def test_a_recipe_resolves_or_an_option_is_named(monkeypatch, tmp_path, drawn):
    monkeypatch.chdir(tmp_path)
    recipe, options = drawn
    told = None
    try:
        config = recipe.resolved().describe()
        text = json.dumps(config, default=str, allow_nan=False)
    except ValueError as error:
        told = str(error)
    if told is None:
        assert json.loads(text)["fields"].keys() == config["fields"].keys()
    else:
        assert any(option in told for option in options), told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps", "nan"),
        ("steps", "1e3"),
        ("steps", str(2**63)),
        ("learning-rate", "nan"),
        ("learning-rate", "inf"),
        ("augmentor.components", str(10**30)),
        ("augmentor.components", "2000000000"),
        ("augmentor.grid", "1000000 1000000"),
        ("augmentor.family", "; touch run"),
        ("student", "\x00"),
        ("data.validation-fraction", "-inf"),
        ("alternation.kind", ""),
        ("seeds", "-1"),
    ],
)
def test_the_command_line_names_the_option(tmp_path, monkeypatch, capsys, option, value):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "hard-mnist-mlp", f"--{option}", *value.split(" "), "--out", str(tmp_path / "out")]) in (1, 2)
    told = "".join(capsys.readouterr())
    assert "Traceback" not in told
    assert option.rpartition(".")[2].replace("-", "_") in told.replace("-", "_")
    assert list(tmp_path.iterdir()) == []
