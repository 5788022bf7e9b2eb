"""`linsey train`: train a classifier and record the run in a folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from linsey.app.config import TrainConfig
from linsey.app.options import parse_train
from linsey.app.run_folder import RunFolder, default_out, refuse_occupied
from linsey.app.terminal import EXIT_CODE, StopRequest, show, warn
from linsey.errors import InputError

if TYPE_CHECKING:
    from linsey.app.dataset import Dataset


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: what follows `linsey train`.

    Returns:
        0, or 75 if a signal stopped the run.
    """
    config = parse_train(arguments)
    path = config.out or default_out(config)
    refuse_occupied(path, config.resume)
    set_threads(config.threads)

    from linsey.app.readers import load

    dataset = load(config)
    with StopRequest() as stop:
        train = _compare if config.compare else _train
        is_done = train(config, dataset, path, stop)
    if is_done:
        return 0
    print(f"stopped by {stop.signal_name} after saving; to continue:")
    print(f"  linsey train --resume --out {path}")
    return EXIT_CODE


def set_threads(threads: int | None) -> None:
    """Set the threads of the computation, which jax reads when it is imported.

    Raises:
        InputError: it was imported with another number.
    """
    if threads is None or os.environ.get("NPROC") == str(threads):
        return
    if "jax" in sys.modules:
        raise InputError("too late: jax is imported already", key="--threads")
    os.environ["NPROC"] = str(threads)


def _train(
    config: TrainConfig, dataset: Dataset, path: Path, stop: StopRequest
) -> bool:
    from linsey.app.trainer import train_run

    outcome = train_run(config, dataset, path, stop)
    if outcome is None:
        return False
    folder = RunFolder(path)
    for warning in outcome.warnings():
        warn(warning)
    print(f"\n{outcome.headline()}")
    print(f"best test accuracy {outcome.best_accuracy:.4f} at step {outcome.best_step}")
    _print_paths(
        report=folder.report,
        curves=folder.curves,
        metrics=folder.metrics,
        checkpoint=folder.checkpoints.path(outcome.step),
        best=folder.checkpoints.path(outcome.best_step),
    )
    return True


def _compare(
    config: TrainConfig, dataset: Dataset, path: Path, stop: StopRequest
) -> bool:
    from rich.table import Table

    from linsey.app.compare import compare

    tables = compare(config, dataset, path, stop)
    if tables is None:
        return False
    for table in tables:
        drawn = Table(*table.headers, title=table.title)
        for row in table.rows:
            drawn.add_row(*row)
        show(drawn)
    folder = RunFolder(path)
    _print_paths(report=folder.report, curves=folder.curves, runs=path)
    return True


def _print_paths(**paths: Path) -> None:
    for name, path in paths.items():
        if path.exists():
            print(f"{name:<11}{path}")
