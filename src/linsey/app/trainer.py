"""A run: learn, evaluate, save, stop when asked, and report.

Where a run is, is one number: the step. What a step does depends on the state, the
seed and that number alone, so a run that is continued from a checkpoint repeats the
bits of one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from pathlib import Path

import jax
import numpy as np

from linsey import serialization
from linsey.app import steps
from linsey.app.config import TrainConfig
from linsey.app.dataset import Dataset, Standardizer, training_batches
from linsey.app.devices import Devices, describe_environment
from linsey.app.metadata import Scores, run_metadata
from linsey.app.metrics_log import MetricsLog
from linsey.app.models import make_model, summarize, summary_text, total_size
from linsey.app.report import Outcome, write_report
from linsey.app.run_folder import RunFolder, claim, newest_checkpoint
from linsey.app.terminal import Progress, Stopped, StopRequest, progress, warn
from linsey.checkpoint import CheckpointStore, VerifiedCheckpoint, durable
from linsey.errors import InputError


@dataclasses.dataclass(frozen=True)
class Window:
    """The training steps since the last record of them.

    Attributes:
        metrics: those of each step, which may still be computed.
        start: when the window was opened, in seconds.
    """

    metrics: list[dict[str, jax.Array]] = dataclasses.field(default_factory=list)
    start: float = dataclasses.field(default_factory=time.perf_counter)

    def summary(self, batch_size: int) -> dict[str, float | None]:
        """Wait for the steps and return their means; the loss of those committed."""
        steps = [{k: v.item() for k, v in each.items()} for each in self.metrics]
        losses = [each["loss"] for each in steps if not each["skipped"]]
        examples = len(steps) * batch_size
        return {
            "loss": float(np.mean(losses)) if losses else None,
            "accuracy": sum(each["correct"] for each in steps) / examples,
            "skipped": len(steps) - len(losses),
            "examples_per_second": examples / (time.perf_counter() - self.start),
        }


class Trainer:
    """A run in progress.

    Args:
        config: resolved options.
        dataset: what is learned.
        store: takes the checkpoints.

    Raises:
        InputError: model, data and batch size do not go together.
    """

    def __init__(
        self, config: TrainConfig, dataset: Dataset, store: CheckpointStore
    ) -> None:
        self.config, self.dataset, self.store = config, dataset, store
        self.devices = Devices()
        self.steps_per_epoch = check_batches(config, dataset, self.devices)
        self.total = config.epochs * self.steps_per_epoch
        shape, classes = dataset.shape, len(dataset.class_names)
        self.model = make_model(config, shape, classes)
        state = steps.create_state(config, self.model, shape, self.steps_per_epoch)
        self.state = self.devices.replicate(state)
        self.standardize = Standardizer.fit(dataset.x_train)
        self.step = 0
        self.scores = Scores()
        self._saved_at = -1
        self._data_digest = dataset.digest()
        self._window = Window()

    def restore(self, checkpoint: VerifiedCheckpoint) -> None:
        """Go to where a checkpoint was taken.

        Raises:
            InputError: the checkpoint belongs to other options or other data.
        """
        metadata = run_metadata(checkpoint)
        if metadata.config_sha256 != self.config.digest:
            problem = "checkpoint of another model"
            hint = "its options are not those in config.toml of this run"
            raise InputError(problem, file=checkpoint.folder, hint=hint)
        if metadata.data.sha256 != self._data_digest:
            problem = "the data are not those the run began with"
            hint = "start another run with another --out"
            raise InputError(problem, file=self.dataset.name, key="--data", hint=hint)
        restored = checkpoint.restore(serialization.to_state_dict(self.state))
        state = serialization.from_state_dict(self.state, restored)
        self.state = self.devices.replicate(state)
        self.standardize = Standardizer.from_record(metadata.data.standardizer)
        self.scores = metadata.cursor
        self.step = self._saved_at = checkpoint.step

    def run(self, log: MetricsLog, shown: Progress, stop: StopRequest) -> None:
        """Train to the end, or until asked to stop; save in both cases.

        Args:
            log: takes a record of every evaluation and of the training loss.
            shown: takes what a person should see.
            stop: checked between any two steps.

        Raises:
            Stopped: a signal arrived before the end.
        """
        examples, seed = len(self.dataset.x_train), self.config.seed
        batches = training_batches(examples, self.config.batch_size, seed, self.step)
        try:
            while True:
                # A run resumed at a step that was evaluated does not do it again.
                is_new = self.scores.evaluated_at != self.step
                if is_new and self._is_due(self.config.eval_every):
                    self._evaluate(log, shown, stop)
                stop.check()
                is_best = self.scores.best_step == self.step
                if is_best or self._is_due(self.config.checkpoint_every):
                    self._save()
                if self.step == self.total:
                    return
                self._train(next(batches))
                if self.step % self.config.log_every == 0 or self.step == self.total:
                    self._log_training(log, shown)
        except Stopped:
            self._save()
            raise

    def evaluate(self, stop: StopRequest | None = None) -> steps.Evaluation:
        """Evaluate the state as it is."""
        data, devices = self.dataset, self.devices
        return steps.evaluate(self.state, data, self.standardize, devices, stop)

    def _is_due(self, every: int) -> bool:
        interval = every or self.steps_per_epoch
        return self.step % interval == 0 or self.step == self.total

    def _train(self, batch: np.ndarray) -> None:
        x = self.standardize(self.dataset.x_train[batch])
        shards = self.devices.put_batch(x, self.dataset.y_train[batch])
        self.state, metrics = steps.train_step(self.state, *shards)
        self._window.metrics.append(metrics)
        self.step += 1

    def _log_training(self, log: MetricsLog, shown: Progress) -> None:
        summary = self._window.summary(self.config.batch_size)
        schedule = steps.make_schedule(self.config, self.steps_per_epoch)
        rate = np.asarray(schedule(self.step - 1)).item()
        epoch = self.step / self.steps_per_epoch
        log.write("train", self.step, epoch=epoch, learning_rate=rate, **summary)
        shown.advance(self.step, summary["loss"])
        self._window = Window()

    def _evaluate(self, log: MetricsLog, shown: Progress, stop: StopRequest) -> None:
        result, epoch = self.evaluate(stop), self.step / self.steps_per_epoch
        log.write("eval", self.step, epoch=epoch, **result.numbers())
        shown.say(
            f"step {self.step:>6}/{self.total}  epoch {epoch:6.2f}  "
            f"test loss {result.loss:.4f}  test accuracy {result.accuracy:.4f}"
        )
        self.scores.evaluated_at, self.scores.accuracy = self.step, result.accuracy
        if result.accuracy > self.scores.best_accuracy:
            self.scores.best_step = self.step
            self.scores.best_accuracy = result.accuracy

    def _save(self) -> None:
        if self._saved_at == self.step:
            return
        metadata = {
            "config": self.config.identity,
            "config_sha256": self.config.digest,
            "environment": describe_environment(),
            "cursor": dataclasses.asdict(self.scores),
            "data": {
                "name": self.dataset.name,
                "sha256": self._data_digest,
                "shape": list(self.dataset.shape),
                "class_names": list(self.dataset.class_names),
                "standardizer": self.standardize.to_json(),
            },
        }
        self.store.save(self.step, serialization.to_state_dict(self.state), metadata)
        self._saved_at = self.step
        newest = self.store.steps()[-self.config.keep :]
        self.store.prune({*newest, self.scores.best_step})


def check_batches(config: TrainConfig, dataset: Dataset, devices: Devices) -> int:
    """Check that the data fill a batch, and that it can be sharded over the devices.

    Returns:
        Steps per epoch.

    Raises:
        InputError: they do not.
    """
    size, examples = config.batch_size, len(dataset.x_train)
    wrong = functools.partial(InputError, key="--batch-size", found=size)
    if size % devices.count:
        expected = f"a multiple of {devices.count}"
        raise wrong("does not divide over the devices", expected=expected)
    if size > examples:
        raise wrong("larger than the training data", expected=f"at most {examples}")
    return examples // size


# -- from options to the report ------------------------------------------------------


def train_run(
    config: TrainConfig, dataset: Dataset, path: Path, stop: StopRequest
) -> Outcome:
    """Train, or go on training, and write everything into a folder.

    Args:
        config: resolved options.
        dataset: what is learned.
        path: the folder of the run.
        stop: asks the run to save and end.

    Returns:
        The outcome.

    Raises:
        InputError: options, data, folder or checkpoint do not fit.
        Stopped: a signal arrived before the end.
    """
    # Whatever can be wrong with model and data shows before the folder is touched.
    trainer = Trainer(config, dataset, RunFolder(path).checkpoints)
    layers = summarize(trainer.model, dataset.shape, config.batch_size)
    with claim(path, config) as folder:
        kind = "resume" if _resume(trainer) else "start"
        durable.write_file(folder.summary, (summary_text(layers) + "\n").encode())
        here = describe_environment()
        title = f"{config.model}, norm {config.norm}, lr {config.lr:g}"
        print(
            f"{title}: {total_size(layers, 'params'):,} parameters and "
            f"{total_size(layers, 'batch_stats'):,} statistics (see {folder.summary})\n"
            f"{dataset.name}: {len(dataset.y_train)} examples to train on, "
            f"{len(dataset.y_test)} to test on, {len(dataset.class_names)} classes; "
            f"{here['devices']} x {here['device']}, {here['threads']} threads",
            flush=True,
        )
        tensorboard = folder.tensorboard if config.tensorboard else None
        with contextlib.closing(MetricsLog(folder.metrics, tensorboard)) as log:
            log.write(kind, trainer.step, **here)
            with progress(title, trainer.step, trainer.total, config.plain) as shown:
                trainer.run(log, shown, stop)
            final, skipped = trainer.evaluate(), int(trainer.state.skipped)
            log.write("final", trainer.step, **final.numbers(), skipped=skipped)
        outcome = Outcome(trainer.step, final, trainer.scores, skipped)
        write_report(folder, config, dataset, layers, outcome)
    return outcome


def _resume(trainer: Trainer) -> bool:
    """Go to the newest checkpoint of the run; return whether there is one."""
    if trainer.config.fallback:
        for reason in trainer.store.discard_damaged():
            warn(f"put aside: {reason}")
    checkpoint = newest_checkpoint(trainer.store)
    if checkpoint is None:
        return False
    trainer.restore(checkpoint)
    now = describe_environment()
    for name, before in run_metadata(checkpoint).environment.items():
        if now.get(name) != before:
            warn(
                f"{name} changed from {before} to {now.get(name)} since the checkpoint "
                "was written: the run goes on, but its bits may differ"
            )
    return True
