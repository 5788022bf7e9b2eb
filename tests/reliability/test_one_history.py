"""A run that is stopped anywhere and continued is one run: arrays and records."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from linsey.app import recorded_run, steps
from linsey.app.trainer import Trainer
from linsey.checkpoint import CheckpointStore
from tests.app.runs import arrays, final
from tests.reliability.figures import record
from tests.reliability.runs import OPTIONS, assert_one_history, history

pytestmark = pytest.mark.timeout(300)


def signalling(function, is_time, number=signal.SIGTERM):
    """The function, which once sends a signal to this process before its work."""
    sent = []

    def call(*arguments, **options):
        if is_time(*arguments) and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)
        return function(*arguments, **options)

    return call


def raw_steps(run: Path) -> list[tuple[str, int]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [(r["kind"], r["step"]) for r in records if r["kind"] != "resume"]


def test_run_stopped_in_each_of_its_15_steps(linsey, whole, tmp_path, monkeypatch):
    """In the middle of epochs, windows and intervals of checkpoints."""
    data, stops = whole.parent / "blobs.npz", 0
    train_step = steps.train_step
    for at in range(15):
        stop = signalling(train_step, lambda state, *_, at=at: state.step == at)
        monkeypatch.setattr(steps, "train_step", stop)
        command = ("--data", data, *OPTIONS) if at == 0 else ("--resume",)
        result = linsey("train", *command, "--out", "run")
        assert result.code == 75
        assert final(tmp_path / "run").step == at + 1
        stops += 1
    monkeypatch.setattr(steps, "train_step", train_step)
    assert linsey("train", "--resume", "--out", "run").code == 0
    assert stops == 15
    record("a run is stopped in each step", "15 of 15")
    assert_one_history(tmp_path / "run", whole)
    assert raw_steps(tmp_path / "run") == raw_steps(whole)  # none missing, none twice


@pytest.mark.thinned(2)
@pytest.mark.parametrize("step", [5, 15])
def test_signal_in_an_evaluation_leaves_the_best_step_right(
    linsey, whole, tmp_path, monkeypatch, step
):
    """A step saved before it was evaluated is saved again with its accuracy."""
    best = []
    for accuracy in (0.0, 0.5):  # each evaluation is better than the one before

        def numbered(state, *rest, evaluate=steps.evaluate):
            result = evaluate(state, *rest)
            count = 1 + int(state.step)
            result.confusion[:] = 0
            result.confusion[0, 0], result.confusion[0, 1] = count, 16 - count
            return result

        run = tmp_path / f"run{accuracy}"
        with monkeypatch.context() as patch:
            patch.setattr(steps, "evaluate", numbered)
            at = step if accuracy else -1
            patch.setattr(
                steps,
                "evaluate",
                signalling(steps.evaluate, lambda state, *_: state.step == at),
            )
            data = ("--data", whole.parent / "blobs.npz")
            result = linsey("train", *data, *OPTIONS, "--out", run)
            assert result.code == (75 if accuracy else 0)
            at = -1
            assert linsey("train", "--resume", "--out", run).code == 0
        best.append(linsey("eval", run, "--best").out.partition(", step ")[2][:3])
        assert final(run).metadata["cursor"]["best_step"] == 15
    assert best == ["15 ", "15 "]
    assert_one_history(tmp_path / "run0.5", tmp_path / "run0.0")


@pytest.mark.thinned(4)
@pytest.mark.parametrize(
    ("module", "name"),
    [
        (Trainer, "_save"),
        (recorded_run, "write_report"),
        (recorded_run, "summary_text"),
    ],
)
def test_signal_between_the_steps(linsey, whole, tmp_path, monkeypatch, module, name):
    data = ("--data", whole.parent / "blobs.npz")
    function = getattr(module, name)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, signalling(function, lambda *_: True))
        result = linsey("train", *data, *OPTIONS, "--out", "run")
    assert result.code == 75
    again = result.out.splitlines()[-1].split()[1:]
    assert linsey(*again).code == 0
    assert_one_history(tmp_path / "run", whole)


def test_signal_that_saves_goes_on(linsey, whole, tmp_path, monkeypatch):
    data = ("--data", whole.parent / "blobs.npz")
    asked = signalling(steps.train_step, lambda s, *_: s.step == 7, signal.SIGUSR1)
    saved = []
    save = CheckpointStore.save

    def seen(store, step, *arguments, **options):
        saved.append(step)
        save(store, step, *arguments, **options)

    monkeypatch.setattr(CheckpointStore, "save", seen)
    monkeypatch.setattr(steps, "train_step", asked)
    assert linsey("train", *data, *OPTIONS, "--out", "run").code == 0
    assert 8 in saved
    assert_one_history(tmp_path / "run", whole)


@pytest.mark.slow
def test_comparison_goes_on_where_it_stopped(linsey, whole, tmp_path, monkeypatch):
    data = ("--data", whole.parent / "blobs.npz")
    options = (*data, *OPTIONS, "--compare", "--compare-factors", 1)
    assert linsey("train", *options, "--out", "whole").code == 0
    with monkeypatch.context() as patch:
        counts = iter(range(99))
        patch.setattr(
            steps,
            "train_step",
            signalling(steps.train_step, lambda *_: next(counts) == 20),
        )
        assert linsey("train", *options, "--out", "run").code == 75
    ends = [(tmp_path / "run" / name / "report.html").exists() for name in VARIANTS]
    assert ends == [True, False]
    assert linsey("train", "--resume", "--out", "run").code == 0
    for name in VARIANTS:
        assert_one_history(tmp_path / "run" / name, tmp_path / "whole" / name)
    pages = [(tmp_path / name / "report.html").read_text() for name in ("run", "whole")]
    assert pages[0] == pages[1]


VARIANTS = ("batch-lr0.2", "none-lr0.2")

STOPPING = """
import os, signal, sys
from linsey.app import cli, steps
train_step, at = steps.train_step, int(sys.argv[1])
def call(state, *batch):
    if int(state.step) == at:
        os.kill(os.getpid(), signal.SIGTERM)
    return train_step(state, *batch)
steps.train_step = call
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_60_processes_stopped_each_in_another_step(tmp_path):
    """Augmented by nothing, but with batch normalization, dropout and a schedule."""
    options = ["--model", "mlp", "--width", "8", "--epochs", "3", "--batch-size", "70",
               "--test-fraction", "0.2", "--checkpoint-every", "7"]  # fmt: skip

    def run(at, *arguments):
        command = [sys.executable, "-c", STOPPING, str(at), "train", *arguments]
        return subprocess.run(command, capture_output=True, cwd=tmp_path).returncode

    assert run(-1, *options, "--out", "whole") == 0
    assert arrays(tmp_path / "whole")["step"] == 60
    equal = 0
    for at in range(60):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        assert run(at, *options, "--out", "run") == 75
        assert run(-1, "--resume", "--out", "run") == 0
        assert_one_history(tmp_path / "run", tmp_path / "whole")
        equal += 1
    record("a run is stopped in each step", f"{equal} of 60 processes")


def test_history_has_no_gap_and_no_double_step(whole):
    kinds = [(record["kind"], record["step"]) for record in history(whole)]
    assert [step for kind, step in kinds if kind == "train"] == [4, 8, 12, 15]
    assert [step for kind, step in kinds if kind == "eval"] == [0, 5, 10, 15]
    assert len(set(kinds)) == len(kinds)
