"""The training loop: learn, evaluate, save, and stop when asked.

Where a run is, is one number: the step. What a step does depends on the state, the
seed and that number alone, so a run that is continued from a checkpoint repeats the
bits of one that was never interrupted.
"""

from __future__ import annotations

import dataclasses
import time

import jax
import numpy as np

from linsey import serialization
from linsey.app.config import TrainConfig
from linsey.app.dataset import Dataset, Standardizer, training_batches
from linsey.app.devices import Devices, describe_environment
from linsey.app.evaluation import Evaluation, evaluate
from linsey.app.metrics_log import MetricsLog
from linsey.app.models import make_model
from linsey.app.steps import create_state, make_schedule, train_step
from linsey.app.terminal import Progress, StopRequest
from linsey.checkpoint import CheckpointStore, VerifiedCheckpoint
from linsey.errors import InputError


@dataclasses.dataclass
class Cursor:
    """What a run knows of itself beside its arrays; saved with each checkpoint.

    Attributes:
        evaluated_at: the last step that was evaluated.
        accuracy: test accuracy at that step.
        best_step: the step with the best test accuracy, the first of equals.
        best_accuracy: its test accuracy.
    """

    evaluated_at: int = -1
    accuracy: float = -1.0
    best_step: int = -1
    best_accuracy: float = -1.0


class Window:
    """The training steps since the last record of them."""

    def __init__(self) -> None:
        self._metrics: list[dict[str, jax.Array]] = []
        self._start = time.perf_counter()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Take the metrics of a step, which may still be computed."""
        self._metrics.append(metrics)

    def summary(self, batch_size: int) -> dict[str, float | None]:
        """Wait for the steps and return their means; the loss of those committed."""
        steps = [{k: v.item() for k, v in each.items()} for each in self._metrics]
        losses = [each["loss"] for each in steps if not each["skipped"]]
        examples = len(steps) * batch_size
        return {
            "loss": float(np.mean(losses)) if losses else None,
            "accuracy": sum(each["correct"] for each in steps) / examples,
            "skipped": len(steps) - len(losses),
            "examples_per_second": examples / (time.perf_counter() - self._start),
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
        self.model = make_model(config, dataset.shape, len(dataset.class_names))
        state = create_state(config, self.model, dataset.shape, self.steps_per_epoch)
        self.state = self.devices.replicate(state)
        self.standardize = Standardizer.fit(dataset.x_train)
        self.step = 0
        self.cursor = Cursor()
        self._saved_at = -1
        self._data_digest = dataset.digest()
        self._window = Window()

    def restore(self, checkpoint: VerifiedCheckpoint) -> None:
        """Go to where a checkpoint was taken.

        Raises:
            InputError: the checkpoint belongs to other options or other data.
        """
        metadata = checkpoint.metadata
        if metadata["config_sha256"] != self.config.digest:
            raise InputError(
                "checkpoint of another model", file=checkpoint.folder,
                hint="its options are not those in config.toml of this run",
            )  # fmt: skip
        if metadata["data"]["sha256"] != self._data_digest:
            raise InputError(
                "the data are not those the run began with", file=self.dataset.name,
                key="--data", hint="start another run with another --out",
            )  # fmt: skip
        restored = checkpoint.restore(serialization.to_state_dict(self.state))
        state = serialization.from_state_dict(self.state, restored)
        self.state = self.devices.replicate(state)
        self.standardize = Standardizer.from_json(metadata["data"]["standardizer"])
        self.cursor = Cursor(**metadata["cursor"])
        self.step = self._saved_at = checkpoint.step

    def run(self, log: MetricsLog, progress: Progress, stop: StopRequest) -> bool:
        """Train to the end, or until asked to stop; save in both cases.

        Args:
            log: takes a record of every evaluation and of the training loss.
            progress: takes what a person should see.
            stop: read between any two steps.

        Returns:
            Whether the end was reached.
        """
        examples, seed = len(self.dataset.x_train), self.config.seed
        batches = training_batches(examples, self.config.batch_size, seed, self.step)
        while True:
            if self._is_due(self.config.eval_every):
                self._evaluate(log, progress, stop)
            if stop:
                self._save()
                return False
            is_best = self.cursor.best_step == self.step
            if is_best or self._is_due(self.config.checkpoint_every):
                self._save()
            if self.step == self.total:
                return True
            self._train(next(batches))
            if self.step % self.config.log_every == 0 or self.step == self.total:
                self._log_training(log, progress)

    def evaluate(self, stop: StopRequest | None = None) -> Evaluation | None:
        """Evaluate the state as it is; return `None` if stopped."""
        return evaluate(self.state, self.dataset, self.standardize, self.devices, stop)

    def _is_due(self, every: int) -> bool:
        return self.step % (every or self.steps_per_epoch) == 0 or (
            self.step == self.total
        )

    def _train(self, batch: np.ndarray) -> None:
        x = self.standardize(self.dataset.x_train[batch])
        y = self.dataset.y_train[batch]
        self.state, metrics = train_step(self.state, *self.devices.put_batch(x, y))
        self._window.add(metrics)
        self.step += 1

    def _log_training(self, log: MetricsLog, progress: Progress) -> None:
        summary = self._window.summary(self.config.batch_size)
        schedule = make_schedule(self.config, self.steps_per_epoch)
        log.write(
            "train",
            self.step,
            epoch=self.step / self.steps_per_epoch,
            learning_rate=np.asarray(schedule(self.step - 1)).item(),
            **summary,
        )
        progress.advance(self.step, summary["loss"])
        self._window = Window()

    def _evaluate(self, log: MetricsLog, progress: Progress, stop: StopRequest) -> None:
        if self.cursor.evaluated_at == self.step:
            return  # resumed from a checkpoint that was evaluated
        result = self.evaluate(stop)
        if result is None:
            return
        epoch = self.step / self.steps_per_epoch
        log.write(
            "eval", self.step, epoch=epoch, loss=result.loss, accuracy=result.accuracy
        )
        progress.say(
            f"step {self.step:>6}/{self.total}  epoch {epoch:6.2f}  "
            f"test loss {result.loss:.4f}  test accuracy {result.accuracy:.4f}"
        )
        self.cursor.evaluated_at, self.cursor.accuracy = self.step, result.accuracy
        if result.accuracy > self.cursor.best_accuracy:
            self.cursor.best_step = self.step
            self.cursor.best_accuracy = result.accuracy

    def _save(self) -> None:
        if self._saved_at == self.step:
            return
        metadata = {
            "config": self.config.identity,
            "config_sha256": self.config.digest,
            "environment": describe_environment(),
            "cursor": dataclasses.asdict(self.cursor),
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
        self.store.prune({*newest, self.cursor.best_step})


def check_batches(config: TrainConfig, dataset: Dataset, devices: Devices) -> int:
    """Check that the data fill a batch, and the batch the devices.

    Returns:
        Steps per epoch.

    Raises:
        InputError: they do not.
    """
    devices.check_batch_size(config.batch_size)
    if config.batch_size > len(dataset.x_train):
        raise InputError(
            "larger than the training data", key="--batch-size",
            expected=f"at most {len(dataset.x_train)}", found=config.batch_size,
        )  # fmt: skip
    return len(dataset.x_train) // config.batch_size
