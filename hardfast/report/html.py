"""report.html: one self-contained page about a run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from hardfast.distill.atomic import write_bytes
from hardfast.report import figures, learned, page
from hardfast.report.contact_sheet import CAPTION
from hardfast.report.generated import generated_images, generation_table
from hardfast.report.load import FIXED, Run, load_run
from hardfast.report.tables import Table, config_table, header_table, headline, method_label, results_tables

__all__ = ["build_report"]


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
        *((_generated(run),) if run.generates else (_augmentors(run), _shifts(run))),
        _training(run),
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
    return "<h2>Results</h2>\n" + "\n".join(page.table(table) for table in results_tables(run.rows))


def _generation(run: Run) -> str:
    table = generation_table(run)
    return "<h2>Candidates</h2>\n" + page.table(table) if table is not None else ""


def _section(title: str, parts: Sequence[str], absent: str) -> str:
    """A heading, what of the parts is there, and a sentence where nothing is."""
    content = "\n".join(part for part in parts if part) or f'<p class="absent">{escape(absent)}</p>'
    return f"<h2>{escape(title)}</h2>\n{content}"


def _figure(figure: Figure | None, caption: str) -> str:
    return "" if figure is None else page.figure(figure, caption)


def _generated(run: Run) -> str:
    return _section("What the generator found", [_figure(generated_images(run), CAPTION)], "No generated images yet.")


def _augmentors(run: Run) -> str:
    several = len(run.learners()) > 1
    if several:
        pictures = "The same images as each method shows them to the student at the end of its training."
    else:
        pictures = (
            "The same images through training, as the augmentor shows them to the student, in rows from the first step "
            "to the last."
        )
        if any(learned.has_pictures(run, method) for method in FIXED):
            pictures += " The rows below show what the fixed augmentations make of them."
    if run.of("random_augmentor"):
        pictures += " The random augmentor draws from the learned one's initial distribution."
    scales = (
        "Standard deviations of the six entries of the affine matrix, in normalised coordinates (the image spans -1 to "
        "1). Where translation grows and the linear part does not, the augmentor has found an invariance to shifts."
    )
    table = learned.learned_table(run)
    return _section(
        "What each learned" if several else "What the augmentor does",
        [
            _figure(learned.augmented_images(run), pictures),
            "" if table is None else page.table(table),
            _figure(learned.scale_curves(run), scales),
        ],
        "No snapshots.npz and no logged scales: nothing to show of the augmentor.",
    )


def _shifts(run: Run) -> str:
    if not any(part.shifts is not None for part in run.methods):
        return ""
    curve = (
        "Mean over all shifts of a length, rounded to whole pixels, and over the seeds. No method saw this test set in "
        "training or selection."
    )
    return _section(
        "Accuracy under shifts",
        [
            _figure(figures.shift_maps(run), "Accuracy at every shift of the test images, mean of the seeds."),
            _figure(figures.shift_curve(run), curve),
        ],
        "",
    )


def _training(run: Run) -> str:
    images = "held-out images"
    if run.generates:
        images += " with the bias of the training set"
    elif run.centred:
        images = "held-out centred images"
    lines = "mean of the seeds" if figures.many_methods(run) else "one line per seed"
    losses = f"{lines.capitalize()}; neighbouring steps are averaged where they are many."
    parts = [
        _figure(figures.accuracy_curves(run), f"Accuracy on {images}, {lines}."),
        _figure(figures.loss_curves(run), losses),
    ]
    learner = figures.first_learner(run)
    if learner is not None:
        of = "of one seed" if len(run.learners()) < 2 else f"of one seed of {method_label(learner.method)}"
        alternation = (
            f"Left, {of}: the student's steps lower the disagreement, the augmentor's raise it, while the teacher's "
            "own answer stays near that on the clean image. Right: one line per seed."
        )
        parts.append(_figure(figures.alternation(run), alternation))
    return _section("Training", parts, "No metrics.jsonl with steps in it: no curves.")


def _details(title: str, table: Table | None, file: str) -> str:
    content = page.table(table, "details") if table is not None else f'<p class="absent">{escape(file)} is missing.</p>'
    return f"<h2>{escape(title)}</h2>\n{content}"
