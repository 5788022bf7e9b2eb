"""`linsey train`: train a classifier and record the run in a folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from linsey.app.options import parse_train
from linsey.app.run_folder import RunFolder, default_out, refuse_occupied
from linsey.app.terminal import EXIT_CODE, Stopped, StopRequest, show_table, warn
from linsey.errors import InputError


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

    dataset = load(config)  # before jax is imported: what is wrong shows at once

    from linsey.app.compare import compare
    from linsey.app.trainer import train_run

    folder = RunFolder(path)
    paths = {"report": folder.report, "curves": folder.curves}
    try:
        with StopRequest() as stop:
            if config.compare:
                for table in compare(config, dataset, path, stop):
                    show_table(table.headers, table.rows, table.title)
                paths["runs"] = path
            else:
                outcome = train_run(config, dataset, path, stop)
                for warning in outcome.warnings():
                    warn(warning)
                best = outcome.scores.best_step
                accuracy = outcome.scores.best_accuracy
                print(f"\n{outcome.headline()}")
                print(f"best test accuracy {accuracy:.4f} at step {best}")
                paths["metrics"] = folder.metrics
                paths["checkpoint"] = folder.checkpoints.path(outcome.step)
                paths["best"] = folder.checkpoints.path(best)
    except Stopped as signal_name:
        print(f"stopped by {signal_name} after saving; to continue:")
        print(f"  linsey train --resume --out {path}")
        return EXIT_CODE
    for name, written in paths.items():
        if written.exists():
            print(f"{name:<11}{written}")
    return 0


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
