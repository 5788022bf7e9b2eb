"""What a finished run leaves for a person: curves and a page that tells it all."""

from __future__ import annotations

import dataclasses
from typing import Any

from linsey.app import curves, html, metrics_log, model_summary
from linsey.app.config import TrainConfig
from linsey.app.data import Dataset
from linsey.app.devices import describe_environment
from linsey.app.evaluation import Evaluation
from linsey.app.run_folder import RunFolder
from linsey.training import durable

CURVES_MISSING = "no curves: pip install 'linsey[plot]' draws them"


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
        """The result in a line."""
        final = self.final
        return (
            f"test accuracy {final.accuracy:.4f} ({final.correct} of {final.count}), "
            f"loss {final.loss:.4f}, with the running statistics of step {self.step}"
        )

    def warnings(self) -> list[str]:
        """What should not be overlooked."""
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
    layers: list[model_summary.LayerRow],
    outcome: Outcome,
) -> None:
    """Writes the curves and the page of a run.

    Args:
        folder: the run.
        config: its options.
        dataset: what was learned.
        layers: the model.
        outcome: how it ended.
    """
    records = metrics_log.read(folder.metrics)
    drawing = html.paragraph(CURVES_MISSING)
    if curves.is_available():
        curves.draw_run(folder.curves, records)
        drawing = html.image(folder.curves, "loss and accuracy against steps")
    facts = {**config.identity, **describe_environment()}
    content = html.page(
        f"{config.model} with {config.norm} normalization on {dataset.name}",
        html.paragraph(outcome.headline(), "big"),
        html.paragraph(
            f"Best test accuracy along the way: {outcome.best_accuracy:.4f} at step "
            f"{outcome.best_step}. It was chosen on the test part, so it flatters."
        ),
        *[html.paragraph(warning) for warning in outcome.warnings()],
        html.heading("Curves"),
        drawing,
        html.heading("Classes"),
        html.paragraph("Rows are true classes, columns predicted ones."),
        _confusion(dataset, outcome.final),
        html.heading("Model"),
        html.table(model_summary.HEADERS, model_summary.summary_cells(layers)),
        html.heading("Options and environment"),
        html.table(("option", "value"), facts.items()),
        html.heading("Progress"),
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
    return html.table(("class", "accuracy", *dataset.class_names), rows)


def _history(records: list[dict[str, Any]]) -> str:
    rows = [
        (record["step"], f"{record['epoch']:.2f}", _number(record["loss"]),
         f"{record['accuracy']:.4f}")
        for record in records
        if record["kind"] == "eval"
    ]  # fmt: skip
    return html.table(("step", "epoch", "test loss", "test accuracy"), rows)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
