"""The report of a run: what is on the page, from whole, partial and damaged run directories."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from report_page import Page
from rich.console import Console

from hardfast.distill.run_dir import ResultRow, RunDir
from hardfast.report import BrokenRunError, build_report, load_run, print_table, results_tables
from hardfast.report.tables import config_table, gap_closed, headline

ACCURACY = {
    "teacher": (0.985, 0.93),
    "student": (0.965, 0.18),
    "distillation": (0.97, 0.20),
    "random_augmentor": (0.972, 0.62),
    "hard": (0.973, 0.90),
}
FIGURES = 7


def result_rows(seeds: int = 3) -> list[ResultRow]:
    rows = []
    for method, values in ACCURACY.items():
        for split, value in zip(("centred", "shifted"), values, strict=True):
            spread = [value + 0.01 * (seed - (seeds - 1) / 2) for seed in range(seeds)]
            rows.append(ResultRow("hard-digits", method, split, "accuracy", spread))
    return rows


def write_method(run: RunDir, method: str, seed: int, steps: int = 40) -> None:
    generator = np.random.default_rng(seed)
    learns = method == "hard"
    images = generator.random((6, 1, 8, 8), dtype=np.float32)
    with run.method(method, seed) as directory:
        for step in range(steps):
            progress = step / steps
            augmentor = learns and step % 5 == 4
            scalars = {"student_loss": 2.0 * np.exp(-4 * progress) + 0.1 * generator.random()}
            if augmentor:
                scalars = {"augmentor_loss": 0.3 - progress, "augmentor_steps": step // 5 + 1}
            if learns:
                scalars |= {
                    "disagreement": 0.5 + 0.3 * augmentor,
                    "teacher_consistency": 0.1 + 0.05 * progress,
                }
            directory.log(step, phase="augmentor" if augmentor else "student", **scalars)
        for step in range(0, steps, 10):
            directory.log(step, validation_accuracy=0.95 - 0.8 * np.exp(-6 * step / steps))
        dy, dx = (axis.ravel() for axis in np.mgrid[-3:4, -3:4])
        fall = ACCURACY[method][0] - ACCURACY[method][1]
        accuracy = ACCURACY[method][0] - fall * np.hypot(dx, dy) / 4
        directory.save_arrays("shift_accuracy", dx_px=dx, dy_px=dy, accuracy=accuracy.clip(0, 1))
        if method in ("hard", "random_augmentor"):
            count = 5
            scale = np.full((count, 2, 3), 0.1)
            scale[:, :, 2] += 0.3 * learns * np.linspace(0, 1, count)[:, None]
            directory.save_arrays(
                "snapshots",
                steps=np.linspace(0, steps, count).astype(np.int64),
                clean=images,
                augmented=np.stack([np.roll(images, index, axis=-1) for index in range(count)]),
                mean=np.tile(np.eye(2, 3), (count, 1, 1)),
                scale=scale,
            )
            before = {"shift_x_px": (0.0, 1.4), "rotation_deg": (0.0, 4.0 + 2 * seed)}
            after = {"shift_x_px": (-0.0041, 1.4 + 3 * learns), "rotation_deg": (0.25, 4.0 - learns + 2 * seed)}
            directory.save_json("augmentor", {"before": before, "after": after})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def finished_page(finished: Path) -> Page:
    return Page(build_report(finished))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def make_run(path: Path, seeds: int = 2) -> Path:
    run = RunDir(path)
    fields = {
        "steps": {"value": 40, "provenance": "our choice"},
        "temperature": {"value": 5.0, "provenance": "earlier code"},
    }
    run.write_config({"recipe": "hard-digits", "title": "Shifts", "citation": "A & B, 2023", "fields": fields})
    for method in ACCURACY:
        for seed in range(seeds):
            write_method(run, method, seed)
    run.write_results(result_rows(seeds), seconds=93.0)
    return path


def test_report_of_finished_run(finished_page: Page) -> None:
    page = finished_page
    assert page.tags["svg"] == FIGURES
    results, learned, configuration, header = page.tables
    assert results[0] == ["method", "centred accuracy, %", "shifted accuracy, %", "gap closed, %"]
    assert results[-1] == ["HARD", "97.3 ± 0.7", "90.0 ± 0.7", "95.9"]
    assert learned == [
        ["method", "quantity", "before", "after"],
        ["HARD", "shift to the right, px", "0.00 ± 1.40", "0.00 ± 4.40"],
        ["", "rotation, clockwise, degrees", "0.0 ± 5.0", "0.2 ± 4.0"],
    ]
    assert ["temperature", "5.0", "earlier code"] in configuration
    assert ["seconds", "93.0"] in header
    assert "HARD reaches 90.0 % accuracy and closes 95.9 % of the gap" in page.text
    assert "1 min 33 s" in page.text
    assert "After A & B, 2023" in page.text
    assert "incomplete" not in page.text


def test_report_is_self_contained(finished_page: Page) -> None:
    page = finished_page
    assert "script" not in page.tags
    assert "link" not in page.tags
    references = re.findall(r'(?:src|href)="([^"]*)"', page.source)
    assert references
    assert all(reference.startswith(("#", "data:")) for reference in references)
    assert "url(http" not in page.source


def test_report_repeats_bitwise_and_leaves_matplotlib_alone(finished: Path, finished_page: Page) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    path = build_report(finished)
    assert path == finished / "report.html"
    assert path.read_text(encoding="utf-8") == finished_page.source
    assert dict(mpl.rcParams) == before


def test_text_is_escaped(run: RunDir) -> None:
    attack = "<script>alert(1)</script>"
    fields = {attack: {"value": attack, "provenance": attack}}
    run.write_config({"recipe": attack, "title": attack, "citation": attack, "fields": fields})
    run.write_results([ResultRow("r", attack, attack, attack, [0.5], 0.5, attack)], 1.0)
    page = Page(build_report(run.path))
    assert "script" not in page.tags
    assert page.text.count(attack) >= 8


def test_published_numbers_with_source(run: RunDir) -> None:
    rows = result_rows()
    rows[-1] = ResultRow("hard-mnist-mlp", "hard", "shifted", "accuracy", [0.95], 0.965, "A paper, 2023")
    rows.append(ResultRow("hard-mnist-mlp", "orbit", "shifted", "accuracy", [], 0.84, "A paper, 2023"))
    run.write_results(rows, 1.0)
    page = Page(build_report(run.path))
    assert page.tables[0][0][2:] == ["shifted accuracy, %", "published", "gap closed, %"]
    assert page.tables[0][5][2:4] == ["95.0", "96.5 [1]"]
    assert page.tables[0][6] == ["orbit", "-", "-", "84.0 [1]", "-"]
    assert page.text.count("[1] A paper, 2023") == 1


def test_report_of_interrupted_run(run: RunDir) -> None:
    write_method(run, "teacher", 0)
    with run.method("hard", 0) as directory:
        directory.log(1, phase="student", student_loss=1.0)
    with open(run.path / "hard" / "seed-0" / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "stud')
    page = Page(build_report(run.path))
    assert "This run is incomplete" in page.text
    assert "config.json is missing" in page.text
    assert "results.json is missing" in page.text
    assert "hard/seed-0/snapshots.npz is missing" in page.text
    assert "hard/seed-0/shift_accuracy.npz is missing" in page.text
    assert "hard/seed-0/augmentor.json" not in page.text
    assert "teacher/seed-0" not in page.text
    assert "No results yet" in page.text
    assert page.tags["svg"] == 4


def test_report_of_configuration_only(run: RunDir) -> None:
    run.write_config({"recipe": "hard-digits", "fields": {}})
    page = Page(build_report(run.path))
    assert "hard-digits" in page.text
    assert "svg" not in page.tags
    assert "No metrics.jsonl" in page.text


def test_report_of_smoke_run(run: RunDir) -> None:
    for method in ACCURACY:
        write_method(run, method, 0, steps=1)
    run.write_results(result_rows(1), 0.1)
    page = Page(build_report(run.path))
    assert page.tables[0][-1][1:3] == ["97.3", "90.0"]
    assert "One seed" in page.text


def test_report_without_finite_values(run: RunDir) -> None:
    with run.method("hard", 0) as directory:
        for step in range(3):
            directory.log(step, phase="student", student_loss=float("nan"), disagreement=float("inf"))
    assert "No metrics.jsonl with steps" in Page(build_report(run.path)).text


def test_colour_images(run: RunDir) -> None:
    with run.method("hard", 0) as directory:
        clean = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)
        directory.save_arrays("snapshots", steps=np.array([0]), clean=clean, augmented=clean[None])
    assert Page(build_report(run.path)).tags["image"] == 4


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("config.json", b'{"recipe":', "Expecting value"),
        ("config.json", b"[]", "expected a JSON object, got list"),
        ("results.json", b'{"rows": []}', "'header' is missing"),
        ("results.json", b'{"header": {}, "rows": [{"recipe": "r"}]}', "'method' is missing"),
        ("hard/seed-0/metrics.jsonl", b'{"step": 1}\n{"step"\n{"step": 3}\n', "line 2 is not a JSON object"),
        ("hard/seed-0/snapshots.npz", b"PK\x03\x04 cut", "not a zip file"),
        ("hard/seed-0/shift_accuracy.npz", b"", "No data left in file"),
        ("hard/seed-0/augmentor.json", b'{"before": {}, "aft', "Unterminated string"),
        ("hard/seed-0/augmentor.json", b'{"before": {}}', "'after' must be an object of quantities, got None"),
        ("hard/seed-0/augmentor.json", b'{"before": {"x_px": [1]}}', "'before', 'x_px' must be [mean, std], got [1]"),
        ("hard/seed-0/augmentor.json", b'{"before": {"x_px": ["1", 2]}}', "must be [mean, std], got ['1', 2]"),
    ],
)
def test_damaged_file_is_named(run: RunDir, name: str, content: bytes, cause: str) -> None:
    run.method("hard", 0).close()
    (run.path / name).write_bytes(content)
    with pytest.raises(BrokenRunError) as caught:
        build_report(run.path)
    assert str(run.path / name) in str(caught.value)
    assert cause in str(caught.value)
    assert not (run.path / "report.html").exists()


def test_arrays_that_do_not_fit(run: RunDir) -> None:
    with run.method("hard", 0) as directory:
        path = directory.save_arrays("shift_accuracy", dx_px=np.zeros(2), dy_px=np.zeros(2), accuracy=np.zeros(3))
        with pytest.raises(BrokenRunError, match=r"shift_accuracy.npz: dx_px, dy_px, accuracy differ in length"):
            build_report(run.path)
        directory.save_arrays("shift_accuracy", dx_px=np.zeros(2))
        with pytest.raises(BrokenRunError, match=r"shift_accuracy.npz: it lacks dy_px, accuracy"):
            build_report(run.path)
        path.unlink()
    build_report(run.path)


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent is not a directory"):
        build_report(tmp_path / "absent")
    with pytest.raises(BrokenRunError, match="not the directory of a run"):
        build_report(tmp_path)


def test_gap_closed() -> None:
    rows = result_rows()
    assert gap_closed(rows, "hard", "shifted") == pytest.approx((0.90 - 0.20) / (0.93 - 0.20))
    assert gap_closed(rows, "distillation", "shifted") == pytest.approx(0.0)
    assert gap_closed(rows, "hard", "centred") is None
    assert gap_closed(rows[2:], "hard", "shifted") is None
    assert headline(rows[2:]) is None


def test_shift_average_over_seeds(run: RunDir) -> None:
    from hardfast.report.figures import shift_curve

    shifts = {"dx_px": np.array([0, 3, 0]), "dy_px": np.array([0, 0, -3])}
    run.method("hard", 0).save_arrays("shift_accuracy", **shifts, accuracy=np.array([1.0, 0.5, 0.1]))
    run.method("hard", 1).save_arrays("shift_accuracy", **shifts, accuracy=np.array([0.8, 0.7, 0.3]))
    figure = shift_curve(load_run(run.path))
    assert figure is not None
    line = figure.axes[0].get_lines()[0]
    assert line.get_xdata() == pytest.approx([0, 3])
    assert line.get_ydata() == pytest.approx([0.9, 0.4])


def test_terminal_table() -> None:
    output = io.StringIO()
    print_table(results_tables(result_rows())[0], Console(file=output, width=100))
    lines = [line.split() for line in output.getvalue().splitlines()]
    assert ["HARD", "97.3", "±", "1.0", "90.0", "±", "1.0", "95.9"] in lines
    assert ["teacher", "98.5", "±", "1.0", "93.0", "±", "1.0", "-"] in lines


def test_config_without_provenance() -> None:
    table = config_table(json.loads('{"steps": 5, "mode": "full", "thresholds": [0.1, 0.2], "out": null}'))
    assert table.rows == [
        ["steps", "5", "-"],
        ["mode", "full", "-"],
        ["thresholds", "[0.1, 0.2]", "-"],
        ["out", "-", "-"],
    ]
