"""The report of a run with several augmentors, tested on several kinds of shift."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_page import Page
from rich.console import Console

from hardfast.distill.run_dir import ResultRow, RunDir
from hardfast.recipes.hard_digits_shifts import FAMILIES
from hardfast.recipes.hard_recipe import FIXED
from hardfast.report import build_report, load_run, print_table, results_tables
from hardfast.report.learned import augmented_images, learned_table, scale_curves
from hardfast.report.load import learns, method_rank
from hardfast.report.tables import headline, method_label

SPLITS = ("centred", "shifted", "rotated")
ACCURACY = {
    "teacher": (0.98, 0.95, 0.90),
    "distillation": (0.97, 0.15, 0.50),
    "translation": (0.97, 0.91, 0.48),
    "linear": (0.96, 0.11, 0.86),
    "vdvae": (0.95, 0.15, 0.54),
}
SCALE = np.full((4, 2, 3), 0.1)
Told = Mapping[str, tuple[float, float]]


def rows(accuracy: Mapping[str, tuple[float, ...]] = ACCURACY, metric: str = "accuracy") -> list[ResultRow]:
    return [
        ResultRow("hard-digits-families", method, split, metric, [value - 0.01, value + 0.01])
        for method, values in accuracy.items()
        for split, value in zip(SPLITS, values, strict=False)
    ]


def write_method(run: RunDir, method: str, seed: int = 0, told: Told | None = None, **arrays: np.ndarray) -> None:
    """A method with snapshots of its augmentor in colour, and what this has learned."""
    clean = np.random.default_rng(0).random((3, 3, 8, 8), dtype=np.float32)
    with run.method(method, seed) as directory:
        directory.log(1, phase="augmentor", augmentor_loss=0.5, disagreement=0.3, validation_accuracy=0.9)
        steps = np.arange(4) * 10
        directory.save_arrays("snapshots", steps=steps, clean=clean, augmented=np.stack(4 * [clean]), **arrays)
        directory.save_json("augmentor", {"before": told or {}, "after": told or {}})


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.write_config({"recipe": "hard-digits-families", "fields": {"data.draws": {"value": 5}}})
    return run


def table_of(run: RunDir) -> list[list[str]]:
    table = learned_table(load_run(run.path))
    assert table is not None
    return table.rows


def labels(run: RunDir) -> list[str]:
    """The label of each row of the pictures."""
    figure = augmented_images(load_run(run.path))
    assert figure is not None
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_report_of_several_families(run: RunDir) -> None:
    for method in ("teacher", "distillation"):
        run.method(method, 0).log(1, student_loss=0.4, validation_accuracy=0.9)
    for method in ("translation", "linear"):
        write_method(run, method, told={"shift_x_px": (0.0, 1.0)}, mean=SCALE, scale=SCALE)
    edits = np.zeros((4, 5, 32, 32))
    write_method(run, "vdvae", told={"block_4_spread_percent": (0.0, 0.2)}, edit_weight=edits)
    run.write_results(rows(), 1.0)
    page = Page(build_report(run.path))
    assert "incomplete" not in page.text
    assert "Accuracy under shifts" not in page.text
    assert page.tables[0][0] == ["accuracy, %", *SPLITS]
    assert page.tables[0][-1] == ["very deep VAE", "95.0 ± 1.4", "15.0 ± 1.4", "54.0 ± 1.4"]
    assert page.tables[1] == [
        ["gap closed, %", "shifted", "rotated"],
        ["translation", "95.0", "-5.0"],
        ["linear", "-5.0", "90.0"],
        ["very deep VAE", "0.0", "10.0"],
    ]
    assert [line.count('class="best"') for line in page.source.split("<table")][1:] == [0, 2, 0, 0, 0]
    assert '<td class="best">95.0</td>' in page.source
    assert "furthest by translation on shifted (95.0 %) and by linear on rotated (90.0 %)." in page.text
    assert ["very deep VAE", "block 4, change of the spread, %", "0.0 ± 0.2", "0.0 ± 0.2"] in page.tables[2]
    assert labels(run) == ["clean", "translation", "linear", "very deep VAE"]
    assert "of one seed of translation" in page.text


def test_names_are_those_of_the_recipes() -> None:
    assert all(learns(family) for family in FAMILIES)
    assert not any(learns(method) for method in (*FIXED, "random_augmentor", "teacher", "distillation"))
    order = ("teacher", "student", "distillation", *FIXED, "random_augmentor", *FAMILIES, "hard", "somewhat_new")
    ranks = [method_rank(method)[0] for method in order]
    assert len(set(ranks)) == len(order)
    assert sorted(set(order) - set(FIXED), key=method_rank) == [method for method in order if method not in FIXED]
    assert [method_label(method) for method in ("trivial_augment", "crop_flip", "somewhat_new")] == [
        "TrivialAugmentWide",
        "crop and flip",
        "somewhat new",
    ]


def test_two_splits_share_a_table_and_one_split_has_many_metrics() -> None:
    two = results_tables([row for row in rows() if row.split != "rotated"])
    assert [table.columns[-1] for table in two] == ["gap closed, %"]
    one = [row for metric in ("accuracy", "worst_group_accuracy", "nll") for row in rows(metric=metric)[::3]]
    assert len(results_tables(one)) == 1
    assert len(results_tables([row for row in rows() if row.method != "teacher"])) == 1


def test_largest_gap_closed_is_bold_in_the_terminal() -> None:
    output = io.StringIO()
    print_table(results_tables(rows())[1], Console(file=output, width=80, force_terminal=True, color_system="standard"))
    lines = {line.split()[0]: line for line in output.getvalue().splitlines() if line.strip()}
    bold = {name: re.findall(r"\x1b\[1m *([-\d.]+)", line) for name, line in lines.items()}
    assert (bold["translation"], bold["linear"], bold["very"]) == (["95.0"], ["90.0"], [])


def test_headline_leaves_out_what_nothing_closes() -> None:
    worse = {method: values for method, values in ACCURACY.items() if method != "translation"}
    assert headline(rows(worse)) == (
        "The gap between distillation and teacher is closed furthest by linear on rotated (90.0 %)."
    )
    assert headline(rows({method: values[:2] for method, values in worse.items()})) is None
    one = headline(rows({method: values for method, values in ACCURACY.items() if method not in ("linear", "vdvae")}))
    assert one is not None
    assert one.startswith("On the shifted test set translation reaches 91.0 % accuracy and closes 95.0 %")


def test_pictures_of_one_learned_augmentor_among_others(run: RunDir) -> None:
    for method in ("crop_flip", "random_augmentor", "hard"):
        write_method(run, method)
    through_training = [f"HARD, step {step}" for step in (0, 10, 20, 30)]
    assert labels(run) == ["clean", *through_training, "crop and flip", "random augmentor"]
    text = Page(build_report(run.path)).text
    assert "What the augmentor does" in text
    assert "what the fixed augmentations make of them" in text
    assert learned_table(load_run(run.path)) is None


def test_many_quantities_are_summarised(run: RunDir) -> None:
    before = {f"code_{number}_percent": (0.0, 10.0) for number in range(40)}
    with run.method("latent", 0) as directory:
        after = before | {f"code_{number}_percent": (-1234.5678, 10.0 + number) for number in range(7, 40, 3)}
        directory.save_json("augmentor", {"before": before, "after": after | {"code_0_percent": (float("nan"), 1.0)}})
    lines = table_of(run)
    assert len(lines) == 13
    assert lines[0] == ["latent codes", "code 0, %", "0.0 ± 10.0", "-"]
    assert lines[1] == ["", "code 7, %", "0.0 ± 10.0", "-1,234.6 ± 17.0"]
    assert lines[-1][1] == "and 28 more, which changed less"


def test_quantities_of_a_sequence_and_of_parts_that_never_move(run: RunDir) -> None:
    told = {"affine.zoom_x_percent": (0.0, 10.0), "affine.shear_percent": (0.0, 0.0), "color.new_thing": (0.5, 0.0625)}
    for seed, factor in enumerate((1.0, 3.0)):
        scaled = {name: (factor * mean, factor * std) for name, (mean, std) in told.items()}
        write_method(run, "affine_flow_color", seed, scaled)
    assert table_of(run) == [
        ["affine, flow, colour", "affine: enlargement in width, %", "0.0 ± 20.0", "0.0 ± 20.0"],
        ["", "colour: new thing", "1.000 ± 0.125", "1.000 ± 0.125"],
    ]


@pytest.mark.parametrize(
    ("method", "arrays", "panels"),
    [
        ("affine", {"scale": SCALE}, 1),
        ("affine_flow_color", {"affine.scale": SCALE, "flow.scale": np.zeros((4, 2, 4, 4))}, 1),
        ("color", {"scale": np.zeros((4, 3, 4))}, 0),
        ("projective", {"scale": np.zeros((4, 3, 3))}, 0),
        ("latent", {}, 0),
    ],
)
def test_scales_of_affine_maps_only(run: RunDir, method: str, arrays: dict[str, Any], panels: int) -> None:
    write_method(run, method, **arrays)
    figure = scale_curves(load_run(run.path))
    assert (0 if figure is None else len(figure.axes)) == panels
    write_method(run, "translation", scale=SCALE)
    figure = scale_curves(load_run(run.path))
    assert figure is not None
    assert len(figure.axes) == panels + 1


def test_scales_from_the_log_of_an_interrupted_run(run: RunDir) -> None:
    with run.method("affine_flow_color", 0) as directory:
        for step in range(3):
            directory.log(step, **{"affine.scale_linear": 0.1, "affine.scale_translation": 0.1 + step})
    with run.method("projective", 0) as directory:
        directory.log(0, scale_linear=0.1, scale_translation=0.1, scale_perspective=0.1)
    figure = scale_curves(load_run(run.path))
    assert figure is not None
    assert [line.get_ydata().tolist() for line in figure.axes[0].get_lines()] == [  # type: ignore[union-attr]
        [0.1, 1.1, 2.1],
        [0.1, 0.1, 0.1],
    ]


def test_missing_pieces_are_those_that_should_be_there(run: RunDir) -> None:
    run.write_results(rows(), 1.0)
    for method in ("teacher", "student", "rand_augment", "flow"):
        run.method(method, 0).log(1, student_loss=1.0)
    write_method(run, "color")
    (run.path / "color" / "seed-0" / "augmentor.json").unlink()
    assert [sentence.split(":")[0] for sentence in load_run(run.path).missing] == [
        "rand_augment/seed-0/snapshots.npz is missing",
        "flow/seed-0/snapshots.npz is missing",
        "color/seed-0/augmentor.json is missing",
    ]
    (run.path / "config.json").unlink()
    run.write_config({"recipe": "hard-digits", "fields": {"data.max_shift_px": {"value": 6}}})
    assert len([text for text in load_run(run.path).missing if "shift_accuracy.npz" in text]) == 5
    (run.path / "config.json").unlink()
    run.write_config({"recipe": "config-digits", "fields": {"generator.kind": {"value": "digits"}}})
    assert load_run(run.path).missing == []


def test_many_methods_have_one_line_each(run: RunDir) -> None:
    from hardfast.report.figures import accuracy_curves

    for method in FAMILIES:
        for seed, accuracy in enumerate((0.4, 0.9)):
            directory = run.method(method, seed)
            directory.log(0, validation_accuracy=accuracy)
            directory.log(5, validation_accuracy=1.0 if seed else float("nan"))
    figure = accuracy_curves(load_run(run.path))
    assert figure is not None
    lines = figure.axes[0].get_lines()
    assert len({line.get_color() for line in lines}) == len(lines) == len(FAMILIES)
    np.testing.assert_allclose(lines[3].get_ydata(), [0.65, 1.0])
    assert "mean of the seeds" in Page(build_report(run.path)).text
