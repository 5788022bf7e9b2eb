"""What a finished run leaves for a person: curves, and a page that tells it all.

A page needs nothing but itself: its style and its images are inside. Curves are PNG
files, drawn by matplotlib where it is installed.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from linsey.app import metrics_log, models
from linsey.app.config import TrainConfig
from linsey.app.dataset import Dataset
from linsey.app.devices import describe_environment
from linsey.app.metrics_log import Record
from linsey.app.run_folder import RunFolder
from linsey.app.steps import Evaluation
from linsey.checkpoint import durable
from linsey.extras import install_hint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
        best_step: the step with the best test accuracy.
        best_accuracy: its test accuracy.
        skipped: steps that were not committed because something was not finite.
    """

    step: int
    final: Evaluation
    best_step: int
    best_accuracy: float
    skipped: int

    def headline(self) -> str:
        """Return the result in a line."""
        final = self.final
        return (
            f"test accuracy {final.accuracy:.4f} ({final.correct} of {final.count}), "
            f"loss {final.loss:.4f}, with the running statistics of step {self.step}"
        )

    def warnings(self) -> list[str]:
        """List what should not be overlooked."""
        if not self.skipped:
            return []
        return [
            f"{self.skipped} of {self.step} steps were skipped as a whole: loss, "
            "gradients or statistics were not finite; a lower --lr may help"
        ]


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
    drawing = drawn(
        folder.curves,
        "loss and accuracy against steps",
        lambda path: draw_run(path, records),
    )
    facts = {**config.identity, **describe_environment()}
    content = page(
        f"{config.model} with {config.norm} normalization on {dataset.name}",
        paragraph(outcome.headline(), "big"),
        paragraph(
            f"Best test accuracy along the way: {outcome.best_accuracy:.4f} at step "
            f"{outcome.best_step}. It was chosen on the test part, so it flatters."
        ),
        *[paragraph(warning) for warning in outcome.warnings()],
        heading("Curves"),
        drawing,
        heading("Classes"),
        paragraph("Rows are true classes, columns predicted ones."),
        _confusion(dataset, outcome.final),
        heading("Model"),
        table(models.HEADERS, models.summary_cells(layers)),
        heading("Options and environment"),
        table(("option", "value"), facts.items()),
        heading("Progress"),
        _history(records),
    )
    durable.write_file(folder.report, content)


def _confusion(dataset: Dataset, result: Evaluation) -> str:
    rows = []
    shares = result.class_accuracies()
    for name, counts, share in zip(
        dataset.class_names, result.confusion, shares, strict=True
    ):
        rows.append([name, "" if share is None else f"{share:.4f}", *counts.tolist()])
    return table(("class", "accuracy", *dataset.class_names), rows)


def _history(records: list[Record]) -> str:
    rows = [
        (record["step"], f"{record['epoch']:.2f}", _number(record["loss"]),
         f"{record['accuracy']:.4f}")
        for record in records
        if record["kind"] == "eval"
    ]  # fmt: skip
    return table(("step", "epoch", "test loss", "test accuracy"), rows)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


# -- curves --------------------------------------------------------------------------

Curve = tuple[list[int], list[float]]


def curve(records: Sequence[Record], kind: str, key: str) -> Curve:
    """Return steps and values of one metric, without the values that are missing.

    Args:
        records: as `metrics_log.read` gives them.
        kind: of the records, `train` or `eval`.
        key: the metric.

    Returns:
        Steps and values.
    """
    points = [
        (record["step"], record[key])
        for record in records
        if record["kind"] == kind and record.get(key) is not None
    ]
    return [step for step, _ in points], [value for _, value in points]


def drawn(path: Path, description: str, draw: Callable[[Path], None]) -> str:
    """Draw curves where matplotlib is installed.

    Args:
        path: the PNG file.
        description: what it shows.
        draw: writes the file.

    Returns:
        The image for a page, or how to get it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return paragraph(f"no curves: {install_hint('plot')} draws them")
    draw(path)
    return image(path, description)


def draw_run(path: Path, records: Sequence[Record]) -> None:
    """Draw loss and accuracy of one run.

    Args:
        path: the PNG file.
        records: the history of the run.
    """
    figure, (left, right) = _figure(2)
    for axes, key in ((left, "loss"), (right, "accuracy")):
        axes.plot(*curve(records, "train", key), label="training", alpha=0.7)
        axes.plot(*curve(records, "eval", key), label="test", marker=".")
        axes.set(xlabel="step", ylabel=key)
        axes.legend()
    left.set_yscale("log")
    _save(figure, path)


def draw_comparison(
    path: Path, groups: Mapping[str, Mapping[str, Sequence[Record]]]
) -> None:
    """Draw test accuracy against steps, one panel for each learning rate.

    Args:
        path: the PNG file.
        groups: panel title, then label of the run, then its history.
    """
    figure, panels = _figure(len(groups))
    for axes, (title, runs) in zip(panels, groups.items(), strict=True):
        for label, records in runs.items():
            axes.plot(*curve(records, "eval", "accuracy"), label=label, marker=".")
        axes.set(title=title, xlabel="step", ylabel="test accuracy", ylim=(0, 1.02))
        axes.legend(loc="lower right")
    _save(figure, path)


def _figure(panels: int) -> tuple[Figure, np.ndarray]:
    # Not pyplot: it looks for a display and keeps every figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * panels, 4), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for each in axes:
        each.grid(alpha=0.3)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=120)


# -- pages ---------------------------------------------------------------------------


def page(title: str, *parts: str) -> bytes:
    """Make a whole page.

    Args:
        title: plain text.
        *parts: HTML.

    Returns:
        The file.
    """
    name = html.escape(title)
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{name}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n{body}\n"
        "</body>\n</html>\n"
    ).encode()


def heading(text: str) -> str:
    """Make a section heading."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str, style: str = "") -> str:
    """Make a paragraph of plain text."""
    return f'<p class="{style}">{html.escape(text)}</p>'


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Make a table; numbers are aligned to the right."""
    head = "".join(f"<th>{html.escape(header)}</th>" for header in headers)
    lines = ["".join(map(_cell, row)) for row in rows]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def image(path: Path, description: str) -> str:
    """Put a PNG file into the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    text = html.escape(description, quote=True)
    return f'<img alt="{text}" src="data:image/png;base64,{data}">'


def _cell(value: object) -> str:
    text = str(value)
    is_number = text.replace(",", "").replace(".", "", 1).strip("-").isdigit()
    style = ' class="number"' if is_number else ""
    return f"<td{style}>{html.escape(text)}</td>"
