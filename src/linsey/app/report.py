"""What a finished run leaves for a person: curves, and a page that tells it all.

A page needs nothing but itself: its style and its images are inside. Curves are PNG
files, drawn by matplotlib where it is installed.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import importlib.util
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from linsey.app import metrics_log, models
from linsey.app.config import TrainConfig
from linsey.app.dataset import Dataset
from linsey.app.devices import describe_environment
from linsey.app.metadata import Scores
from linsey.app.metrics_log import Record
from linsey.app.run_folder import RunFolder
from linsey.app.steps import Evaluation
from linsey.batch_stats import Report
from linsey.batch_stats.report import shown
from linsey.checkpoint import durable
from linsey.errors.base import printable
from linsey.extras import install_hint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
  padding: 0 1rem; color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } img { max-width: 100%; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: left; }
td { white-space: pre; } td.number { text-align: right; }
div.wide { overflow-x: auto; } .big { font-size: 1.3rem; font-weight: 600; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; }
  th, td { border-color: #444; } img { background: #fff; } }
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a run.

    Attributes:
        step: the last step.
        final: evaluation of the last step.
        scores: the accuracies along the way.
        skipped: steps that were not committed because something was not finite.
        statistics: what an audit of the running statistics found.
    """

    step: int
    final: Evaluation
    scores: Scores
    skipped: int
    statistics: Report

    def headline(self) -> str:
        """Return the result in a line."""
        final = self.final
        return (
            f"test accuracy {final.accuracy:.4f} ({final.correct} of {final.count}), "
            f"loss {final.loss:.4f}, with the running statistics of step {self.step}"
        )

    def warnings(self) -> list[str]:
        """List what should not be overlooked."""
        told = []
        if self.skipped:
            told.append(
                f"{self.skipped} of {self.step} steps were skipped as a whole: loss, "
                "gradients or statistics were not finite; a lower --lr may help"
            )
        told += [f"{one.layer}: {one.message}" for one in self.statistics.errors]
        return told


def write_report(
    folder: RunFolder,
    config: TrainConfig,
    dataset: Dataset,
    layers: list[models.LayerRow],
    outcome: Outcome,
) -> None:
    """Write the curves and the page of a run.

    Args:
        folder: the run.
        config: its options.
        dataset: what was learned.
        layers: the model.
        outcome: how it ended.
    """
    records = metrics_log.read(folder.metrics)
    headers = ("step", "epoch", "test loss", "test accuracy")
    names, scores = dataset.class_names, outcome.scores
    classes = [
        (name, accuracy, *counts.tolist())
        for name, accuracy, counts in outcome.final.by_class(names)
    ]
    progress = []
    for record in records:
        if record["kind"] == "eval":
            step, epoch, loss = (record[key] for key in ("step", "epoch", "loss"))
            shown = "not finite" if loss is None else f"{loss:.4f}"
            accuracy = f"{record['accuracy']:.4f}"
            progress.append((step, f"{epoch:.2f}", shown, accuracy))
    facts = {**config.identity, **describe_environment()}
    content = page(
        f"{config.model} with {config.norm} normalization on {dataset.name}",
        paragraph(outcome.headline(), "big"),
        paragraph(
            f"Best test accuracy along the way: {scores.best_accuracy:.4f} at step "
            f"{scores.best_step}. It was chosen on the test part, so it flatters."
        ),
        *map(paragraph, outcome.warnings()),
        section("Curves", draw_run(folder.curves, records)),
        section(
            "Classes",
            paragraph("Rows are true classes, columns predicted ones."),
            table(("class", "accuracy", *names), classes),
        ),
        section("Model", table(models.HEADERS, models.summary_cells(layers))),
        *_statistics(outcome.statistics),
        section("Options and environment", table(("option", "value"), facts.items())),
        section("Progress", table(headers, progress)),
    )
    durable.write_file(folder.report, content)


def _statistics(found: Report) -> list[str]:
    """The section about the running statistics; none without batch normalization."""
    if not found.rows:
        return []
    names = ("severity", "layer", "kind", "finding")
    findings = [(f.severity, f.layer, f.kind, f.message) for f in found]
    return [
        section(
            "Statistics",
            paragraph(
                "Running statistics, and how the output that they normalize differs "
                "from that with the moments of training batches: shift and ratio where "
                f"they are largest, and the distance of all channels. {found.summary}."
            ),
            table(found.columns, [[*map(shown, row)] for row in found.rows]),
            *([table(names, findings)] if findings else []),
        )
    ]


# -- curves --------------------------------------------------------------------------


def curve(
    records: Sequence[Record], kind: str, key: str
) -> tuple[list[int], list[float]]:
    """Return steps and values of one metric, without the values that are missing.

    Args:
        records: as `metrics_log.read` gives them.
        kind: of the records, `train` or `eval`.
        key: the metric.

    Returns:
        Steps and values.
    """
    found = [r for r in records if r["kind"] == kind and r.get(key) is not None]
    return [record["step"] for record in found], [record[key] for record in found]


def draw_run(path: Path, records: Sequence[Record]) -> str:
    """Draw loss and accuracy of one run; returns the image for a page."""

    def draw(panels: Sequence[Axes]) -> None:
        for axes, key in zip(panels, ("loss", "accuracy"), strict=True):
            axes.plot(*curve(records, "train", key), label="training", alpha=0.7)
            axes.plot(*curve(records, "eval", key), label="test", marker=".")
            axes.set(xlabel="step", ylabel=key)
            axes.legend()
        panels[0].set_yscale("log")

    return drawn(path, "loss and accuracy against steps", 2, draw)


def drawn(
    path: Path, description: str, panels: int, draw: Callable[[Sequence[Axes]], None]
) -> str:
    """Draw curves where matplotlib is installed.

    Args:
        path: the PNG file.
        description: what it shows.
        panels: number of plots, side by side.
        draw: draws into them.

    Returns:
        The image for a page, or how to get it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return paragraph(f"no curves: {install_hint('plot')} draws them")
    # Not pyplot: it looks for a display and keeps every figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * panels, 4), layout="constrained")
    row = figure.subplots(1, panels, squeeze=False)[0]
    for axes in row:
        axes.grid(alpha=0.3)
    draw(row)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    durable.write_file(path, image.getvalue())
    data = base64.b64encode(image.getvalue()).decode()
    return f'<img alt="{description}" src="data:image/png;base64,{data}">'


# -- pages ---------------------------------------------------------------------------


def page(title: str, *parts: str) -> bytes:
    """Make a whole page.

    Args:
        title: plain text.
        *parts: HTML.

    Returns:
        The file.
    """
    name = _escaped(title)
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{name}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n{body}\n"
        "</body>\n</html>\n"
    ).encode()


def section(title: str, *parts: str) -> str:
    """Make a section of a page."""
    return "\n".join((f"<h2>{_escaped(title)}</h2>", *parts))


def paragraph(text: str, style: str = "") -> str:
    """Make a paragraph of plain text."""
    return f'<p class="{style}">{_escaped(text)}</p>'


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Make a table; numbers are aligned to the right."""
    head = "".join(f"<th>{_escaped(header)}</th>" for header in headers)
    lines = ["".join(map(_cell, row)) for row in rows]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _cell(value: object) -> str:
    text = str(value)
    is_number = text.replace(",", "").replace(".", "", 1).strip("-").isdigit()
    style = ' class="number"' if is_number else ""
    return f"<td{style}>{_escaped(text)}</td>"
