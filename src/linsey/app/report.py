"""The HTML page with everything about a finished run."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version

import jax
import numpy as np

from linsey.app import models
from linsey.app.config import TrainConfig
from linsey.app.curves import draw_run, watched_part
from linsey.app.dataset import Dataset
from linsey.app.devices import describe_environment
from linsey.app.metrics_log import Record
from linsey.app.outcome import Outcome
from linsey.app.page import matrix, page, paragraph, section, table
from linsey.app.pictures import wrong_examples
from linsey.app.progress import duration
from linsey.app.run_folder import RunFolder
from linsey.app.scores import CALIBRATION_BINS, Calibration, ClassScores
from linsey.app.steps import Evaluation
from linsey.app.terminal import number
from linsey.batch_stats import Report
from linsey.batch_stats.report import shown
from linsey.checkpoint import durable

_MOST_CLASSES = 40
"""With more classes, the largest entries of the confusion matrix are shown instead."""
_MOST_CONFUSED = 20


def write_report(
    folder: RunFolder,
    config: TrainConfig,
    dataset: Dataset,
    layers: list[models.LayerRow],
    outcome: Outcome,
) -> None:
    """Write the curves and the page of a run.

    Args:
        folder: the folder of the run.
        config: its options.
        dataset: the data.
        layers: the layers of the model.
        outcome: how the run ended.
    """
    scores, names = outcome.scores, dataset.class_names
    watched, early = outcome.watched, outcome.early_end()
    told = {**config.identity, **describe_environment()}
    options = {
        name: "not given" if value is None else value for name, value in told.items()
    }
    content = page(
        f"{config.described} on {dataset.name}",
        paragraph(outcome.headline(), "big"),
        paragraph(
            f"Best {watched} accuracy along the way: {scores.best_accuracy:.4f} at "
            f"step {scores.best_step}. It was chosen on the {watched} part, so it is "
            "optimistic."
        ),
        *([] if early is None else [paragraph(early)]),
        *map(paragraph, outcome.warnings()),
        table(("run", ""), _facts(outcome)),
        section("Curves", draw_run(folder.curves, outcome.records)),
        *_classes(outcome.final, names),
        *_wrong(outcome.final, dataset),
        section("Model", table(models.HEADERS, models.summary_cells(layers))),
        *_statistics(outcome.statistics),
        section("Options and environment", table(("option", "value"), options.items())),
        section("Progress", _progress(outcome.records)),
    )
    durable.write_file(folder.report, content)


def _facts(outcome: Outcome) -> list[tuple[str, str]]:
    """Return the section about time, speed and versions."""
    speeds = [
        record["examples_per_second"]
        for record in outcome.records
        if record["kind"] == "train" and record.get("examples_per_second") is not None
    ]
    facts = [("duration of this process, from the model on", duration(outcome.seconds))]
    if speeds:
        speed = f"{statistics.median(speeds):,.0f} examples/s"
        facts.append(("training speed (median, without compiling)", speed))
    versions = {"linsey": version("linsey"), "jax": jax.__version__}
    versions |= {"numpy": np.__version__, "Python": platform.python_version()}
    return [*facts, *versions.items()]


def _classes(final: Evaluation, names: Sequence[str]) -> list[str]:
    """Return the sections about classes, mistakes, and confidence."""
    found = ClassScores.of(final.confusion)
    columns = (found.precision, found.recall, found.f1)
    rows = [
        (name, *(f"{column[index]:.4f}" for column in columns), found.support[index])
        for index, name in enumerate(names)
    ]
    for title, mean in (("macro", found.macro()), ("weighted", found.weighted())):
        values = (f"{value:.4f}" for value in vars(mean).values())
        rows.append((f"{title} average", *values, final.count))
    headers = ("class", "precision", "recall", "F1", "examples")
    top = final.answers.top_accuracy()
    return [
        section(
            "Classes",
            table(headers, rows),
            *([] if top is None else [paragraph(f"Top-5 accuracy: {top:.4f}.")]),
        ),
        section("Confusion", *_confusion(final, names)),
        _calibration(final),
    ]


def _confusion(final: Evaluation, names: Sequence[str]) -> list[str]:
    if len(names) <= _MOST_CLASSES:
        told = "Rows are true classes, columns predicted ones; shaded by the row."
        return [paragraph(told), matrix(names, final.confusion.tolist())]
    rows = [
        (names[true], names[said], count)
        for true, said, count in final.answers.most_confused(_MOST_CONFUSED)
    ]
    headers = ("true class", "predicted class", "examples")
    return [paragraph("The most frequent mistakes."), table(headers, rows)]


def _calibration(final: Evaluation) -> str:
    found = Calibration.of(final.answers.confidence, final.answers.is_right)
    rows = [
        (f"{one.low:.2f} to {one.high:.2f}", one.count, f"{one.confidence:.4f}",
         f"{one.accuracy:.4f}")
        for one in found.bins
        if one.count
    ]  # fmt: skip
    return section(
        "Calibration",
        paragraph(
            f"Expected calibration error {found.error:.4f} over {CALIBRATION_BINS} "
            "bins: how far the probability of the predicted class is from the fraction "
            "of right answers. Bins without examples are left out."
        ),
        table(("probability", "examples", "mean probability", "accuracy"), rows),
    )


def _wrong(final: Evaluation, dataset: Dataset) -> list[str]:
    pictures = wrong_examples(final.answers, dataset.x_test, dataset.class_names)
    if not pictures:
        return []
    wrong = final.count - final.correct
    told = (
        f"{wrong} of {final.count} test examples were classified wrong. These are the "
        "ones with the highest confidence: the true class, what it was taken for, and "
        "how sure the model was."
    )
    return [section("Wrong examples", paragraph(told), *pictures)]


def _progress(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        if record["kind"] == "eval":
            step, epoch, loss = (record[key] for key in ("step", "epoch", "loss"))
            told = "not finite" if loss is None else number(loss)
            rows.append((step, f"{epoch:.2f}", told, f"{record['accuracy']:.4f}"))
    part = watched_part(records)
    return table(("step", "epoch", f"{part} loss", f"{part} accuracy"), rows)


def _statistics(found: Report) -> list[str]:
    """Return the section about running statistics; empty without batch norm."""
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
