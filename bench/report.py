"""``hardfast bench --report``: tables between the markers of the READMEs, and the plot, from the files of results."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from . import plot, results
from .case import OURS, Case
from .cases import all_cases
from .measure import Row, missed_floors, speedup
from .results import Result

ROOT = Path(__file__).resolve().parents[1]
KERNELS = "kernels.json"  # what kernels/report.py writes: no result of a run
PEERS = (
    "eager",
    "compiled",
    "kornia",
    "kornia compiled",
    "torchvision",
    "OpenCV",
    "triton-augment",
    "Liger",
    "diffusers checkpointing",
    "hardfast compiled",
    "hardfast nested",
)
CHAPTERS = {"warp": "Warps", "": "Losses and guided step", "step": "Training steps, search and sampling chains"}
HEADLINES = (
    "affine_warp 16x3x224x224 forward",
    "affine_warp 16x3x224x224 parameters",
    "affine_warp 16x3x224x224 all",
    "affine_warp 16x3x224x224 forward channels_last",
    "affine_warp 16x3x224x224 forward bfloat16",
    "affine_warp 256x3x32x32 parameters",
    "affine_warp 1024x1x28x28 parameters",
    "projective_warp 16x3x128x128 forward",
    "flow_warp 16x3x128x128 flow 8x8 parameters",
    "flow_warp 16x3x128x128 dense flow forward",
    "thin_plate_warp 16x3x128x128 16 points parameters",
    "kl_disagreement 4096x1000 all",
    "kl_disagreement 512x10 all",
    "linear_kl_disagreement 1024x512->32000 features",
    "hard_step 3x64x64 step",
    "config_iteration 2x3x16x16 5 steps search",
    "sampling_gradient 2x3x32x32 20 steps all",
)

Table = list[list[str]]


def write(root: Path = ROOT) -> list[Path]:
    """Writes tables and plot; returns the files that it changed.

    Raises:
        FileNotFoundError: this is not the source of hardfast, or no result is kept.
        ValueError: a README has lost its markers.
    """
    changed = []
    for path, text in rendered(root).items():
        if path.read_text() != text:
            path.write_text(text)
            changed.append(path)
    picture, newest = root / "bench" / plot.FILE, _newest_cpu(_load(root))
    if plot.is_stale(picture, newest):
        plot.draw(picture, newest)
        changed.append(picture)
    return changed


def stale(root: Path = ROOT) -> list[Path]:
    """The files that :func:`write` would change."""
    picture = root / "bench" / plot.FILE
    old = [path for path, text in rendered(root).items() if path.read_text() != text]
    return old + [picture] * plot.is_stale(picture, _newest_cpu(_load(root)))


def rendered(root: Path) -> dict[Path, str]:
    """The READMEs as they should be."""
    short, full = root / "README.md", root / "bench" / "README.md"
    if not (short.exists() and full.exists()):
        raise FileNotFoundError(f"{root} has no README.md and bench/README.md: the report is written in the source")
    found = _load(root)
    return {
        short: between(short.read_text(), "headlines", headlines(_newest_cpu(found))),
        full: between(full.read_text(), "results", everything(found, root / "bench" / "results" / KERNELS)),
    }


def between(text: str, name: str, content: str) -> str:
    """The text with what stands between the markers of this name replaced."""
    begin, end = f"<!-- bench {name}: written by `hardfast bench --report` -->", f"<!-- end of bench {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the text must have the lines {begin!r} and {end!r}, each once and in this order")
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"


def _load(root: Path) -> list[Result]:
    folder = root / "bench" / "results"
    paths = [path for path in sorted(folder.glob("*.json")) if path.name != KERNELS]
    if not paths:
        raise FileNotFoundError(f"{folder} has no results: `hardfast bench --json {folder}` writes them")
    return [results.Result.read(path) for path in paths]


def _newest_cpu(found: Sequence[Result]) -> Result:
    on_cpu = [result for result in found if result.machine["device"] == "cpu"]
    if not on_cpu:
        raise FileNotFoundError("there are no results of a CPU: `hardfast bench --json bench/results` writes them")
    return max(on_cpu, key=lambda result: result.machine["date"])


def headlines(result: Result) -> str:
    """Some of the cases on one machine."""
    by_case = _by_case(result.rows)
    rows = [by_case[name] for name in HEADLINES if name in by_case]
    lines = [
        f"`make bench` on {_machine(result)}: how many times longer the others take, medians of alternating rounds. "
        "*parameters* is forward and gradient to the parameters, *all* to the images too; float32 if nothing is said. "
        "**Bold** is a loss.",
        "",
        *_markdown(_comparison(rows, {}, short=True)),
        "",
        "Peak memory is eager's over ours; the roofline is what copy bandwidth and arithmetic of the machine allow. "
        "[bench/README.md](bench/README.md) has every case and how they are compared.",
    ]
    return "\n".join(lines)


def everything(found: Sequence[Result], kernels: Path) -> str:
    """All rows of all machines, and what was not measured."""
    blocks = [block for result in found for block in _result_blocks(result)]
    if not any(result.machine["device"] == "cuda" for result in found):
        blocks += _unmeasured_gpu(kernels)
    return "\n\n".join(blocks)


def _result_blocks(result: Result) -> list[str]:
    cases = {case.name: case for case in all_cases(result.machine["device"])}
    rates = next(iter(result.rates.values()))
    versions = ", ".join(f"{name} {number}" for name, number in result.machine["versions"].items())
    changes = " with changes" if result.machine["uncommitted_changes"] else ""
    commits = dict.fromkeys(f"`{(row.commit or 'unknown')[:10]}`" for row in result.rows)
    blocks = [
        f"## {_machine(result)}",
        f"hardfast {result.machine['hardfast']}, commit {', '.join(commits)}{changes}, "
        f"{result.machine['date']}; {versions}. Measured: {rates['bytes'] / 1e9:.1f} GB/s copied, "
        f"{rates['operations'] / 1e9:,.0f} GFLOP/s in a matrix product.",
    ]
    found = _by_case(result.rows)
    by_case = {name: found[name] for name in cases if name in found}  # in the order of the cases
    chapters = defaultdict(list)
    for rows in by_case.values():
        chapters[_chapter(rows[0].op)].append(rows)
    for title in CHAPTERS.values():
        if title in chapters:
            blocks += [f"### {title}", "\n".join(_markdown(_comparison(chapters[title], cases)))]
    if result.machine["device"] == "cpu":
        blocks.append(f"![Share of the roofline against size]({plot.FILE})")
    missed = [f"- {name}: {what}" for name, rows in by_case.items() for what in missed_floors(cases[name], rows)]
    return [*blocks, "Floors that are missed:\n\n" + "\n".join(missed) if missed else "Every floor is reached."]


def _chapter(op: str) -> str:
    if op.endswith("_warp"):
        return CHAPTERS["warp"]
    return CHAPTERS["step" if op in ("hard_step", "distillation_step", "config_iteration", "sampling_gradient") else ""]


def _by_case(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.case_name].append(row)
    return found


def _comparison(groups: Sequence[Sequence[Row]], cases: dict[str, Case], *, short: bool = False) -> Table:
    """A line a case: our time, then how many times longer each peer takes; columns nobody fills are left out."""
    present = {row.implementation for rows in groups for row in rows}
    peers = [name for name in PEERS if name in present and not (short and name.startswith(OURS))]
    end_to_end = all(rows[0].roofline_fraction is None for rows in groups)
    last = "images/s" if end_to_end else "of the roofline"
    table = [["case", "ms", *([] if short else ["± IQR"]), *peers, "peak memory", last]]
    for rows in groups:
        by_name = {row.implementation: row for row in rows}
        ours = by_name[OURS]
        cells = [_case_cell(ours), _number(ours.median_ms), *([] if short else [_number(ours.iqr_ms)])]
        for name in peers:
            cells.append(_ratio(ours, by_name[name], cases.get(ours.case_name)) if name in by_name else "")
        told = f"{1e3 * ours.items / ours.median_ms:.0f}" if end_to_end else _share(ours)
        table.append([*cells, _memory_cell(ours, by_name.get("eager"), short), told])
    return table


def _case_cell(row: Row) -> str:
    return f"`{row.op}` {row.case_name.removeprefix(row.op + ' ')}"


def _ratio(ours: Row, peer: Row, case: Case | None) -> str:
    value = speedup(ours, peer)
    text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
    floor = None if case is None else case.floors.speed.get(peer.implementation)
    text = f"**{text}**" if value < 1 else text
    return text if floor is None else f"{text} (floor {floor:g})"


def _memory_cell(ours: Row, eager: Row | None, short: bool) -> str:
    if eager is None or ours.peak_bytes is None or eager.peak_bytes is None:
        return ""
    factor = f"{eager.peak_bytes / max(ours.peak_bytes, 1):.1f}"
    return factor if short else f"{ours.peak_bytes / 2**20:.1f} MiB, eager {factor} times"


def _share(row: Row) -> str:
    return "" if row.roofline_fraction is None else f"{row.roofline_fraction:.0%}"


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _machine(result: Result) -> str:
    machine = result.machine
    if machine["device"] == "cuda":
        return machine["machine"]
    return f"{machine['machine']}, {machine['cpu_isa']}, {machine['threads']} of {machine['cores']} cores"


def _unmeasured_gpu(kernels: Path) -> list[str]:
    """Which cases there are, and what the compiler says of the kernels that they would run."""
    passes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for case in all_cases("cuda"):
        kind = case.dtype if case.memory_format == "contiguous" else f"{case.dtype} {case.memory_format}"
        passes[f"`{case.op}` {case.size}"][kind].append(case.pass_name)
    table = [["case", "passes", "GPU"]]
    table += [
        [name, "; ".join(f"{kind}: {', '.join(found)}" for kind, found in by_kind.items()), "not measured"]
        for name, by_kind in passes.items()
    ]
    blocks = [
        "## GPU",
        "No GPU was at hand: `make bench-gpu` measures these, beside eager and compiled PyTorch, kornia, torchvision, "
        "triton-augment and Liger.",
        "\n".join(_markdown(table)),
    ]
    if kernels.exists():
        blocks += [
            "The compiled CUDA kernels, the worst of their instances (`make kernels`):",
            _kernel_table(kernels),
            *_instruction_table(kernels),
        ]
    return blocks


def _instruction_table(path: Path) -> list[str]:
    """What a pixel takes in the kernels that were disassembled."""
    table = [["kernel", "instructions"]]
    for name, by_architecture in json.loads(path.read_text()).items():
        table += [[f"`{name}`", str(u["instructions"])] for u in by_architecture.values() if "instructions" in u]
    if len(table) == 1:
        return []
    return [
        "Instructions that a pixel of three channels takes on sm_90 if all its taps lie in the image, read from the "
        "disassembly. *Layout* 0 has a plane for each channel, 1 has the channels last.",
        "\n".join(_markdown(table)),
    ]


def _kernel_table(path: Path) -> str:
    """One line a kernel template: the most that any of its instances uses, registers by architecture."""
    usage: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, by_architecture in json.loads(path.read_text()).items():
        usage[name.partition("<")[0]].append(by_architecture)
    architectures = sorted({a for instances in usage.values() for found in instances for a in found})

    def worst(instances: list[dict[str, Any]], field: str, choose: Callable[[str], bool] = lambda _: True) -> str:
        return str(max((u[field] for found in instances for a, u in found.items() if choose(a)), default=0))

    heading = ["kernel", "instances", *(f"registers {a}" for a in architectures), "stack", "spills", "shared memory"]
    table = [heading]
    for name, instances in sorted(usage.items()):
        registers = [worst(instances, "registers", lambda a, wanted=a: a == wanted) for a in architectures]
        rest = [worst(instances, field) for field in ("stack", "spills", "shared")]
        table.append([f"`{name}`", str(len(instances)), *registers, *rest])
    return "\n".join(_markdown(table))


def _markdown(table: Table) -> list[str]:
    head, *rows = table
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
