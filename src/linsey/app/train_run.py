"""One run from its options to its report."""

from __future__ import annotations

from pathlib import Path

from linsey.app.config import TrainConfig
from linsey.app.dataset import Dataset
from linsey.app.devices import describe_environment
from linsey.app.metrics_log import MetricsLog
from linsey.app.model_summary import LayerRow, summarize, summary_text, total_size
from linsey.app.report import Outcome, write_report
from linsey.app.run_folder import RunFolder, claim, newest_checkpoint
from linsey.app.terminal import StopRequest, progress, warn
from linsey.app.trainer import Trainer
from linsey.checkpoint import VerifiedCheckpoint, durable


def train_run(
    config: TrainConfig, dataset: Dataset, path: Path, stop: StopRequest
) -> Outcome | None:
    """Train, or go on training, and write everything into a folder.

    Args:
        config: resolved options.
        dataset: what is learned.
        path: the folder of the run.
        stop: asks the run to save and end.

    Returns:
        The outcome, or `None` if it was stopped.

    Raises:
        InputError: options, data, folder or checkpoint do not fit.
    """
    # Whatever can be wrong with model and data shows before the folder is touched.
    trainer = Trainer(config, dataset, RunFolder(path).checkpoints)
    layers = summarize(trainer.model, dataset.shape, config.batch_size)
    with claim(path, config) as folder:
        checkpoint = _newest(config, folder)
        if checkpoint is not None:
            trainer.restore(checkpoint)
            _warn_of_changes(checkpoint)
        _introduce(config, dataset, folder, layers)
        tensorboard = folder.tensorboard if config.tensorboard else None
        log = MetricsLog(folder.metrics, tensorboard)
        try:
            kind = "start" if checkpoint is None else "resume"
            log.write(kind, trainer.step, **describe_environment())
            title = f"{config.model}, norm {config.norm}, lr {config.lr:g}"
            with progress(title, trainer.step, trainer.total, config.plain) as shown:
                if not trainer.run(log, shown, stop):
                    return None
            outcome = _outcome(trainer)
            final = {"loss": outcome.final.loss, "accuracy": outcome.final.accuracy}
            log.write("final", trainer.step, **final, skipped=outcome.skipped)
        finally:
            log.close()
        write_report(folder, config, dataset, layers, outcome)
    return outcome


def _introduce(
    config: TrainConfig, dataset: Dataset, folder: RunFolder, layers: list[LayerRow]
) -> None:
    """Say what is about to run, and where."""
    durable.write_file(folder.summary, (summary_text(layers) + "\n").encode())
    here = describe_environment()
    print(
        f"{config.model}, norm {config.norm}, lr {config.lr:g}: "
        f"{total_size(layers, 'params'):,} parameters and "
        f"{total_size(layers, 'batch_stats'):,} statistics (see {folder.summary})\n"
        f"{dataset.name}: {len(dataset.y_train)} examples to train on, "
        f"{len(dataset.y_test)} to test on, {len(dataset.class_names)} classes; "
        f"{here['devices']} x {here['device']}, {here['threads']} threads",
        flush=True,
    )


def _newest(config: TrainConfig, folder: RunFolder) -> VerifiedCheckpoint | None:
    if config.fallback:
        for reason in folder.checkpoints.discard_damaged():
            warn(f"put aside: {reason}")
    return newest_checkpoint(folder.checkpoints)


def _warn_of_changes(checkpoint: VerifiedCheckpoint) -> None:
    before, now = checkpoint.metadata["environment"], describe_environment()
    for name, value in before.items():
        if now.get(name) != value:
            warn(
                f"{name} changed from {value} to {now.get(name)} since the checkpoint "
                "was written: the run goes on, but its bits may differ"
            )


def _outcome(trainer: Trainer) -> Outcome:
    final = trainer.evaluate()
    assert final is not None  # nothing could stop it
    return Outcome(
        trainer.step,
        final,
        trainer.cursor.best_step,
        trainer.cursor.best_accuracy,
        int(trainer.state.skipped),
    )
