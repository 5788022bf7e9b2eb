"""Curves of a run as PNG files, drawn by matplotlib if it is installed."""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from linsey.app.metrics_log import Record
from linsey.app.page import paragraph
from linsey.checkpoint import durable
from linsey.extras import install_hint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import BboxBase


def curve(
    records: Sequence[Record], kind: str, key: str
) -> tuple[list[int], list[float]]:
    """Return steps and values of one metric, without the values that are missing.

    Args:
        records: the records, as `metrics_log.read` returns them.
        kind: the kind of records, `train` or `eval`.
        key: the metric.

    Returns:
        Steps and values.
    """
    found = [r for r in records if r["kind"] == kind and r.get(key) is not None]
    return [record["step"] for record in found], [record[key] for record in found]


_PANELS = (
    ("train", "loss"), ("train", "accuracy"), ("train", "learning_rate"),
    ("train", "examples_per_second"),
)  # fmt: skip


def watched_part(records: Sequence[Record]) -> str:
    """Return the part of the data that was evaluated during training."""
    evaluated = (record for record in records if record["kind"] == "eval")
    return str(next(evaluated, {}).get("part", "test"))


def draw_run(path: Path, records: Sequence[Record]) -> str:
    """Draw loss, accuracy, learning rate and speed of one run, for a page."""
    watched = watched_part(records)

    def draw(panels: Sequence[Axes]) -> None:
        for axes, (kind, key) in zip(panels, _PANELS, strict=True):
            axes.plot(*curve(records, kind, key), label="training", alpha=0.7)
            axes.set(xlabel="step", ylabel=key.replace("_", " "))
        for axes, key in zip(panels, ("loss", "accuracy"), strict=False):
            axes.plot(*curve(records, "eval", key), label=watched, marker=".")
            axes.legend()
        panels[0].set_yscale("log")
        panels[-1].set_ylim(bottom=0)

    told = "loss, accuracy, learning rate and examples per second against steps"
    return drawn(path, told, len(_PANELS), draw, columns=2)


def drawn(
    path: Path,
    description: str,
    panels: int,
    draw: Callable[[Sequence[Axes]], None],
    columns: int | None = None,
) -> str:
    """Draw curves if matplotlib is installed.

    Args:
        path: the PNG file.
        description: what the image shows.
        panels: number of plots.
        draw: a function that draws into the plots.
        columns: number of plots side by side. If `None`, all of them.

    Returns:
        HTML with the image, or a note on how to get it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return paragraph(f"no curves: {install_hint('plot')} draws them")
    # Not pyplot: it looks for a display and keeps every figure.
    from matplotlib.figure import Figure

    columns = columns or panels
    rows = -(-panels // columns)
    figure = Figure(figsize=(5.5 * columns, 4 * rows), layout="constrained", dpi=120)
    parts = figure.subfigures(rows, columns, squeeze=False).ravel()[:panels]
    plots = [part.subplots() for part in parts]
    for axes in plots:
        axes.grid(alpha=0.3)
    draw(plots)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    durable.write_file(path, image.getvalue())
    # Separate images, so that a narrow page shows one below the other.
    images = (
        f'<img alt="{description}: plot {number}" src="data:image/png;base64,'
        f'{base64.b64encode(_cut(image, part.bbox)).decode()}">'
        for number, part in enumerate(parts, 1)
    )
    return f'<div class="curves">{"".join(images)}</div>'


def _cut(image: io.BytesIO, part: BboxBase) -> bytes:
    """Return a part of a PNG file as another file; `part` counts pixels from below."""
    from PIL import Image  # which matplotlib needs itself

    found = io.BytesIO()
    with Image.open(image) as whole:
        top, bottom = whole.height - part.y1, whole.height - part.y0
        # Whole pixels: an image cut between them would be blurred.
        box = round(part.x0), round(top), round(part.x1), round(bottom)
        whole.crop(box).save(found, "png")
    return found.getvalue()
