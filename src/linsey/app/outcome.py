"""How a run ended: its result, and warnings that should not be overlooked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from linsey.app import window
from linsey.app.dataset import PartName
from linsey.app.exit_codes import NotFiniteError
from linsey.app.metadata import Scores
from linsey.app.metrics_log import Record
from linsey.app.standardizer import Standardizer
from linsey.app.steps import Evaluation, TrainState
from linsey.app.terminal import number
from linsey.batch_stats import Report


@dataclasses.dataclass(frozen=True)
class Trained:
    """The trained model of a run.

    Attributes:
        state: the state at the end.
        standardize: maps raw examples to inputs.
    """

    state: TrainState
    standardize: Standardizer


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        step: the last step.
        final: evaluation of the last step.
        scores: the accuracies during training.
        skipped: number of steps skipped because something was NaN or infinite.
        statistics: the result of an audit of the running statistics.
        records: the history of the run.
        seconds: how long this process took; a resumed run had others before it.
        watched: the part that the best step was chosen on.
        total: the number of steps that the run was meant to have.
        trained: the model.
    """

    step: int
    final: Evaluation
    scores: Scores
    skipped: int
    statistics: Report
    records: Sequence[Record]
    seconds: float
    watched: PartName = "test"
    total: int | None = None

    def best(self) -> str:
        """Return a line on the best step."""
        accuracy, step = self.scores.best_accuracy, self.scores.best_step
        return f"best {self.watched} accuracy {accuracy:.4f} at step {step}"

    def early_end(self) -> str | None:
        """Say that the run ended early and how to continue it; `None` if it did not."""
        if self.total is None or self.step == self.total:
            return None
        count = self.scores.since_best
        return (
            f"stopped early at step {self.step} of {self.total}: {count} "
            f"evaluation{'s' * (count > 1)} in a row without a better {self.watched} "
            f"accuracy; --resume with --early-stopping 0 goes on"
        )

    trained: Trained | None = None

    def headline(self) -> str:
        """Return a line on the result."""
        final = self.final
        return (
            f"test accuracy {final.accuracy:.4f} ({final.correct} of {final.count}), "
            f"loss {number(final.loss)}, with the running statistics of step "
            f"{self.step}"
        )

    def warnings(self) -> list[str]:
        """List the warnings that should not be overlooked."""
        told = []
        if self.skipped:
            told.append(
                f"{self.skipped} of {self.step} steps were skipped as a whole: loss, "
                "gradients or statistics were not finite; a lower --lr may help"
            )
        if self._exploded():
            told.append(
                f"the test loss rose from {number(self._first_loss())} before the "
                f"first step to {number(self.final.loss)}; a lower --lr may help"
            )
        told += [f"{one.layer}: {one.message}" for one in self.statistics.errors]
        return told

    def _first_loss(self) -> float:
        """Return the first test loss; infinity if there is none."""
        losses = (r["loss"] for r in self.records if r["kind"] == "eval")
        first = next(losses, None)
        return math.inf if first is None else first

    def _exploded(self) -> bool:
        """Tell whether the loss is far above the first one.

        The loss may rise while a model becomes more confident and more accurate, so a
        small rise counts only if a constant answer would be as accurate.
        """
        is_chance = self.final.correct <= self.final.confusion.sum(axis=1).max()
        factor = 2 if is_chance else 100
        return bool(self.final.loss > factor * self._first_loss())

    def refuse_not_finite(self, folder: Path) -> None:
        """Raise an error if the run reached its last step without a usable result.

        Raises:
            NotFiniteError: the test loss is not finite, or the last steps were skipped.
        """
        hint = "a lower --lr may help"
        if not math.isfinite(self.final.loss):
            raise NotFiniteError(
                f"{folder}: the final test loss is not finite ({hint})"
            )
        if window.ends_skipped(self.scores.skipped_at, self.step):
            raise NotFiniteError(
                f"{folder}: {self.skipped} of {self.step} steps were not finite and "
                f"were skipped, the last ones all of them ({hint})"
            )
