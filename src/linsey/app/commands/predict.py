"""`linsey predict`: predict the classes of images, tables or arrays."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from linsey.app import exit_codes
from linsey.app.checkpoint_choice import choose
from linsey.app.config import PredictConfig
from linsey.app.examples.sources import batches, read_examples, refuse_unknown
from linsey.app.examples.terms import Example, Terms
from linsey.app.metadata import run_metadata
from linsey.app.options import parse
from linsey.app.prediction_table import PredictionTable
from linsey.app.progress import busy
from linsey.app.targets import refuse_target
from linsey.app.terminal import say, warn
from linsey.checkpoint import durable
from linsey.errors import InputError

if TYPE_CHECKING:
    from linsey.app.predictor import Predictor

_say_aside = functools.partial(say, stream=sys.stderr)


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: the arguments after `linsey predict`.

    Returns:
        0.
    """
    config = parse(PredictConfig, "predict", arguments)
    refuse_unknown(config.files)
    if config.out is not None:
        refuse_target(config.out)
    checkpoint = choose(config)
    terms = Terms.of(run_metadata(checkpoint), config.missing)
    broken: list[InputError] = []

    def leave_out(error: InputError) -> None:
        broken.append(error)
        warn(f"left out: {error}")

    skip = leave_out if config.skip_broken else None
    examples = batches(
        read_examples(config.files, terms, warn, skip), config.batch_size
    )
    first = next(examples, None)  # before jax is imported: errors show at once
    if first is None:
        raise InputError("no example is left", found=_counted(broken))
    names = terms.known.class_names
    table = PredictionTable(names, config.top, config.probabilities, config.json)
    with _written(config.out) as write:
        with _busy(
            config.out, f"loading step {checkpoint.step} of {config.checkpoint}"
        ):
            from linsey.app.predictor import Predictor

            model = Predictor(checkpoint, config.model, config.model_arg)
        size, count = model.fitting_size(len(first), config.batch_size), 0
        for batch in itertools.chain([first], examples):
            lines = _answers(model, batch, table, size)
            # An error in the first examples leaves no line, not even the header.
            write(lines if count else table.header() + lines)
            count += len(batch)
    if config.out is not None:
        left = f", {_counted(broken)} left out" if broken else ""
        say(f"wrote {count} predictions to {config.out}{left}")
    return exit_codes.DONE


def _counted(broken: Sequence[InputError]) -> str:
    return f"{len(broken)} broken image{'s' * (len(broken) != 1)}"


def _answers(
    model: Predictor, batch: list[Example], table: PredictionTable, size: int
) -> str:
    def place(number: int) -> tuple[str, str | None]:
        file, row, _ = batch[number]
        return file, None if row is None else f"row {row}"

    raw = np.stack([example.x for example in batch])
    found = model.classify(model.standardized(raw, place), size, place)
    return table.lines(batch, found.logits, found.probabilities)


@contextlib.contextmanager
def _written(out: Path | None) -> Iterator[Callable[[str], None]]:
    """Open the output; file names are written as their bytes, whatever these are."""
    if out is None:
        yield _write_out
        return
    with (
        durable.replacing(out) as temporary,
        open(temporary, "x", encoding="utf-8", errors="surrogateescape", newline="")
        as file,
    ):  # fmt: skip
        yield lambda text: None if file.write(text) else None


def _write_out(text: str) -> None:
    """Write to the standard output; an error ends the command if nobody reads it."""
    if sys.stdout.isatty():
        say(text.removesuffix("\n"))  # nothing in a name controls the terminal
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()


def _busy(out: Path | None, text: str) -> contextlib.AbstractContextManager[None]:
    """Say what is being done; if the table goes to the output, only if it lasts."""
    if out is not None:
        return busy(text)
    return busy(text, begin=lambda _: None, again=_say_aside)
