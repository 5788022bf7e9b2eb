"""`linsey eval`: evaluate a checkpoint with its running statistics."""

from __future__ import annotations

import dataclasses
import errno
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from linsey.app.config import EvalConfig
from linsey.app.options import parse
from linsey.app.terminal import number, say, show_table, warn, width
from linsey.errors import DiskError, InputError

if TYPE_CHECKING:
    from linsey.app.dataset import Dataset
    from linsey.app.trained_model import TrainedModel


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: the arguments after `linsey eval`.

    Returns:
        0.
    """
    config = parse(EvalConfig, "eval", arguments)
    if config.compare_modes:
        return _compare_modes(config)

    from linsey.app.checkpoint_choice import choose

    checkpoint = choose(config)  # before jax is imported: errors show at once

    from linsey.app.devices import Devices
    from linsey.app.evaluation_record import (
        evaluation_record,
        place_of,
        save,
        to_json,
    )
    from linsey.app.steps import evaluate
    from linsey.app.trained_model import load_model

    devices = Devices()
    model = load_model(checkpoint, devices, config.model, config.model_arg)
    dataset = _test_data(model, config.data)
    model.standardize.check(dataset.x_test)
    result = evaluate(model.state, dataset, model.standardize, devices)
    record = evaluation_record(result, dataset.class_names, checkpoint, dataset.name)
    place = place_of(checkpoint, config.data)
    if config.json:
        say(to_json(record))
    else:
        _show(record)
        say(
            f"test accuracy {result.accuracy:.4f} ({result.correct} of "
            f"{result.count}), loss {number(result.loss)}, step {checkpoint.step} of "
            f"{checkpoint.folder}"
        )
    if place is None:
        return 0
    try:
        save(place, record)
    except DiskError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        warn(f"not saved: {error}")  # an archive of runs may be read-only
    else:
        if not config.json:
            say(f"saved as {place}")
    return 0


_MOST_CLASSES = 25
"""With more classes, only those with the lowest recall are shown."""
_WORST = 10
_SCORES = ("precision", "recall", "f1")


def _show(record: dict[str, Any]) -> None:
    classes = record["classes"]
    chosen, title = classes, None
    if len(classes) > _MOST_CLASSES:
        chosen = sorted(
            (one for one in classes if one["support"]), key=lambda one: one["recall"]
        )[:_WORST]
        title = f"the {len(chosen)} of {len(classes)} classes with the lowest recall"
    rows = [(one["class"], *_four_digits(one), str(one["support"])) for one in chosen]
    for key in ("macro_average", "weighted_average"):
        name = key.replace("_", " ")
        rows.append((name, *_four_digits(record[key]), str(record["examples"])))
    show_table(("class", *_SCORES, "examples"), rows, title)
    _show_mistakes(record)
    calibration = record["calibration"]
    if (error := calibration["expected_calibration_error"]) is not None:
        say(
            f"expected calibration error {error:.4f} ({len(calibration['bins'])} "
            f"bins): mean confidence {calibration['mean_confidence']:.4f}, accuracy "
            f"{record['accuracy']:.4f}"
        )
    if (top := record["top5_accuracy"]) is not None:
        say(f"top-5 accuracy {top:.4f}")


def _show_mistakes(record: dict[str, Any]) -> None:
    """Show the confusion matrix, or its largest entries if it does not fit."""
    names, matrix = [one["class"] for one in record["classes"]], ()
    if len(names) <= _MOST_CLASSES:
        matrix = [list(map(str, counts)) for counts in record["confusion_matrix"]]
    headers = ["true \\ predicted", *names]
    rows = [[name, *counts] for name, counts in zip(names, matrix, strict=False)]
    columns = zip(headers, *rows, strict=True)
    if rows and sum(max(map(len, cells)) + 3 for cells in columns) < width():
        show_table(headers, rows)
    elif found := record["most_confused"][:_WORST]:
        rows = [(one["true"], one["predicted"], str(one["count"])) for one in found]
        title = "the most frequent mistakes"
        show_table(("true", "predicted", "examples"), rows, title)


def _four_digits(scores: dict[str, float]) -> list[str]:
    return [f"{scores[name]:.4f}" for name in _SCORES]


_REFERENCE = 8  # batches


def _compare_modes(config: EvalConfig) -> int:
    """Compare both modes on the test part, with the training part as a reference."""
    from linsey.app.checkpoint_choice import refuse_special

    refuse_special(config.checkpoint)

    from linsey.app.model_state import asking, load_state, read_previous
    from linsey.batch_stats import compare_modes

    state = load_state(config, _REFERENCE, needs_data=True)
    reference = state.batches
    if state.metadata is not None and config.data is not None:
        trained_on = dataclasses.replace(config, data=None)
        reference = load_state(trained_on, _REFERENCE).batches
    previous = read_previous(config, config.previous)
    with asking(state.path):
        report = compare_modes(
            state.model, state.variables, state.test, reference, previous
        )
    say(report.to_json() if config.json else f"{state.path}\n{report}")
    return 0


def _test_data(model: TrainedModel, other: str | None) -> Dataset:
    from linsey.app.readers import load

    if other is None:
        dataset = load(model.config)  # as in training, to the last bit
    else:
        options = dataclasses.replace(
            model.config, data=other, test_fraction=1.0, validation_fraction=0.0
        )
        dataset = load(options, model.known)
    wrong = functools.partial(InputError, file=dataset.name)
    if (found := dataset.shape) != model.shape:
        problem = "examples of another shape than the model was trained on"
        raise wrong(problem, expected=model.shape, found=found)
    if dataset.class_names != model.class_names:
        expected, found = map(", ".join, (model.class_names, dataset.class_names))
        problem = "other classes than the model was trained on"
        raise wrong(problem, expected=expected, found=found)
    return dataset
