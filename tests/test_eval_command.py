"""``hardfast eval``: what it measures, prints, writes and refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from cifar_files import write_cifar10_c
from mnist_files import write_mnist, write_mnist_c
from safetensors.torch import load_file
from torch import nn

from hardfast import eval_command
from hardfast.cli import main
from hardfast.data import load_mnist, load_mnist_c
from hardfast.data.evaluation_sets import EVALUATION_SETS
from hardfast.distill import accuracy
from hardfast.distill.evaluation_rows import EvaluationRow, read_rows, write_rows
from hardfast.distill.run_dir import RunDir
from hardfast.models import create_model
from hardfast.recipes import HardDigits, get_recipe
from hardfast.recipes.hard_recipe import HardRecipe
from hardfast.report.evaluation import corruption_table, metric_table, severity_figure


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run on small files in MNIST's format, its data beside it."""
    path = tmp_path_factory.mktemp("trained")
    write_mnist(path / "mnist", gz=True)
    for name in ("translate", "zigzag", "identity"):
        write_mnist_c(path / "mnist" / "mnist_c" / name, labels=np.arange(12) % (3 if name == "zigzag" else 10))
    recipe = get_recipe("hard-mnist-mlp")
    data = dataclasses.replace(recipe.data, root=path / "mnist", mnist_c_root=path / "mnist")
    teacher = dataclasses.replace(recipe.teacher, steps=1)
    recipe = dataclasses.replace(recipe, smoke=True, seeds=2, steps=2, teacher=teacher, data=data)
    recipe.run(RunDir(path / "run"), progress=False)
    return path


@pytest.fixture
def run(trained, tmp_path) -> Path:
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


def value(rows, method, name, metric="accuracy", corruption=None) -> list[float]:
    (row,) = (
        row for row in rows if (row.method, row.set, row.metric, row.corruption) == (method, name, metric, corruption)
    )
    return row.seeds


def test_a_whole_run_on_all_sets(run, trained, capsys):
    assert main(["eval", str(run), "--device", "cpu", "--batch-size", "5"]) == 0
    printed = capsys.readouterr().out
    for text in ("accuracy, %", "agreement, %", "HARD", "mnist-c: mean of 2 of the 15 corruptions", "evaluation.html"):
        assert text in printed
    rows = read_rows(run)
    assert {row.set for row in rows} == {"test", "mnist-c"}
    test = load_mnist(trained / "mnist").test
    translate = load_mnist_c(trained / "mnist", "translate")
    for method, model in (("teacher", "cnn"), ("student", "mlp"), ("hard", "mlp")):
        for seed in (0, 1):
            network = create_model(model)
            network.load_state_dict(load_file(run / method / f"seed-{seed}" / "last.safetensors"))
            for images, name, corruption in ((test, "test", None), (translate, "mnist-c", "translate")):
                wanted = accuracy(network, images, images.labels)
                assert value(rows, method, name, corruption=corruption)[seed] == wanted
    assert not [row for row in rows if row.method == "teacher" and row.metric == "agreement"]
    content = json.loads((run / "evaluation.json").read_text())
    assert content["rows"][0].keys() >= {"set", "corruption", "severity", "method", "metric", "mean", "std", "seeds"}
    page = (run / "evaluation.html").read_text()
    assert "MNIST-C, by corruption" in page
    assert "<svg" in page


def test_what_is_still_trained_is_left_out_and_told(run, capsys):
    (run / "hard" / "seed-1" / "tested.json").unlink()
    assert main(["eval", str(run), "--sets", "test"]) == 0
    assert "hard of seed 1 is left out: its training has not ended" in capsys.readouterr().out
    rows = read_rows(run)
    assert len(value(rows, "hard", "test")) == 1
    assert len(value(rows, "student", "test")) == 2
    (run / "hard" / "seed-0" / "tested.json").unlink()
    assert "or its training has not ended" in failed(capsys, str(run), "--sets", "test", "--methods", "hard")
    for path in run.glob("*/seed-*/tested.json"):
        path.unlink()
    assert "has any student been trained to its end?" in failed(capsys, str(run), "--sets", "test")


