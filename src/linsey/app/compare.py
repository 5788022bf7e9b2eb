"""A test of the batch norm paper's claim: faster training, at any learning rate.

The same model is trained with and without normalization, at several learning rates,
on the same batches in the same order. Each training is a run of its own in a
subfolder; the comparison adds a table, a plot and a page.

References:
    Ioffe and Szegedy (2015), Batch Normalization: Accelerating Deep Network Training
    by Reducing Internal Covariate Shift. https://arxiv.org/abs/1502.03167
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from linsey.app import curves, metrics_log, page
from linsey.app.batches import describe_batches
from linsey.app.conclusion import MILESTONES, conclude
from linsey.app.config import BATCH_SIZE, TrainConfig
from linsey.app.dataset import Dataset
from linsey.app.exit_codes import NotFiniteError
from linsey.app.metrics_log import Record
from linsey.app.progress import progress
from linsey.app.recorded_run import train_run
from linsey.app.run_folder import RunFolder, claim, refuse_link
from linsey.app.stopping import StopRequest
from linsey.app.terminal import say, warn
from linsey.app.trainer import check
from linsey.checkpoint import durable
from linsey.errors.base import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_ROWS = 16

Histories = dict[tuple[float, str], list[Record]]


class ResultTable(NamedTuple):
    """A table of text with a title and headers."""

    title: str
    headers: list[str]
    rows: list[list[str]]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The results of a comparison.

    Attributes:
        tables: accuracy against steps, and steps against accuracy.
        conclusion: what was found, in a sentence.
        ended_early: why runs ended before their last step, by folder.
    """

    tables: list[ResultTable]
    conclusion: str
    ended_early: dict[Path, str]

    def refuse_not_finite(self, folder: Path) -> None:
        """Raise an error if no run of the comparison reached its last step.

        Raises:
            NotFiniteError: all runs became NaN or infinite.
        """
        count = len(self.tables[0].headers) - 1
        if len(self.ended_early) == count:
            hint = "try lower --compare-factors, or a lower --lr"
            raise NotFiniteError(f"{folder}: none of {count} runs was finite ({hint})")


