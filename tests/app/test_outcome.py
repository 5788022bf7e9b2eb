"""Runs that came to an end, and whether it was a good one."""

import math

import numpy as np
import pytest

from linsey.app import steps
from linsey.app.exit_codes import NotFiniteError
from linsey.app.metadata import Scores
from linsey.app.outcome import Outcome
from linsey.app.scores import Answers
from linsey.app.steps import Evaluation
from linsey.app.window import ends_skipped
from linsey.batch_stats import Report
from tests.app.runs import SMALL


def outcome(loss=0.5, first=2.0, right=True, skipped_at=()):
    labels = np.array([0, 0, 1])
    predicted = labels if right else np.zeros(3, int)
    answers = Answers(labels, predicted, np.ones(3), np.zeros(3), 2)
    records = [{"kind": "eval", "step": 0, "loss": first}]
    return Outcome(44, Evaluation(loss, answers), Scores(skipped_at=skipped_at),
                   len(skipped_at), Report("Audit"), records, 1.0)  # fmt: skip


@pytest.mark.parametrize("given", [{"loss": 4.5, "right": False}, {"loss": 250.0}])
def test_a_loss_that_exploded_is_told(given):
    loss = f"{given['loss']:.4f}"
    assert outcome(**given).warnings() == [
        f"the test loss rose from 2.0000 before the first step to {loss}; "
        "a lower --lr may help"
    ]


@pytest.mark.parametrize("given", [{}, {"loss": 3.0, "right": False}, {"loss": 9.0}])
def test_a_loss_that_rose_a_little_or_with_right_answers_is_not(given):
    assert outcome(**given).warnings() == []
    outcome(**given).refuse_not_finite("run")


@pytest.mark.parametrize("first", [None, math.inf])
def test_a_first_loss_that_is_not_finite_tells_nothing(first):
    assert outcome(loss=1e9, first=first, right=False).warnings() == []


def test_a_run_without_a_result_is_refused():
    with pytest.raises(NotFiniteError, match="run: the final test loss is not finite"):
        outcome(loss=math.nan).refuse_not_finite("run")
    with pytest.raises(NotFiniteError, match="10 of 44 steps were not finite"):
        outcome(skipped_at=tuple(range(35, 45))).refuse_not_finite("run")
    outcome(skipped_at=tuple(range(30, 44))).refuse_not_finite("run")


@pytest.mark.parametrize(
    ("skipped", "total", "expected"),
    [((), 1, False), ((1,), 1, True), ((2, 3), 3, True), ((2,), 3, False)],
)
def test_short_runs_have_short_ends(skipped, total, expected):
    assert ends_skipped(skipped, total) == expected


def diverging(first):
    """Training steps that are not finite from one of them on."""
    train_step = steps.train_step

    def diverged(state, x, y):
        return train_step(state, x * np.nan if int(state.step) + 1 >= first else x, y)

    return diverged


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "message"),
    [
        # Six of eight: it ends before that.
        (3, "step 7: 5 of the last 7 steps were not finite and were skipped"),
        # Four of eight, the last ones: not more than half.
        (5, "run: 4 of 8 steps were not finite and were skipped, the last ones all"),
    ],
)
def test_a_run_that_diverged_exits_with_code_5(
    linsey, blobs, monkeypatch, first, message
):
    monkeypatch.setattr(steps, "train_step", diverging(first))
    result = linsey("train", "--data", blobs, *SMALL, "--out", "run")
    assert result.code == 5
    last = result.err.splitlines()[-1]
    assert last.startswith(f"linsey: error: {message}")
    assert "a lower --lr may help" in last
    # It ends the same way however often it is resumed.
    assert linsey("train", "--resume", "--out", "run").code == 5


def test_a_learning_rate_of_1000_exits_with_code_5(linsey, blobs):
    """44 steps without normalization, nearly all of them skipped."""
    options = (*SMALL, "--lr", 1000, "--norm", "none", "--epochs", 11, "--depth", 3)
    result = linsey("train", "--data", blobs, *options, "--out", "run")
    assert result.code == 5
    assert "steps were not finite and were skipped" in result.err


def test_a_comparison_none_of_whose_runs_is_finite_exits_with_code_5(
    linsey, blobs, monkeypatch, tmp_path
):
    monkeypatch.setattr(steps, "train_step", diverging(2))
    options = ("--data", blobs, *SMALL, "--compare", "--compare-factors", 1)
    result = linsey("train", *options, "--out", "c")
    assert result.code == 5
    assert result.err.splitlines()[-1] == (
        "linsey: error: c: none of 2 runs was finite "
        "(try lower --compare-factors, or a lower --lr)"
    )
    assert "ended early" in (tmp_path / "c" / "report.html").read_text()
