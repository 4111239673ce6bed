"""report.html: one self-contained page about a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from hardfast.distill.run_dir import write_bytes
from hardfast.report import figures, page
from hardfast.report.contact_sheet import CAPTION
from hardfast.report.generated import generated_images, generation_table
from hardfast.report.load import Run, load_run
from hardfast.report.tables import Table, config_table, header_table, headline, results_table

__all__ = ["build_report"]


@dataclass(frozen=True)
class _Section:
    """A heading, its figures with their captions, and the sentence for a run that has none of them."""

    title: str
    parts: tuple[tuple[Callable[[Run], Figure | None], str], ...]
    absent: str


_HARD = (
    _Section(
        "What the augmentor does",
        (
            (
                figures.augmented_images,
                (
                    "The same images through training, as the augmentor shows them to the student, in rows from the "
                    "first step to the last. The random augmentor draws from the learned one's initial distribution."
                ),
            ),
            (
                figures.scale_curves,
                (
                    "Standard deviations of the six entries of the affine matrix, in normalised coordinates (the image "
                    "spans -1 to 1). Where translation grows and the linear part does not, the augmentor has found an "
                    "invariance to shifts."
                ),
            ),
        ),
        "No snapshots.npz and no logged scales: nothing to show of the augmentor.",
    ),
    _Section(
        "Accuracy under shifts",
        (
            (figures.shift_maps, "Accuracy at every shift of the test images, mean of the seeds."),
            (
                figures.shift_curve,
                (
                    "Mean over all shifts of a length, rounded to whole pixels, and over the seeds. No method saw this "
                    "test set in training or selection."
                ),
            ),
        ),
        "No shift_accuracy.npz: no method of this run was evaluated under shifts.",
    ),
    _Section(
        "Training",
        (
            (figures.accuracy_curves, "Accuracy on held-out centred images, one line per seed."),
            (figures.loss_curves, "One line per seed; neighbouring steps are averaged where they are many."),
            (
                figures.alternation,
                (
                    "Left, of one seed: the student's steps lower the disagreement, the augmentor's raise it, while "
                    "the teacher's own answer stays near that on the clean image. Right: one line per seed."
                ),
            ),
        ),
        "No metrics.jsonl with steps in it: no curves.",
    ),
)
_CONFIG = (
    _Section("What the generator found", ((generated_images, CAPTION),), "No generated images yet."),
    _Section(
        "Training",
        (
            (
                figures.accuracy_curves,
                "Accuracy on held-out images with the bias of the training set, one line per seed.",
            ),
            (figures.loss_curves, "One line per seed; neighbouring steps are averaged where they are many."),
        ),
        "No metrics.jsonl with steps in it: no curves.",
    ),
)


def build_report(run: Path) -> Path:
    """Write ``report.html`` into a run directory: one page that needs no network and no JavaScript.

    Args:
        run: directory of a run, finished or not.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: there is no such directory.
        BrokenRunError: the directory holds no run, or a file in it is damaged; the message names the file.
        OSError: the page cannot be written.
    """
    loaded = load_run(Path(run))
    with figures.style():
        content = _page(loaded).encode("utf-8")
    return write_bytes(loaded.path / "report.html", content)


def _page(run: Run) -> str:
    body = [
        f"<header><h1>{escape(run.recipe)}</h1>",
        *(f"<p>{escape(text)}</p>" for text in _configured(run, "title")),
        f'<p class="about">{escape(_about(run))}</p></header>',
        _headline(run),
        _missing(run),
        _results(run),
        _generation(run),
        *(_section(run, section) for section in (_CONFIG if run.generates else _HARD)),
        _details("Configuration", None if run.config is None else config_table(run.config), "config.json"),
        _details("How it was run", None if run.header is None else header_table(run.header), "results.json"),
        *(f'<p class="notes">After {escape(text)}</p>' for text in _configured(run, "citation")),
    ]
    return page.document(f"{run.recipe}: hardfast report", body)


def _configured(run: Run, name: str) -> list[str]:
    """Return the text of that name in config.json, as a list of one or none."""
    value = (run.config or {}).get(name)
    return [value] if isinstance(value, str) else []


def _about(run: Run) -> str:
    seeds = len({part.seed for part in run.methods})
    parts = [f"{seeds} seed{'' if seeds == 1 else 's'}"] if seeds else []
    header = run.header or {}
    if isinstance(header.get("seconds"), (int, float)):
        parts.append(f"{_duration(header['seconds'])} of wall-clock time")
    machine = header.get("machine")
    if isinstance(machine, dict) and machine.get("cpu"):
        parts.append(f"{machine['cpu']}, {machine.get('cores', '?')} cores")
    if header.get("date"):
        parts.append(str(header["date"]))
    return " · ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _headline(run: Run) -> str:
    sentence = headline(run.rows)
    return f'<p class="headline">{escape(sentence)}</p>' if sentence else ""


def _missing(run: Run) -> str:
    if not run.missing:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in run.missing)
    return f'<div class="missing">This run is incomplete.<ul>{items}</ul></div>'


def _results(run: Run) -> str:
    if not run.rows:
        return '<h2>Results</h2>\n<p class="absent">No results yet.</p>'
    return "<h2>Results</h2>\n" + page.table(results_table(run.rows))


def _generation(run: Run) -> str:
    table = generation_table(run)
    return "<h2>Candidates</h2>\n" + page.table(table) if table is not None else ""


def _section(run: Run, section: _Section) -> str:
    shown = []
    for draw, caption in section.parts:
        figure = draw(run)
        if figure is not None:
            shown.append(page.figure(figure, caption))
    content = "\n".join(shown) or f'<p class="absent">{escape(section.absent)}</p>'
    return f"<h2>{escape(section.title)}</h2>\n{content}"


def _details(title: str, table: Table | None, file: str) -> str:
    content = page.table(table, "details") if table is not None else f'<p class="absent">{escape(file)} is missing.</p>'
    return f"<h2>{escape(title)}</h2>\n{content}"
