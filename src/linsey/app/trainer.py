"""A run in progress: learn, evaluate, save, stop when asked.

The position of a run is one number: the step. A step depends only on the state, the
seed and this number, so a run that is continued from a checkpoint gives the same
results, bit for bit, as one that was never interrupted. The scores and the sums since
the last record of training are saved with each checkpoint, so that its history is the
same, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future

import jax
import numpy as np

from linsey import serialization
from linsey.app import nonfinite, steps, window
from linsey.app.batches import choose_batch_size
from linsey.app.compiling import Step
from linsey.app.config import TrainConfig
from linsey.app.dataset import BatchOrder, Dataset, PartName
from linsey.app.devices import Devices, describe_environment
from linsey.app.exit_codes import NotFiniteError
from linsey.app.loading import Batch, Loader, training_loader
from linsey.app.memory import give_back
from linsey.app.metadata import Scores, run_metadata
from linsey.app.metrics_log import MetricsLog
from linsey.app.network import Network
from linsey.app.optimizers import make_schedule
from linsey.app.own_model import OwnModel
from linsey.app.own_network import make_network
from linsey.app.progress import Moment, Progress
from linsey.app.recipe import Recipe
from linsey.app.recorded_model import warn_of_other_source
from linsey.app.speed import Speedometer
from linsey.app.standardizer import Standardizer
from linsey.app.stopping import Stopped, Stops
from linsey.app.team import Team
from linsey.app.terminal import number, warn
from linsey.app.window import Window
from linsey.checkpoint import CheckpointStore, VerifiedCheckpoint
from linsey.errors import InputError

_MAX_EXAMPLES = 8
"""How many examples a message names; the log has all of them."""


class Trainer:
    """A run in progress.

    Args:
        config: resolved options.
        dataset: the data to learn.
        store: the store for the checkpoints.
        own: the user's own model that the options name.
        team: the processes that train it.

    Attributes:
        network: the model.
        config: the options, with the batch size that is used.
        batch_size: this batch size.
        epochs_before: the number of epochs that the run was meant to have when its
            checkpoint was written.
        evaluation: the last evaluation; `None` if this process made none.
        waited: seconds that steps waited for their batches.
        compiling: a future of the compiled step; `None` if compiling was not begun, or
            the step has run.
        most_warnings: number of skipped steps that the user is warned of, one by one.

    Raises:
        InputError: model, data and batch size do not fit each other.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        store: CheckpointStore,
        own: OwnModel | None = None,
        team: Team | None = None,
    ) -> None:
        self.dataset, self.store, self.own = dataset, store, own
        self.team = team or Team()
        self.devices = self.team.devices()
        self.network, self.batch_size = check(config, dataset, own, self.devices)
        config = dataclasses.replace(config, batch_size=self.batch_size)
        self.config = config
        self.steps_per_epoch = len(dataset.x_train) // self.batch_size
        self.total = config.epochs * self.steps_per_epoch
        shape = dataset.shape
        self.standardize = dataset.standardizer
        self.standardize.check(dataset.x_test)
        self.standardize.check(dataset.part(dataset.watched)[0])
        labels = dataset.y_train, dataset.class_names
        recipe = Recipe.of(config, *labels, steps=self.total)
        options = config, self.network, shape, self.steps_per_epoch, recipe
        create = functools.partial(steps.create_state, *options)
        is_divided = config.shard_params
        abstract = self.devices.abstract(create, is_divided)
        self._divided_step = steps.divided_step(abstract) if is_divided else None
        self.compiling = self._compile_step(abstract)  # while the state is made
        self.state = self.devices.create(create, abstract)
        self.step = 0
        self.epochs_before = config.epochs
        self.scores = Scores()
        self.evaluation: steps.Evaluation | None = None
        self._saved: tuple[int, object] = (-1, None)
        self._data_digest = dataset.digest()
        source = None if own is None else own.sha256
        self.team.refuse_differences(config, self._data_digest, source)
        self._never_finite = nonfinite.infinite_leaves(self._tree())
        self._speed = Speedometer(self.batch_size)
        self.most_warnings, self._warnings = 5, 0
        self._has_trained, self.waited = False, 0.0
        # One program: without it, each operation of a schedule is compiled by itself.
        self._schedule = jax.jit(make_schedule(config, self.steps_per_epoch))

    def restore(self, checkpoint: VerifiedCheckpoint) -> None:
        """Restore the run from a checkpoint.

        Raises:
            InputError: the checkpoint belongs to other options or other data.
        """
        metadata = run_metadata(checkpoint)
        before = metadata.config.epochs
        shorter = dataclasses.replace(self.config, epochs=before)
        if metadata.config_sha256 != shorter.digest or before > self.config.epochs:
            problem = "checkpoint of another model"
            hint = "its options are not those in config.toml of this run"
            raise InputError(problem, file=checkpoint.folder, hint=hint)
        if metadata.data.sha256 != self._data_digest:
            problem = "the data are not those the run began with"
            hint = "start another run with another --out"
            raise InputError(problem, file=self.dataset.name, key="--data", hint=hint)
        if self.own is not None:
            warn_of_other_source(self.own, metadata)
        restored = checkpoint.restore(serialization.to_state_dict(self.state))
        self._put(serialization.from_state_dict(self.state, restored))
        self.standardize = Standardizer.from_record(metadata.data.standardizer)
        self.scores = metadata.cursor
        self.step = checkpoint.step
        self.epochs_before = before
        self._saved = self.step, dataclasses.asdict(self.scores)

    def begin_with(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace initial variables by arrays, given by path."""
        self._put(steps.begun_with(self.devices.local(self.state), arrays))

    def _put(self, state: steps.TrainState) -> None:
        put = self.devices.divide if self._divided_step else self.devices.replicate
        self.state = put(state)

    def run(self, log: MetricsLog, shown: Progress, stop: Stops) -> None:
        """Train to the end, or until asked to stop; save in both cases.

        Args:
            log: the log of evaluations and training losses.
            shown: the display of the progress.
            stop: checked between any two steps.

        Raises:
            Stopped: a signal arrived before the end.
            NotFiniteError: a step was not finite, or too many were skipped.
        """
        loader = self._loader()
        try:
            loader.top_up()  # while the evaluation and the step are compiled
            while True:
                # A run resumed at a step that was evaluated does not evaluate it again.
                is_new = self.scores.evaluated_at != self.step
                if is_new and self._is_due(self.config.eval_every):
                    self._evaluate(log, shown, stop)
                stop.check(self.step)
                is_best = self.scores.best_step == self.step
                is_over = self.step == self.total or self.has_stopped_early
                is_due = is_best or self._is_due(self.config.checkpoint_every)
                if stop.takes_save() or is_due or is_over:
                    self._save(log)
                self._end_if_not_finite(log)
                if is_over:
                    return
                with self._compiling(shown):
                    self._train(loader, log)
                shown.advance(self._moment())
                if self.step % self.config.log_every == 0 or self.step == self.total:
                    self._log_training(log)
        except Stopped:
            self._save(log)
            raise
        except InputError:  # about a file of the data, which another process may read
            if self.team.is_alone:
                self._save(log)
            raise
        finally:
            loader.close()
            self.waited += loader.waited

    @property
    def has_stopped_early(self) -> bool:
        """Whether too many evaluations in a row did not improve on the best one."""
        most = self.config.early_stopping
        return most > 0 and self.scores.since_best >= most

    def evaluate(
        self, stop: Stops | None = None, part: PartName = "test"
    ) -> steps.Evaluation:
        """Evaluate the current state."""
        self.team.beat("evaluation")
        data, devices = self.dataset, self.devices
        return steps.evaluate(self.state, data, self.standardize, devices, stop, part)

    def _is_due(self, every: int) -> bool:
        interval = every or self.steps_per_epoch
        return self.step % interval == 0 or self.step == self.total

    # -- training --------------------------------------------------------------------

    def _loader(self) -> Loader:
        count, config = len(self.dataset.x_train), self.config
        plan = BatchOrder(count, self.batch_size, config.seed, self.step, self.total)
        return training_loader(
            self.dataset, self.standardize, self.devices, plan, config
        )

    def _compile_step(self, state: steps.TrainState) -> Future[object] | None:
        train_step = self._divided_step or steps.train_step
        if not isinstance(train_step, Step):
            return None
        of_batch, size = self.devices.abstract_batch, self.batch_size
        x = of_batch((size, *self.dataset.shape), np.float32)
        return train_step.compile(
            state, x, of_batch((size,), self.dataset.y_train.dtype)
        )

    def _train(self, loader: Loader, log: MetricsLog) -> None:
        start = time.perf_counter()
        self.team.beat("data loading")
        batch = loader.take()
        self.team.beat("training")
        train_step = self._divided_step or steps.train_step
        if self.compiling is not None:
            self.compiling.exception()  # wait; the step raises it again
            self.compiling = None
        self.state, metrics = train_step(self.state, *batch.shards)
        loader.top_up()  # while the devices compute
        seen = {key: value.item() for key, value in jax.device_get(metrics).items()}
        self._speed.add(time.perf_counter() - start)
        is_skipped = bool(seen["skipped"])
        if is_skipped:
            self._meet_nonfinite(batch, log)
        self.step += 1
        scores = self.scores
        scores.window = scores.window.plus(seen["loss"], seen["correct"], is_skipped)
        skipped_at = (
            (*scores.skipped_at, self.step) if is_skipped else scores.skipped_at
        )
        scores.skipped_at = window.recent(skipped_at, self.step)

    def _end_if_not_finite(self, log: MetricsLog) -> None:
        """End the run if too many steps were skipped, also right after resuming it."""
        skipped_at = self.scores.skipped_at
        if self.config.on_nonfinite == "skip" and window.too_many(
            skipped_at, self.total
        ):
            self._save(log)
            raise NotFiniteError(
                f"step {self.step}: {len(skipped_at)} of the last "
                f"{min(window.RECENT, self.step)} steps were not finite and were "
                "skipped; the last good state is saved (a lower --lr may help)"
            )

    def _meet_nonfinite(self, batch: Batch, log: MetricsLog) -> None:
        """Report what was not finite in the last step; return only if it is skipped."""
        policy, step = self.config.on_nonfinite, self.step + 1
        # A skipped step changed nothing but these counters.
        state = self.state
        before = state.replace(step=state.step - 1, skipped=state.skipped - 1)
        found = nonfinite.diagnose(before, *batch.shards, fetch=self.devices.fetch)
        examples = batch.indices[found.rows].tolist()
        shown = ", ".join(map(str, sorted(examples)[:_MAX_EXAMPLES]))
        more = (
            f", ... ({len(examples)} in all)" if len(examples) > _MAX_EXAMPLES else ""
        )
        message = (
            f"step {step} is not finite: first {found.part}, with the examples "
            f"{shown}{more} of the training data"
        )
        if policy == "skip":
            log.write("skip", step, part=found.part, examples=examples)
            self._warnings += 1
            if self._warnings <= self.most_warnings:
                warn(f"{message}; skipped")
            if self._warnings == self.most_warnings:
                warn(f"further steps that are skipped are told in {log.path} only")
            return
        self.state = before
        if policy == "stop":
            self._save(log)
            hint = "the state before it is saved (a lower --lr may help)"
            raise NotFiniteError(f"{message}; {hint}")
        error = NotFiniteError(message)
        error.is_traced = True
        raise error

    @contextlib.contextmanager
    def _compiling(self, shown: Progress) -> Iterator[None]:
        """Say that the first step waits for the compiler."""
        if self._has_trained:
            yield
            return
        self._has_trained = True
        with shown.busy("compiling the training step"):
            yield
        give_back()

    def _moment(self) -> Moment:
        loss = self.scores.window.means(self.batch_size)["loss"]
        epoch = self.step / self.steps_per_epoch
        return Moment(self.step, self.total, epoch, loss, self._speed.recent)

    def _log_training(self, log: MetricsLog) -> None:
        committed = self.step - int(self.state.skipped)
        rate = np.asarray(self._schedule(max(0, committed - 1)))
        log.write(
            "train", self.step, epoch=self.step / self.steps_per_epoch,
            learning_rate=float(str(rate)), examples_per_second=self._speed.take(),
            **self.scores.window.means(self.batch_size),
        )  # fmt: skip
        self.scores.window = Window()

    # -- evaluation and checkpoints --------------------------------------------------

    def _evaluate(self, log: MetricsLog, shown: Progress, stop: Stops) -> None:
        is_first, epoch = self.evaluation is None, self.step / self.steps_per_epoch
        text = "compiling the evaluation" if is_first else "evaluating"
        give_back()  # what the steps have spread over the heap
        with shown.busy(text, is_told=is_first):
            result = self.evaluate(stop, part := self.dataset.watched)
        if is_first:
            give_back()
        told = {} if part == "test" else {"part": part}
        log.write("eval", self.step, epoch=epoch, **result.numbers(), **told)
        shown.detail(
            f"step {self.step:>6}/{self.total}  epoch {epoch:6.2f}  "
            f"{part} loss {number(result.loss)}  {part} accuracy {result.accuracy:.4f}"
        )
        self.evaluation = result
        self.scores.evaluated(self.step, result.accuracy)

    def _tree(self) -> dict[str, object]:
        return serialization.to_state_dict(self.state)

    def _save(self, log: MetricsLog) -> None:
        """Save the state with the scores, unless the newest checkpoint has both."""
        cursor = dataclasses.asdict(self.scores)
        if self._saved == (self.step, cursor):
            return
        self.team.beat("saving")
        tree = self._tree()
        if lost := nonfinite.infinite_leaves(tree) - self._never_finite:
            raise NotFiniteError(
                f"step {self.step}: {', '.join(sorted(lost))} is not finite although "
                "no step made it so; it is not saved (--resume goes on from before)"
            )
        metadata: dict[str, object] = {
            "config": self.config.identity,
            "config_sha256": self.config.digest,
            "environment": describe_environment(),
            "cursor": cursor,
            "data": {
                "name": self.dataset.name,
                "sha256": self._data_digest,
                "shape": list(self.dataset.shape),
                "class_names": list(self.dataset.class_names),
                "standardizer": self.standardize.to_json(),
                "feature_names": list(self.dataset.feature_names),
                "dtype": str(self.dataset.x_train.dtype),
            },
        }
        if self.own is not None:
            record = {"name": self.own.name, "sha256": self.own.sha256}
            metadata["model"] = record
        log.sync()  # no checkpoint is ahead of the records
        # If only the scores changed, this step was saved before.
        self.store.save(self.step, tree, metadata, replace=True)
        self._saved = self.step, cursor
        if self.team.is_first:
            newest = self.store.steps()[-self.config.keep :]
            self.store.prune({*newest, self.scores.best_step})


def check(
    config: TrainConfig,
    dataset: Dataset,
    own: OwnModel | None = None,
    devices: Devices | None = None,
) -> tuple[Network, int]:
    """Make the model, and check that the data fill a batch that can be sharded.

    Args:
        config: resolved options.
        dataset: the data to learn.
        own: the user's own model that the options name.
        devices: the devices that batches are sharded over. Defaults to those of this
            process.

    Returns:
        The model, and the batch size.

    Raises:
        InputError: model, data and batch size do not fit each other.
    """
    if config.augmentations and len(dataset.shape) != 3:
        raise InputError(
            "augmentation needs images", key="--augment",
            found=f"examples {dataset.shape}", hint="leave it out",
        )  # fmt: skip
    size = choose_batch_size(config, dataset, (devices or Devices()).count)
    classes = len(dataset.class_names)
    return make_network(config, dataset.shape, classes, own), size
