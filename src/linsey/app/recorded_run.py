"""From options to the report: a run with everything that it leaves in its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

from linsey.app import metrics_log
from linsey.app.batches import describe_batches
from linsey.app.config import TrainConfig
from linsey.app.dataset import BatchOrder, Dataset
from linsey.app.devices import describe_environment
from linsey.app.initial_weights import InitialWeights, initial_weights
from linsey.app.loading import prepared
from linsey.app.memory import give_back
from linsey.app.metadata import run_metadata
from linsey.app.metrics_log import MetricsLog, Unwritten
from linsey.app.models import LayerRow, summary_text, total_size
from linsey.app.outcome import Outcome, Trained
from linsey.app.own_layers import layers_of
from linsey.app.own_model import OwnModel
from linsey.app.progress import Progress, busy, progress
from linsey.app.report import write_report
from linsey.app.run_folder import RunFolder, newest_checkpoint
from linsey.app.stopping import StopRequest
from linsey.app.team import Team
from linsey.app.terminal import say, warn
from linsey.app.trainer import Trainer
from linsey.batch_stats import Report, audit
from linsey.checkpoint import VerifiedCheckpoint, durable
from linsey.errors import ArgumentTypeError, OptionError
from linsey.errors.base import printable


def train_run(
    config: TrainConfig,
    dataset: Dataset,
    folder: RunFolder,
    stop: StopRequest,
    overview: Progress | None = None,
    own: OwnModel | None = None,
    team: Team | None = None,
) -> Outcome:
    """Train, or continue training, and write everything into a folder.

    Args:
        config: resolved options.
        dataset: the data to learn.
        folder: the folder of the run, claimed by this process, or by the first one of
            the team.
        stop: tells whether a signal asked the run to save and end.
        overview: the progress of all runs, if this is one of several.
        own: the user's own model that the options name.
        team: the processes that train it. All get the outcome; the first one writes.

    Returns:
        The outcome.

    Raises:
        InputError: options, data, folder or checkpoint do not fit each other.
        DiskError: a file cannot be read or written.
        NotFiniteError: too many steps of the run were NaN or infinite.
        Stopped: a signal arrived before the end.
    """
    start, team = time.perf_counter(), team or Team()
    together = team.stops(stop)
    # Errors of the model and the data are found before the folder is touched.
    with _building(overview):
        given, trainer = config, Trainer(config, dataset, folder.checkpoints, own, team)
        config, size = trainer.config, trainer.batch_size
        layers = layers_of(trainer.network, dataset.shape, size)
        weights = _begin_with_weights(trainer)
    give_back()
    if overview is not None:
        trainer.most_warnings = 1
    together.check()
    if team.is_first:
        folder.begin(_with_hashes(config, own, weights))
    kind = "resume" if _resume(trainer) else "start"
    if team.is_first:
        durable.write_file(folder.summary, (summary_text(layers) + "\n").encode())
    here = describe_environment()
    with contextlib.closing(_log(config, folder, team)) as log:
        log.write(kind, trainer.step, **here)
        _lengthen(trainer, folder, log)
        with _shown(trainer, overview) as shown:
            shown.detail(_introduction(trainer, layers, folder))
            if weights is not None:
                shown.detail(f"begins with {config.weights}: {weights.report}")
            examples = len(dataset.y_train)
            shown.detail(describe_batches(given, examples, size))
            trainer.run(log, shown, together)
        last = trainer.evaluation if dataset.watched == "test" else None
        final = last or trainer.evaluate(together)
        skipped = int(trainer.state.skipped)
        log.write("final", trainer.step, **final.numbers(), skipped=skipped)
        log.sync()
    together.check(trainer.step)
    trainer.team.beat("writing the report")
    outcome = Outcome(
        trainer.step, final, trainer.scores, skipped, _audit(trainer),
        metrics_log.read(folder.metrics) if team.is_first else (),
        time.perf_counter() - start, dataset.watched, trainer.total,
        Trained(trainer.state, trainer.standardize),
    )  # fmt: skip
    give_back()
    if team.is_first:
        write_report(folder, config, dataset, layers, outcome)
        if team.is_alone:  # otherwise others may be gone
            stop.check()
    outcome.refuse_not_finite(folder.path)
    return outcome


def _log(config: TrainConfig, folder: RunFolder, team: Team) -> MetricsLog:
    if not team.is_first:
        return Unwritten(folder.metrics)
    return MetricsLog(
        folder.metrics, folder.tensorboard if config.tensorboard else None
    )


def _begin_with_weights(trainer: Trainer) -> InitialWeights | None:
    """Begin with the weights that the options name, unless the run has begun."""
    config = trainer.config
    if config.weights is None or trainer.store.steps():
        return None
    dataset = trainer.dataset
    classes = len(dataset.class_names)
    weights = initial_weights(config, trainer.network, dataset.shape, classes)
    trainer.begin_with(weights.arrays)
    return weights


def _with_hashes(
    config: TrainConfig, own: OwnModel | None, weights: InitialWeights | None
) -> TrainConfig:
    """Return the options with the hashes of the source and weights of this process."""
    found: dict[str, Any] = {} if own is None else {"model_sha256": own.sha256}
    if weights is not None:
        found["weights_sha256"] = weights.sha256
    return dataclasses.replace(config, **found)


def _building(
    overview: Progress | None,
) -> contextlib.AbstractContextManager[None]:
    text = "building the model"
    return busy(text) if overview is None else overview.busy(text)


def _shown(
    trainer: Trainer, overview: Progress | None
) -> contextlib.AbstractContextManager[Progress]:
    if overview is not None:
        return contextlib.nullcontext(overview)
    return progress(trainer.step, trainer.total, trainer.config.plain)


def _introduction(trainer: Trainer, layers: list[LayerRow], folder: RunFolder) -> str:
    """Describe what is trained, and on which data and devices."""
    config, dataset, here = trainer.config, trainer.dataset, describe_environment()
    validation = ""
    if dataset.validation is not None:
        validation = f"{len(dataset.validation[1])} to choose the best step by, "
    return (
        f"{config.described}, lr {config.lr:g}: "
        f"{total_size(layers, 'params'):,} parameters and "
        f"{total_size(layers, 'batch_stats'):,} statistics (see {folder.summary})\n"
        f"{printable(dataset.name)}: {len(dataset.y_train)} examples to train on, "
        f"{validation}{len(dataset.y_test)} to test on, "
        f"{len(dataset.class_names)} classes; "
        f"{here['devices']} x {here['device']}, {here['threads']} threads"
    )


def _lengthen(trainer: Trainer, folder: RunFolder, log: MetricsLog) -> None:
    """Say and record that a run continues for more epochs than it was meant to."""
    before, epochs = trainer.epochs_before, trainer.config.epochs
    if before == epochs:
        return
    if trainer.team.is_first:
        folder.lengthen(epochs)
    log.write("extend", trainer.step, epochs=epochs, before=before)
    say(
        f"{epochs} epochs instead of {before}: from step {trainer.step} on, the "
        f"learning rate is that of a run of {epochs}"
    )


_AUDITED = 8  # batches


def _audit(trainer: Trainer) -> Report:
    """Compare the running statistics with the training data."""
    state = trainer.state
    if not state.batch_stats:
        return Report("Audit")
    state = trainer.devices.local(state)
    if not trainer.team.is_first:
        return Report("Audit")
    x, size, step = trainer.dataset.x_train, trainer.batch_size, trainer.step
    plan = BatchOrder(len(x), size, trainer.config.seed, step, step + _AUDITED)
    chosen = list(prepared(x, trainer.standardize, plan))
    committed = int(state.step) - int(state.skipped)
    model = trainer.network.model_with(state.evaluated)
    variables = {**state.evaluated, "opt_state": state.opt_state}
    try:
        return audit(variables, model, chosen, step=committed)
    except (OptionError, ArgumentTypeError) as error:
        if trainer.own is None:
            raise
        # An audit looks at every layer, and may fail for models that can be trained.
        warn(f"the statistics were not audited: {error.found}")
        return Report("Audit")


def _newest(trainer: Trainer) -> VerifiedCheckpoint | None:
    if trainer.config.fallback:
        for reason in trainer.store.discard_damaged():
            warn(f"put aside: {reason}")
    return newest_checkpoint(trainer.store)


def _resume(trainer: Trainer) -> bool:
    """Restore the newest checkpoint of the run; return whether there is one."""
    team, checkpoint = trainer.team, None
    if team.is_first:
        checkpoint = _newest(trainer)
    step = team.told(None if checkpoint is None else checkpoint.step)
    if step is None:
        return False
    checkpoint = checkpoint or trainer.store.open(step)
    trainer.restore(checkpoint)
    now = describe_environment()
    for name, before in run_metadata(checkpoint).environment.items():
        if now.get(name) != before:
            warn(
                f"{name} changed from {before} to {now.get(name)} since the checkpoint "
                "was written: the run goes on, but its bits may differ"
            )
    return True