def test_a_further_call_replaces_its_rows_and_keeps_the_others(run, capsys):
    assert main(["eval", str(run), "--sets", "mnist-c", "test"]) == 0
    before = read_rows(run)
    path = run / "hard" / "seed-1" / "last.safetensors"
    path.unlink()
    assert main(["eval", str(run), "--sets", "test", "--methods", "hard"]) == 0
    after = read_rows(run)
    assert len(after) == len(before)
    assert value(after, "hard", "test") == value(before, "hard", "test")[:1]
    assert len(value(after, "hard", "mnist-c", corruption="zigzag")) == 2
    assert value(after, "distillation", "test") == value(before, "distillation", "test")
    headers = json.loads((run / "evaluation.json").read_text())["headers"]
    measured = [tuple(entry) for header in headers for entry in header["measured"]]
    assert sorted(measured) == sorted({row.measurement for row in after})
    assert headers[-1]["measured"] == [["test", "hard", "last"]]


def test_other_weights_stand_beside_the_last(run, capsys):
    for seed in (0, 1):
        shutil.copy(
            run / "student" / f"seed-{seed}" / "last.safetensors", run / "hard" / f"seed-{seed}" / "ema.safetensors"
        )
    assert main(["eval", str(run), "--sets", "test"]) == 0
    assert main(["eval", str(run), "--sets", "test", "--weights", "ema"]) == 0
    rows = read_rows(run)
    assert {(row.method, row.weights) for row in rows if row.method in ("hard", "teacher")} == {
        ("hard", "last"),
        ("hard", "ema"),
        ("teacher", "last"),
    }
    (averaged,) = (row for row in rows if row.weights == "ema" and row.metric == "agreement")
    assert averaged.seeds == value(rows, "student", "test", "agreement")
    assert [line[0] for line in metric_table(rows, "accuracy").rows][-2:] == ["HARD", "HARD (ema)"]


