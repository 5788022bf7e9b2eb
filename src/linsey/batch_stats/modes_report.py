"""The report of `compare_modes` on training and evaluation, with a plot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from linsey.batch_stats.report import Cell, Finding, Report
from linsey.extras import missing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("layer", "values", "gap", "worst channel", "by chance", "cause")
OUTPUT = "(output)"


@dataclass(frozen=True)
class ModesReport(Report):
    """The result of `compare_modes`: a row for each layer, in the order of calls.

    The columns are the layer; the effective number of independent values in its batch;
    the gap between training and evaluation, relative to the standard deviation of the
    outputs, over all channels and in the worst channel; the gap that chance explains;
    and the cause. The last row is the output of the model.
    """

    @property
    def first(self) -> Finding | None:
        """The finding about the first layer where training and evaluation differ."""
        parting = [one for one in self.findings if one.severity != "note"]
        return min(parting, key=lambda one: one.numbers["order"], default=None)

    def plot(self) -> Figure:
        """Draw the gap of each layer, and the gap by chance, with Matplotlib.

        Raises:
            MissingPackageError: Matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise missing(error, "plot", "`plot`") from error
        rows = [row for row in self.rows if row[0] != OUTPUT]
        names, gaps, by_chance, causes = (
            [row[COLUMNS.index(column)] for row in rows]
            for column in ("layer", "gap", "by chance", "cause")
        )
        colors = ["tab:red" if cause else "tab:blue" for cause in causes]
        figure = Figure(figsize=(6.5, 1 + 0.35 * len(rows)), layout="constrained")
        axes = figure.subplots()
        ticks = list(range(len(rows)))
        axes.barh(ticks, [_drawn(value) for value in gaps], color=colors)
        chances = [_drawn(value) for value in by_chance]
        axes.plot(chances, ticks, "k|", markersize=12, label="by chance")
        axes.set_yticks(
            ticks, [f"{n}  {c or ''}" for n, c in zip(names, causes, strict=True)]
        )
        axes.invert_yaxis()  # the first layer on top
        axes.set(xlabel="gap between training and evaluation", title=self.title)
        axes.legend()
        return figure


def _drawn(value: Cell) -> float:
    """Return the length of a bar: 0 if the gap is not finite."""
    return value if isinstance(value, float) and math.isfinite(value) else 0.0
