"""`linsey train`: train a classifier and record the run in a folder."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from linsey.app import exit_codes
from linsey.app.config import BUILT_IN, TrainConfig
from linsey.app.memory import use_one_heap
from linsey.app.model_name import is_architecture, is_own
from linsey.app.options import parse_train
from linsey.app.progress import busy
from linsey.app.run_folder import RunFolder, default_out
from linsey.app.stopping import Stopped, StopRequest
from linsey.app.team import Team, claimed, joined
from linsey.app.terminal import say, show_table, warn
from linsey.errors import InputError


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: the arguments after `linsey train`.

    Returns:
        0, or 75 if a signal stopped the run.
    """
    config = parse_train(arguments)
    set_threads(config.threads)
    use_one_heap()
    with joined(config) as team:
        return _main(config, team)


def _main(config: TrainConfig, team: Team) -> int:
    if config.compare and not team.is_alone:
        problem, hint = "compares in one process", "leave --compare out"
        raise InputError(problem, key="--compare", hint=hint)
    # The command to resume names the folder in the same form.
    if team.is_first and config.out is None:
        config = dataclasses.replace(config, out=default_out(config))
    path = config.out
    try:
        with claimed(config, team) as folder:
            path = folder.path
            written = _train(config, folder, team)
    except Stopped as signal_name:
        if path is None or not RunFolder(path).config.exists():
            raise
        say(f"stopped by {signal_name} after saving; to continue:")
        say(f"  {_resuming(config, path)}")
        return exit_codes.STOPPED
    for name, place in written.items():
        if place.exists():
            say(f"{name:<11}{place}")
    return exit_codes.DONE


def _resuming(config: TrainConfig, path: Path) -> str:
    """Return the command that continues a run."""
    command = ["linsey", "train", "--resume", "--out", str(path)]
    if is_own(config.model):  # code is imported only where it is named
        command += ["--model", config.model]
    return shlex.join(command)


def _train(config: TrainConfig, folder: RunFolder, team: Team) -> dict[str, Path]:
    """Train as the options say; return the names and paths of what was written."""
    # The next steps can take seconds, the import of jax alone more than one.
    say(plan(config, folder.path))
    if {config.optimizer, config.schedule} - BUILT_IN:
        with busy("importing optax"):
            from linsey.app.optimizers import check_names

            check_names(config)  # before data are read, which may take long
    # As long as nothing is written, a signal ends the work at once.
    with busy(f"reading {config.data}"):
        from linsey.app.readers import load

        dataset = load(
            config, loading=config
        )  # before jax is imported: errors show at once
    for warning in dataset.warnings():
        warn(warning)
    with busy("importing jax"):
        from linsey.app.compare import compare
        from linsey.app.own_model import named_model
        from linsey.app.recorded_model import warn_of_other_file
        from linsey.app.recorded_run import train_run

    own = None
    if is_own(config.model):
        own = named_model(config.model, config.model_arg)
        warn_of_other_file(config, own)

    paths = {"report": folder.report, "curves": folder.curves}
    with StopRequest() as stop:
        if config.compare:
            comparison = compare(config, dataset, folder, stop)
            for table in comparison.tables:
                show_table(table.headers, table.rows, table.title)
            say(f"\n{comparison.conclusion}")
            comparison.refuse_not_finite(folder.path)
            return {**paths, "runs": folder.path}
        outcome = train_run(config, dataset, folder, stop, own=own, team=team)
    for warning in outcome.warnings():
        warn(warning)
    say(f"\n{outcome.headline()}\n{outcome.best()}")
    if (ending := outcome.early_end()) is not None:
        say(ending)
    paths["metrics"] = folder.metrics
    paths["checkpoint"] = folder.checkpoints.path(outcome.step)
    paths["best"] = folder.checkpoints.path(outcome.scores.best_step)
    return paths


def plan(config: TrainConfig, path: Path) -> str:
    """Say what is about to be done, from the options alone.

    Args:
        config: the options.
        path: the folder of the run.
    """
    model = f"an {config.model}" if config.model == "mlp" else f"a {config.model}"
    until = f"{config.epochs} epochs" if config.epochs > 1 else "1 epoch"
    if config.compare:
        what = f"comparing {model} with and without normalization, {until} each"
    elif is_own(config.model) or is_architecture(config.model):
        what = f"training {config.described} for {until}"
    elif config.norm == "none":
        what = f"training {model} without normalization for {until}"
    else:
        what = f"training {model} with {config.norm} normalization for {until}"
    return f"{what}, in {path}"


def set_threads(threads: int | None) -> None:
    """Set the threads of the computation, which jax reads when it is imported.

    Raises:
        InputError: jax was already imported with another number.
    """
    if threads is None or os.environ.get("NPROC") == str(threads):
        return
    if "jax" in sys.modules:
        raise InputError("too late: jax is imported already", key="--threads")
    os.environ["NPROC"] = str(threads)
