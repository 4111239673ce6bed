"""Tables and plot say what the results say, and what is in the repository is up to date."""

from __future__ import annotations

import dataclasses
import importlib
import json
import runpy
import sys
from pathlib import Path

import pytest

from bench import command, plot, report
from bench.case import OURS
from bench.measure import Row
from bench.results import Result

ROOT = Path(__file__).resolve().parents[1]
MACHINE = {
    "hardfast": "0.1.0",
    "commit": "0123456789abcdef",
    "uncommitted_changes": False,
    "date": "2026-01-02",
    "device": "cpu",
    "machine": "Some CPU (R) 9",
    "cpu_isa": "x86-64-v3",
    "cores": 4,
    "threads": 2,
    "versions": {"torch": "2.15.0"},
}


def row(name: str, median_ms: float, peak: int | None = 2**20, **changes) -> Row:
    usual = {
        "op": "affine_warp",
        "case": "16x3x224x224",
        "pass_name": "forward",
        "dtype": "float32",
        "memory_format": "contiguous",
        "device": "cpu",
        "implementation": name,
        "median_ms": median_ms,
        "iqr_ms": 0.01,
        "peak_bytes": peak,
        "roofline_fraction": 0.3 / median_ms,
        "items": 16,
    }
    return Row(**usual | changes)


def result(**machine) -> Result:
    small = {"case": "16x3x64x64"}
    step = {"op": "hard_step", "case": "3x64x64", "pass_name": "step", "roofline_fraction": None, "items": 192}
    rows = [
        *(row(OURS, 1.0), row("eager", 4.5, 3 * 2**20), row("OpenCV", 0.5, None)),
        *(row(OURS, 0.1, **small), row("eager", 0.2, **small)),
        *(row(OURS, 100.0, **step), row("eager", 200.0, **step), row("hardfast compiled", 80.0, **step)),
    ]
    return Result(MACHINE | machine, {"float32": {"bytes": 2e10, "operations": 1e11}}, rows)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source tree with results and READMEs that have never been written."""
    (tmp_path / "bench" / "results").mkdir(parents=True)
    for name, path in (("headlines", "README.md"), ("results", "bench/README.md")):
        begin = f"<!-- bench {name}: written by `hardfast bench --report` -->"
        (tmp_path / path).write_text(f"before\n{begin}\n<!-- end of bench {name} -->\nafter\n")
    result().add_to(tmp_path / "bench" / "results")
    return tmp_path


def test_the_repository_is_up_to_date():
    assert report.stale(ROOT) == [], "run `hardfast bench --report` and commit what it writes"


def test_results_are_read_as_they_were_written(tmp_path):
    path = result().add_to(tmp_path)
    assert path.name == "some-cpu-r-9-4-cores-x86-64-v3-0.1.0.json"
    assert Result.read(path) == result()
    assert len({line for line in path.read_text().splitlines() if '"median_ms"' in line}) == len(result().rows)
    assert result(device="cuda", machine="NVIDIA H200").file_name == "nvidia-h200-0.1.0.json"


def test_a_file_keeps_the_cases_that_are_not_measured_again(tmp_path):
    path = result().add_to(tmp_path)
    again = dataclasses.replace(result(date="2026-02-03"), rows=[row(OURS, 0.7, commit="feedbeef")])
    assert again.add_to(tmp_path) == path
    kept = Result.read(path)
    assert kept.machine["date"] == "2026-02-03"
    assert [r.median_ms for r in kept.rows if r.case_name == "affine_warp 16x3x224x224 forward"] == [0.7]
    assert len(kept.rows) == len(result().rows) - 3 + 1
    assert {r.commit for r in kept.rows} == {None, "feedbeef"}


def test_tables_are_written_once_and_go_stale_with_the_results(source):
    files = [source / "README.md", source / "bench" / "README.md", source / "bench" / plot.FILE]
    assert report.stale(source) == files
    assert report.write(source) == files
    assert report.stale(source) == report.write(source) == []
    changed = result()
    changed = dataclasses.replace(changed, rows=[row(OURS, 2.0), *changed.rows[1:3]])
    changed.add_to(source / "bench" / "results")
    assert report.stale(source) == files
    text = files[0].read_text()
    assert text.startswith("before\n")
    assert text.endswith("-->\nafter\n")


def test_tables_say_ratios_losses_memory_and_floors(source):
    report.write(source)
    lines = (source / "bench" / "README.md").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("| `affine_warp` 16x3x224x224 forward |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    heading = next(line for line in lines if line.startswith("| case | ms |")).strip("|").split("|")
    found = dict(zip((cell.strip() for cell in heading), cells, strict=True))
    assert found["ms"] == "1.00"
    assert found["eager"] == "4.50 (floor 4)"
    assert found["OpenCV"] == "**0.50** (floor 1.3)"
    assert found["peak memory"] == "1.0 MiB, eager 3.0 times"
    assert found["of the roofline"] == "30%"
    assert "- affine_warp 16x3x224x224 forward: 0.50x OpenCV, floor 1.3x" in lines
    (step,) = (line for line in lines if line.startswith("| `hard_step` 3x64x64 step |"))
    assert "| 1920 |" in step  # images a second
    assert "| **0.80** |" in step
    short = (source / "README.md").read_text()
    assert "| `affine_warp` 16x3x224x224 forward | 1.00 | 4.50 | **0.50** | 3.0 | 30% |" in short
    assert "64x64 forward" not in short


def test_without_a_gpu_its_cases_are_not_measured_and_the_kernels_stand_beside_them(source):
    kernels = {
        "warp_kernel<float>": {"sm_80": {"registers": 40, "stack": 0, "spills": 0, "shared": 1024}},
        "warp_kernel<double>": {"sm_80": {"registers": 62, "stack": 8, "spills": 0, "shared": 512}},
    }
    (source / "bench" / "results" / report.KERNELS).write_text(json.dumps(kernels))
    report.write(source)
    text = (source / "bench" / "README.md").read_text()
    assert "| `affine_warp` 256x3x224x224 |" in text
    assert "not measured" in text
    assert "| `warp_kernel` | 2 | 62 | 8 | 0 | 1024 |" in text
    gpu = dataclasses.replace(result(device="cuda", machine="NVIDIA H200"), rows=result().rows[:2])
    gpu.add_to(source / "bench" / "results")
    report.write(source)
    text = (source / "bench" / "README.md").read_text()
    assert "## NVIDIA H200" in text
    assert "not measured" not in text


def test_kernels_are_kept_as_json(tmp_path, monkeypatch, capsys):
    log = tmp_path / "kernels.log"
    log.write_text(
        "ptxas info    : Compiling entry function '_Z1kILi3EEvPf' for 'sm_90a'\n"
        "ptxas info    : Function properties for _Z1kILi3EEvPf\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 24 registers, used 1 barriers, 2048 bytes smem\n"
    )
    target = tmp_path / "kernels.json"
    monkeypatch.setattr(sys, "argv", ["report.py", str(log), "--json", str(target)])
    monkeypatch.syspath_prepend(ROOT / "kernels")
    runpy.run_path(str(ROOT / "kernels" / "report.py"), run_name="__main__")
    (usage,) = json.loads(target.read_text()).values()
    assert usage == {"sm_90": {"registers": 24, "stack": 0, "spills": 0, "shared": 2048}}


SASS = """
		Function : kernel
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   IMAD R1, R1, R2, R3 ;            /* 0x0 */
        /*0010*/                   FADD R2, R2, R3 ;                /* 0x0 */
        /*0020*/               @P0 BRA 0x70 ;                       /* 0x0 */
        /*0030*/                   LDG.E R4, desc[UR4][R2.64] ;     /* 0x0 */
        /*0040*/                   LDG.E.64 R6, desc[UR4][R8.64] ;  /* 0x0 */
        /*0050*/                   FFMA R4, R4, R6, R7 ;            /* 0x0 */
        /*0060*/                   BRA 0x90 ;                       /* 0x0 */
        /*0070*/                   FMUL R4, R4, R6 ;                /* 0x0 */
        /*0080*/                   FMUL R4, R4, R6 ;                /* 0x0 */
        /*0090*/                   STG.E desc[UR4][R2.64], R4 ;     /* 0x0 */
        /*00a0*/              @!P1 BRA 0x10 ;                       /* 0x0 */
        /*00b0*/                   EXIT ;                           /* 0x0 */
        /*00c0*/                   BRA 0xc0;                        /* 0x0 */