def failed(capsys, *arguments: str) -> str:
    assert main(["eval", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("hardfast: ")
    return captured.err


def test_what_is_unknown_or_does_not_fit_is_refused(run, capsys):
    error = failed(capsys, str(run), "--sets", "mnist-d")
    assert all(name in error for name in ("'mnist-d'", "test", "all", *EVALUATION_SETS))
    error = failed(capsys, str(run), "--sets", "cifar10-c")
    assert "cifar10-c is for 10 classes and images of 3 channels and 32 px" in error
    assert "sets that fit: test, mnist-c" in error
    assert "batch_size must be" in failed(capsys, str(run), "--batch-size", "0")
    error = failed(capsys, str(run), "--methods", "hrad")
    assert "hrad/seed-N/last.safetensors is missing, or its training has not ended; methods that have it: " in error
    assert "distillation" in error
    assert "seed-N/ema.safetensors is missing" in failed(capsys, str(run), "--weights", "ema", "--methods", "hard")
    assert "has no METHOD/seed-N/ema.safetensors of a student" in failed(capsys, str(run), "--weights", "ema")
    assert not (run / "evaluation.json").exists()


def test_missing_data_are_an_error_for_a_set_that_was_asked_for(run, trained, tmp_path, capsys):
    moved = json.loads((run / "config.json").read_text())
    for field in ("data.root", "data.mnist_c_root"):
        moved["fields"][field]["value"] = str(tmp_path / "nowhere")
    (run / "config.json").write_text(json.dumps(moved))
    error = failed(capsys, str(run), "--sets", "mnist-c")
    assert str(tmp_path / "nowhere") in error
    assert "zenodo.org" in error
    assert "none of the sets was found" in failed(capsys, str(run))
    assert main(["eval", str(run), "--root", str(trained / "mnist" / "mnist_c")]) == 0
    assert "test is left out: MNIST file" in capsys.readouterr().out
    assert {row.set for row in read_rows(run)} == {"mnist-c"}


def test_a_damaged_run_is_told_of(run, tmp_path, capsys):
    assert "config.json is missing" in failed(capsys, str(tmp_path / "absent"))
    assert "--sets must name at least one of test, " in failed(capsys, str(run), "--sets")
    path = run / "hard" / "seed-0" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    assert f"{path} must hold the weights of the network" in failed(capsys, str(run))
    (run / "evaluation.json").write_text("{")
    assert "evaluation.json must be what `hardfast eval` wrote" in failed(capsys, str(run))
    (run / "config.json").write_text('{"recipe": "config-digits", "fields": {}}')
    assert "must be of one of the recipes ['hard-digits'" in failed(capsys, str(run))
    (run / "config.json").write_text('{"recipe": "hard-digits", "fields": {"depth": {"value": 3}}}')
    assert "must have only fields that hard-digits has in this version, got depth" in failed(capsys, str(run))
    (run / "config.json").write_text("[]")
    assert "config.json must be what `hardfast train` wrote" in failed(capsys, str(run))


@pytest.mark.parametrize("name", ["hard-digits", "hard-mnist-vit"])
def test_a_recipe_comes_back_from_its_configuration(tmp_path, name):
    recipe = get_recipe(name)
    changed = {"steps": 77, "teacher": dataclasses.replace(recipe.teacher, model="resnet18", learning_rate=0.5)}
    if name != "hard-digits":
        changed["data"] = dataclasses.replace(recipe.data, root=Path("elsewhere"))
    recipe = dataclasses.replace(recipe, **changed)
    RunDir(tmp_path).write_config(recipe.describe())
    assert eval_command.recipe_of_run(tmp_path) == recipe


class SmallColours(HardDigits):
    """Stands in for a recipe of CIFAR-10."""

    image_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)


class Brightness(nn.Module):
    """Answers with the class that the mean over the image is, in units of 10 of 255."""

    def forward(self, images):
        classes = images.mean((1, 2, 3)).mul(25.5).long().clamp(max=9)
        return nn.functional.one_hot(classes, 10).float() + torch.zeros(10)


def test_accuracy_falls_with_severity(tmp_path, monkeypatch, capsys):
    # Images of severity s have the value 10 s + place of the corruption, and labels 0 to 2.
    write_cifar10_c(tmp_path / "CIFAR-10-C", ("fog", "snow", "spatter"), each=3)
    run = tmp_path / "run"
    for method in ("teacher", "hard"):
        (run / method / "seed-3").mkdir(parents=True)
        for name in ("last.safetensors", "tested.json"):
            (run / method / "seed-3" / name).touch()
    monkeypatch.setattr(eval_command, "recipe_of_run", lambda path: SmallColours())
    monkeypatch.setattr(eval_command, "_load_network", lambda recipe, key, path: Brightness())
    assert main(["eval", str(run), "--root", str(tmp_path), "--sets", "cifar10-c"]) == 0
    rows = read_rows(run)
    assert {row.corruption for row in rows} == {"fog", "snow", "spatter"}
    # Severities 1 and 2 are the labels of one image of three each; the extra corruption is not part of the mean.
    assert metric_table(rows, "accuracy").rows == [["teacher", "13.3"], ["HARD", "13.3"]]
    assert "mean of 2 of the 15 corruptions" in capsys.readouterr().out
    line = severity_figure(rows, "cifar10-c").axes[0].get_lines()[0]
    assert line.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert line.get_ydata().tolist() == pytest.approx([1 / 3, 1 / 3, 0, 0, 0])
    assert [row[0] for row in corruption_table(rows, "cifar10-c").rows] == ["snow", "fog", "spatter"]
    assert "CIFAR-10-C, by corruption" in (run / "evaluation.html").read_text()


def test_answers_that_are_not_finite_are_null_on_disk_and_a_dash_in_the_table(tmp_path):
    row = EvaluationRow("r", "hard", "last", "test", None, None, "nll", [float("nan"), 1.0], 5, 10)
    write_rows(tmp_path, [row], 1.0)
    assert '"seeds": [\n        null,\n        1.0' in (tmp_path / "evaluation.json").read_text()
    rows = read_rows(tmp_path)
    assert np.isnan(rows[0].seeds[0])
    assert metric_table(rows, "nll").rows == [["HARD", "-"]]


def test_the_help_lists_every_set(capsys):
    assert main(["eval", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert [name for name in EVALUATION_SETS if name not in shown] == []
    assert main(["eval", "run", "--stes", "test"]) == 2
    assert "--sets" in capsys.readouterr().err


def test_every_recipe_of_hard_says_what_its_networks_take():
    for recipe in (get_recipe(name) for name in ("hard-digits", "hard-mnist-mlp", "hard-mnist-vit")):
        assert isinstance(recipe, HardRecipe)
        images = torch.rand(2, *recipe.image_shape)
        for model in (recipe.student, recipe.teacher.model):
            assert create_model(model)(images).shape == (2, recipe.classes)
