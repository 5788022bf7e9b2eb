"""`linsey eval`: evaluate a checkpoint with its running statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from linsey.app.config import EvalConfig, validate
from linsey.app.options import parse
from linsey.app.terminal import EXIT_CODE, StopRequest, show
from linsey.errors import InputError

if TYPE_CHECKING:
    from linsey.app.checkpoint_choice import TrainedModel
    from linsey.app.dataset import Dataset
    from linsey.app.steps import Evaluation


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: what follows `linsey eval`.

    Returns:
        0, or 75 if a signal stopped it.
    """
    config = parse(EvalConfig, "eval", arguments)
    validate(config)

    from linsey.app.checkpoint_choice import choose, load_model
    from linsey.app.devices import Devices
    from linsey.app.steps import evaluate

    devices = Devices()
    checkpoint = choose(config)
    model = load_model(checkpoint, devices)
    dataset = _test_data(model, config.data)
    with StopRequest() as stop:
        result = evaluate(model.state, dataset, model.standardize, devices, stop)
    if result is None:
        print(f"stopped by {stop.signal_name}")
        return EXIT_CODE
    _print(result, dataset)
    print(
        f"test accuracy {result.accuracy:.4f} ({result.correct} of {result.count}), "
        f"loss {result.loss:.4f}, step {checkpoint.step} of {checkpoint.folder}"
    )
    return 0


def _test_data(model: TrainedModel, other: str | None) -> Dataset:
    from linsey.app.readers import load

    options = dataclasses.replace(model.config, classes=len(model.class_names))
    if other is not None:
        options = dataclasses.replace(options, data=other, test_fraction=1.0)
    dataset = load(options)
    if dataset.shape != model.shape:
        raise InputError(
            "examples of another shape than the model was trained on",
            file=dataset.name, expected=model.shape, found=dataset.shape,
        )  # fmt: skip
    numbers = tuple(map(str, range(len(model.class_names))))
    if dataset.class_names not in (model.class_names, numbers):
        raise InputError(
            "other classes than the model was trained on", file=dataset.name,
            expected=", ".join(model.class_names), found=", ".join(dataset.class_names),
        )  # fmt: skip
    return dataclasses.replace(dataset, class_names=model.class_names)


def _print(result: Evaluation, dataset: Dataset) -> None:
    from rich.table import Table

    table = Table("class", "accuracy", "right", "examples")
    shares = result.class_accuracies()
    for index, (name, share) in enumerate(
        zip(dataset.class_names, shares, strict=True)
    ):
        counts = result.confusion[index]
        shown = "" if share is None else f"{share:.4f}"
        table.add_row(name, shown, str(counts[index]), str(counts.sum()))
    show(table)