"""


def test_instructions_of_the_path_that_loads_most(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "kernels")
    sass = importlib.import_module("sass")
    ((name, code),) = sass.functions(SASS)
    assert name == "kernel"
    assert sass.count_turn(code) == 8  # from 0x10 to 0xa0, without the two that only other pixels take
    without_loop = [(address, text) for address, text in code if "@!P1" not in text]
    assert sass.count_turn(without_loop) is None


def test_a_loop_within_that_does_little_is_not_the_one_over_pixels(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "kernels")
    sass = importlib.import_module("sass")
    code = [
        *((16 * k, "LDG.E R4, desc[UR4][R2.64]") for k in range(5)),
        (0x50, "@P0 BRA 0x40"),  # once more for the last of them alone
        (0x60, "@!P1 BRA 0x10"),
        (0x70, "EXIT"),
    ]
    assert sass.count_turn(code) == 6  # from 0x10 to 0x60


def test_the_plot_knows_its_numbers(tmp_path):
    panels = plot.series(result())
    assert panels[0] == {
        OURS: [(64, 0.3 / 0.1), (224, 0.3)],
        "eager": [(64, 0.3 / 0.2), (224, 0.3 / 4.5)],
        "OpenCV": [(224, 0.6)],
    }
    assert panels[2] == {}
    path = tmp_path / plot.FILE
    assert plot.is_stale(path, result())
    plot.draw(path, result())
    assert not plot.is_stale(path, result())
    first = path.read_bytes()
    plot.draw(path, result())
    assert path.read_bytes() == first


def test_lost_markers_and_missing_results_are_errors(source, monkeypatch, capsys):
    monkeypatch.setattr(report, "ROOT", source)
    (source / "README.md").write_text("no markers")
    with pytest.raises(ValueError, match="bench headlines"):
        report.write(source)
    for path in (source / "bench" / "results").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="hardfast bench --json"):
        report.write(source)
    monkeypatch.setattr(report.write, "__defaults__", (source / "nowhere",))
    assert command.run(report=True) == 1
    assert "written in the source" in capsys.readouterr().err
