"""`linsey eval`: evaluate a checkpoint with its running statistics."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from linsey.app.config import EvalConfig
from linsey.app.options import parse
from linsey.app.terminal import say, show_table
from linsey.errors import InputError

if TYPE_CHECKING:
    from linsey.app.dataset import Dataset
    from linsey.app.trained_model import TrainedModel


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: what follows `linsey eval`.

    Returns:
        0.
    """
    config = parse(EvalConfig, "eval", arguments)
    if config.compare_modes:
        return _compare_modes(config)

    from linsey.app.checkpoint_choice import choose

    checkpoint = choose(config)  # before jax is imported: what is wrong shows at once

    from linsey.app.devices import Devices
    from linsey.app.steps import evaluate
    from linsey.app.trained_model import load_model

    devices = Devices()
    model = load_model(checkpoint, devices)
    dataset = _test_data(model, config.data)
    model.standardize.check(dataset.x_test)
    result = evaluate(model.state, dataset, model.standardize, devices)
    classes = enumerate(result.by_class(dataset.class_names))
    rows = [
        (name, accuracy, str(counts[index]), str(counts.sum()))
        for index, (name, accuracy, counts) in classes
    ]
    show_table(("class", "accuracy", "right", "examples"), rows)
    say(
        f"test accuracy {result.accuracy:.4f} ({result.correct} of {result.count}), "
        f"loss {result.loss:.4f}, step {checkpoint.step} of {checkpoint.folder}"
    )
    return 0


_REFERENCE = 8  # batches


def _compare_modes(config: EvalConfig) -> int:
    """Compare both modes on the test part, with the training part as reference."""
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
        options = dataclasses.replace(model.config, data=other, test_fraction=1.0)
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
