"""`linsey export`: a model as a program for plain JAX, compared with the model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from linsey.app import exit_codes
from linsey.app.config import ExportConfig
from linsey.app.options import parse
from linsey.app.progress import busy
from linsey.app.targets import refuse_target
from linsey.app.terminal import say, warn
from linsey.errors import DiskError, InputError
from linsey.extras import MissingPackageError

if TYPE_CHECKING:
    from linsey.app.exported import Exporter
    from linsey.app.predictor import Predictor

_COMPARED = 256
"""Number of examples on which program and model are compared."""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: the arguments after `linsey export`.

    Returns:
        0.
    """
    config = parse(ExportConfig, "export", arguments)
    refuse_target(config.target)

    from linsey.app.checkpoint_choice import choose

    checkpoint = choose(config)  # before jax is imported
    with _busy(config, f"loading step {checkpoint.step} of {config.checkpoint}"):
        from linsey.app.exported import (
            Exporter,
            chosen_platforms,
            exported_dtype,
        )
        from linsey.app.predictor import Predictor

        platforms = chosen_platforms(config.platforms)
        model = Predictor(checkpoint, config.model, config.model_arg)
    is_raw = config.inputs == "raw"
    dtype = exported_dtype(model) if is_raw else np.dtype(np.float32)
    exporter = Exporter(model, is_raw, dtype, platforms, config.batch_size)
    with _busy(config, "reading data to compare it on"):
        raw, where = _examples(model, config.batch_size)
    _export(exporter, config, raw, where)
    return exit_codes.DONE


def _export(
    exporter: Exporter, config: ExportConfig, raw: np.ndarray, where: str
) -> None:
    from linsey.app.evaluation_record import to_json
    from linsey.app.export_record import PROGRAM, RECORD, export_record
    from linsey.app.exported import TOLERANCE
    from linsey.checkpoint import durable
    from linsey.files import read_regular

    apply, variables = exporter.model.apply, exporter.model.variables
    if config.fold:
        apply, variables, report = exporter.folded(raw)
        if not config.json:
            say(str(report))
    with _busy(config, "exporting"):
        program = exporter.export(apply, variables)
    with durable.replacing(config.target, len(program)) as folder:
        folder.mkdir()
        durable.write_new(folder / PROGRAM, [program])
        with _busy(config, f"comparing it with the model on {where}"):
            read = read_regular(folder / PROGRAM)
            difference = exporter.compare(read, raw)
        told = (f"logits differ by {difference.logits:.1e} of the largest, "
                f"probabilities by {difference.probabilities:.1e}")  # fmt: skip
        # `not ... <=`, since NaN must not pass.
        if not max(vars(difference).values()) <= TOLERANCE:
            hint = "--inputs standardized leaves standardization to you"
            raise InputError(
                f"the program does not compute what the model does: {told}",
                file=config.target, expected=f"at most {TOLERANCE:.0e}",
                hint=hint if config.inputs == "raw" else None,
            )  # fmt: skip
        compared = where, len(raw)
        record = export_record(exporter, config, read, difference, compared)
        text = to_json(record)
        durable.write_new(folder / RECORD, [(text + "\n").encode()])
    if config.json:
        say(text)
        return
    size = config.batch_size or "batch"
    say(f"on {len(raw)} examples of {where}, {told}")
    say(f"wrote {config.target}: {exporter.dtype} ({size}, "
        f"{', '.join(map(str, exporter.model.shape))}) to logits and probabilities of "
        f"{len(exporter.model.class_names)} classes")  # fmt: skip


def _examples(model: Predictor, exact: int | None) -> tuple[np.ndarray, str]:
    """Take raw examples of the test part, or random ones if the data are missing.

    Args:
        model: the model that takes them.
        exact: the number of examples, if it has to be exact.
    """
    from linsey.app.exported import random_examples
    from linsey.app.image_array import Pixels
    from linsey.app.readers import load

    pixels = None
    dtype = model.metadata.data.dtype
    # Which images are left out as broken is not known before all are read.
    if len(model.shape) > 1 and dtype and not model.config.skip_broken:
        pixels = Pixels(model.shape[-1], np.dtype(dtype))
    try:
        dataset = load(model.config, pixels=pixels)
        if dataset.shape == model.shape:
            rows = np.arange(exact or _COMPARED) % len(dataset.x_test)
            if exact is None:
                rows = np.unique(rows)
            return np.asarray(dataset.x_test[rows]), "the test part"
    except (InputError, DiskError, MissingPackageError) as error:
        warn(f"compared on random numbers, since the data cannot be read: {error}")
    else:
        warn("compared on random numbers, since the data have another shape now")
    return random_examples(model, exact or _COMPARED), "random numbers"


def _busy(config: ExportConfig, text: str) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if config.json else busy(text)
