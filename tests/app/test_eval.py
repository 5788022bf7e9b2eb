"""`linsey eval`: what is shown, saved, and printed as JSON."""

import errno
import json
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from linsey.app import evaluation_record, steps
from linsey.app.commands.eval import _show
from linsey.app.scores import Answers
from linsey.errors import DiskError
from tests.app.runs import SMALL, evaluations, make_blobs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of eight steps and its data."""
    from linsey.app import cli

    folder = tmp_path_factory.mktemp("trained")
    x, y = make_blobs()
    np.savez(folder / "blobs.npz", x=x, y=y)
    options = ("--data", folder / "blobs.npz", *SMALL, "--out", folder / "run")
    assert cli.main(["train", *map(str, options)]) == 0
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_scores_are_shown_and_saved(linsey, run):
    result = linsey("eval", run)
    assert (result.code, result.err) == (0, "")
    for words in ("precision", "macro average", "weighted average",
                  "true \\ predicted", "expected calibration error"):  # fmt: skip
        assert words in result.out
    assert "top-5" not in result.out  # of four classes
    path = run / "eval_step_00000008.json"
    assert f"saved as {path}" in result.out
    record = json.loads(path.read_text())
    _, loss, accuracy = evaluations(run)[-1]
    assert (record["loss"], record["accuracy"]) == (loss, accuracy)
    assert (record["step"], record["examples"], record["top5_accuracy"]) == (
        8,
        16,
        None,
    )
    matrix = np.array(record["confusion_matrix"])
    assert matrix.trace() == record["correct"] == round(accuracy * 16)
    assert [one["support"] for one in record["classes"]] == matrix.sum(1).tolist()
    assert [one["predicted"] for one in record["classes"]] == matrix.sum(0).tolist()
    assert len(record["calibration"]["bins"]) == 15


def test_the_form_of_the_record_stays(linsey, run):
    """Programs read it: entries may be added, none may change or go."""
    linsey("eval", run)
    record = json.loads((run / "eval_step_00000008.json").read_text())
    assert record["schema"] == "linsey.eval/1"
    assert list(record) == [
        "schema", "checkpoint", "step", "data", "examples", "correct", "loss",
        "accuracy", "top5_accuracy", "macro_average", "weighted_average", "classes",
        "confusion_matrix", "most_confused", "calibration",
    ]  # fmt: skip
    assert list(record["macro_average"]) == ["precision", "recall", "f1"]
    assert list(record["classes"][0]) == [
        "class", "precision", "recall", "f1", "support", "predicted",
    ]  # fmt: skip
    assert list(record["calibration"]) == [
        "expected_calibration_error", "mean_confidence", "bins",
    ]  # fmt: skip
    assert list(record["calibration"]["bins"][0]) == [
        "low", "high", "count", "accuracy", "confidence",
    ]  # fmt: skip


def test_json_is_all_that_is_printed(linsey, run):
    result = linsey("eval", run, "--json")
    assert result.err == ""
    saved = (run / "eval_step_00000008.json").read_text()
    assert json.loads(result.out) == json.loads(saved)


def test_other_data_and_other_steps_have_files_of_their_own(linsey, run, tmp_path):
    x, y = make_blobs(seed=5, count=33)
    np.savez(tmp_path / "other set.npz", x=x, y=y)
    linsey("eval", run)
    linsey("eval", run / "checkpoints" / "step_00000004")
    linsey("eval", run, "--data", "other set.npz")
    assert {path.name for path in run.glob("eval_*")} == {
        "eval_step_00000004.json", "eval_step_00000008.json",
        "eval_step_00000008_on_other_set.json",
    }  # fmt: skip
    assert linsey("train", "--resume", "--out", run).code == 0  # nothing is in its way


def test_a_step_outside_of_a_run_is_shown_only(linsey, run, tmp_path):
    shutil.copytree(run / "checkpoints" / "step_00000008", tmp_path / "step_00000008")
    result = linsey("eval", "step_00000008")
    assert (result.code, result.err) == (0, "")
    assert "saved" not in result.out
    assert not list(tmp_path.glob("**/eval_*"))


@pytest.mark.parametrize(("number", "code"), [(errno.EROFS, 0), (errno.ENOSPC, 6)])
def test_a_run_that_may_only_be_read_is_evaluated(
    linsey, run, monkeypatch, number, code
):
    def refuse(path, content):
        raise DiskError(OSError(number, os.strerror(number)), path)

    monkeypatch.setattr(evaluation_record.durable, "write_file", refuse)
    result = linsey("eval", run)
    assert result.code == code
    assert result.err.startswith(
        "linsey: error: " if code else "linsey: warning: not saved: "
    )
    assert "test accuracy" in result.out


def many_classes(count, classes=1200):
    random = np.random.default_rng(0)
    labels = random.integers(classes, size=count)
    predicted = np.where(random.random(count) < 0.8, labels, 3)
    confidence = random.random(count)
    rank = (labels != predicted).astype(int)
    return steps.Evaluation(0.5, Answers(labels, predicted, confidence, rank, classes))


class Checkpoint:
    folder, step = "run/checkpoints/step_00000008", 8


def test_many_classes_are_shown_in_short(capsys):
    names = tuple(f"class {number}" for number in range(1200))
    result, checkpoint = many_classes(3000), Checkpoint()
    record = evaluation_record.evaluation_record(result, names, checkpoint, "data")
    assert len(names) > evaluation_record.MAX_MATRIX
    assert record["confusion_matrix"] is None
    assert len(record["classes"]) == 1200
    assert record["most_confused"][0]["predicted"] == "class 3"
    _show(record)
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 45
    for words in ("the 10 of 1200 classes with the lowest recall", "macro average",
                  "the most frequent mistakes", "top-5 accuracy 1.0000"):  # fmt: skip
        assert words in out


def test_a_matrix_that_does_not_fit_the_terminal_is_not_torn(capsys, monkeypatch):
    names = tuple("abcdefghij")
    result, checkpoint = many_classes(300, classes=10), Checkpoint()
    record = evaluation_record.evaluation_record(result, names, checkpoint, "data")
    _show(record)
    assert "true \\ predicted" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    _show(record)
    out = capsys.readouterr().out
    assert "true \\ predicted" not in out
    assert "the most frequent mistakes" in out


class Fixed:
    """A state whose model gives known logits."""

    evaluated = None

    def __init__(self, logits):
        self.logits = logits
        self.network = self

    def evaluate(self, variables, x):
        return self.logits


@pytest.mark.parametrize(
    ("row", "label", "rank"),
    [
        ([3.0, 1.0, 2.0], 0, 0),
        ([3.0, 1.0, 2.0], 1, 2),
        ([2.0, 2.0, 2.0], 0, 0),  # of equals the first, as in argmax
        ([2.0, 2.0, 2.0], 2, 2),
        ([np.nan, np.nan, np.nan], 1, 3),  # never right
    ],
)
def test_rank_is_how_many_classes_were_put_first(row, label, rank):
    evaluate = steps.eval_step.__wrapped__
    logits, y = jnp.array([row]), jnp.array([label])
    _, predicted, confidence, found = evaluate(Fixed(logits), None, y)
    assert found.tolist() == [rank]
    if np.isfinite(row).all():
        assert (rank == 0) == (predicted.tolist() == [label])
        expected = np.exp(max(row)) / np.exp(row).sum()
        assert confidence.tolist() == pytest.approx([expected])