def compare(
    config: TrainConfig, dataset: Dataset, folder: RunFolder, stop: StopRequest
) -> Comparison:
    """Train every variant and write the comparison.

    Args:
        config: resolved options; `lr` is multiplied by each of `compare_factors`.
        dataset: the data to learn.
        folder: the folder of the comparison, claimed by this process.
        stop: tells whether a signal asked to save and end.

    Returns:
        The results.

    Raises:
        Stopped: a signal arrived before the end.
    """
    size = max(check(variant, dataset)[1] for variant in variants(config, 1))
    say(describe_batches(config, len(dataset.y_train), size))
    config = dataclasses.replace(config, batch_size=size)
    folder.begin(config)
    folder.lengthen(config.epochs)
    chosen = variants(config, len(dataset.y_train))
    steps = config.epochs * (len(dataset.y_train) // size)
    ended_early: dict[Path, str] = {}
    histories: Histories = {}
    with progress(0, steps * len(chosen), config.plain) as shown:
        shown.say(
            f"{len(chosen)} runs of {steps} steps on {printable(dataset.name)}; the "
            "first steps of each wait for the compiler ..."
        )
        for number, variant in enumerate(chosen):
            stop.check()
            name = f"run {number + 1} of {len(chosen)}"
            run = folder.path / f"{variant.norm}-lr{variant.lr:g}"
            refuse_link(run)
            shown.begin_part(name, number * steps)
            with claim(run, variant) as place:
                try:
                    train_run(variant, dataset, place, stop, shown)
                except NotFiniteError as error:
                    if config.on_nonfinite == "raise":
                        raise
                    # A comparison is made to see how far each run gets.
                    warn(f"{run} ended early: {error}")
                    ended_early[run] = str(error)
            records = metrics_log.read(RunFolder(run).metrics)
            key = variant.lr, variant.norm
            histories[key] = records
            left = shown.left((number + 1) * steps)
            ending = "".join([_ending(records), left and f"; {left}"])
            shown.say(f"{name}: {_label(key)}: {ending}")
    found = Comparison(
        [accuracy_table(histories), milestone_table(histories)],
        conclude(
            {key: _accuracies(records) for key, records in histories.items()},
            _watched(histories),
        ),
        ended_early,
    )
    durable.write_file(folder.report, _page(config, dataset, folder, histories, found))
    stop.check()
    return found


def _ending(records: list[Record]) -> str:
    points = _accuracies(records)
    if not points:
        return "no evaluation"
    step, accuracy = points[-1]
    part = curves.watched_part(records)
    return f"{part} accuracy {accuracy:.4f} after {step} steps"


def _page(
    config: TrainConfig,
    dataset: Dataset,
    folder: RunFolder,
    histories: Histories,
    found: Comparison,
) -> bytes:
    setting = "Same data in the same order, same optimizer and schedule, one seed."
    options = page.table(("option", "value"), config.identity.items())
    early = [f"{run.name} ended early: {why}" for run, why in found.ended_early.items()]
    return page.page(
        f"{config.model} with and without normalization on {dataset.name}",
        page.paragraph(found.conclusion, "big"),
        page.paragraph(setting),
        *map(page.paragraph, early),
        page.section("Curves", draw(folder.curves, histories)),
        *[
            page.section(t.title.capitalize(), page.table(t.headers, t.rows))
            for t in found.tables
        ],
        page.section("Options", options),
    )


def variants(config: TrainConfig, examples: int) -> list[TrainConfig]:
    """List the runs of a comparison: each learning rate with and without normalization.

    Args:
        config: the options of the comparison.
        examples: number of training examples.

    Returns:
        The options of each run.
    """
    # The runs differ most in the first epochs, so they are evaluated often.
    size = config.batch_size or BATCH_SIZE
    steps = config.eval_every or max(1, examples // size // 4)
    norms = (config.norm if config.norm != "none" else "batch", "none")
    arguments = {"none": ()}  # they all belong to the normalization
    return [
        dataclasses.replace(
            config,
            norm=norm,
            lr=config.lr * factor,
            eval_every=steps,
            compare=False,
            model_arg=arguments.get(norm, config.model_arg),
        )  # fmt: skip
        for factor in dict.fromkeys(config.compare_factors)
        for norm in norms
    ]


def accuracy_table(histories: Histories) -> ResultTable:
    """Tabulate the accuracy of each run against steps."""
    accuracies = [dict(_accuracies(records)) for records in histories.values()]
    steps = sorted(set().union(*accuracies))
    rows = [
        [str(step), *(f"{of[step]:.4f}" if step in of else "" for of in accuracies)]
        for step in _thinned(steps)
    ]
    headers = ["step", *map(_label, histories)]
    return ResultTable(f"{_watched(histories)} accuracy after steps", headers, rows)


def milestone_table(histories: Histories) -> ResultTable:
    """Tabulate the step at which each run first reached an accuracy."""
    rows = []
    for milestone in MILESTONES:
        row = [f"{milestone:g}"]
        for records in histories.values():
            points = _accuracies(records)
            reached = (str(step) for step, value in points if value >= milestone)
            row.append(next(reached, "never"))
        rows.append(row)
    part = _watched(histories)
    headers = [f"{part} accuracy", *map(_label, histories)]
    return ResultTable(f"steps until a {part} accuracy is reached", headers, rows)


def _watched(histories: Histories) -> str:
    """Return the part of the data that the runs were evaluated on."""
    return curves.watched_part([r for records in histories.values() for r in records])


def draw(path: Path, histories: Histories) -> str:
    """Draw accuracy against steps, one plot for each learning rate."""
    rates, part = list(dict.fromkeys(lr for lr, _ in histories)), _watched(histories)

    def draw_rates(panels: Sequence[Axes]) -> None:
        for axes, rate in zip(panels, rates, strict=True):
            for (lr, norm), records in histories.items():
                if lr == rate:
                    points = curves.curve(records, "eval", "accuracy")
                    axes.plot(*points, label=f"norm {norm}", marker=".")
            title = f"learning rate {rate:g}"
            axes.set(
                title=title, xlabel="step", ylabel=f"{part} accuracy", ylim=(0, 1.02)
            )
            axes.legend(loc="lower right")

    return curves.drawn(path, f"{part} accuracy against steps", len(rates), draw_rates)


def _accuracies(records: Sequence[Record]) -> list[tuple[int, float]]:
    return list(zip(*curves.curve(records, "eval", "accuracy"), strict=True))


def _label(name: tuple[float, str]) -> str:
    lr, norm = name
    return f"{norm}, lr {lr:g}"


def _thinned(steps: list[int]) -> list[int]:
    """Choose some of the steps, most of them at the start, where the runs differ."""
    if len(steps) <= _MAX_ROWS:
        return steps
    last = len(steps) - 1
    chosen = {round(last * (i / (_MAX_ROWS - 1)) ** 2) for i in range(_MAX_ROWS)}
    return [steps[index] for index in sorted(chosen)]
