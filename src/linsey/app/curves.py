"""Curves of runs as PNG files (matplotlib, the extra `plot`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from linsey.app.metrics_log import Record

Curve = tuple[list[int], list[float]]


def curve(records: Sequence[Record], kind: str, key: str) -> Curve:
    """Steps and values of one metric, without the values that are missing.

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


def is_available() -> bool:
    """Whether matplotlib is installed."""
    import importlib.util

    return importlib.util.find_spec("matplotlib") is not None


def draw_run(path: Path, records: Sequence[Record]) -> None:
    """Draws loss and accuracy of one run.

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
    """Draws test accuracy against steps, one panel for each learning rate.

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


def _figure(panels: int) -> tuple[Any, Any]:
    # Not pyplot: it looks for a display and keeps every figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * panels, 4), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for each in axes:
        each.grid(alpha=0.3)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, format="png", dpi=120)
