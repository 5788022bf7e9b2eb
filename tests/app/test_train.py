import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from linsey.app import metrics_log, steps
from linsey.app.run_folder import CHECKPOINTS
from linsey.checkpoint import CheckpointStore
from linsey.checkpoint.manifest import file_name
from tests.app.runs import (
    SMALL,
    arrays,
    assert_same_run,
    evaluations,
    final,
    make_blobs,
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A finished run of eight steps and its data."""
    from linsey.app import cli

    folder = tmp_path_factory.mktemp("reference")
    x, y = make_blobs()
    np.savez(folder / "blobs.npz", x=x, y=y)
    arguments = (
        "train",
        "--data",
        folder / "blobs.npz",
        *SMALL,
        "--out",
        folder / "run",
    )
    assert cli.main([str(argument) for argument in arguments]) == 0
    return folder


@pytest.fixture
def finished(reference, tmp_path):
    """A copy of the finished run, to be tampered with."""
    shutil.copytree(reference / "run", tmp_path / "run")
    return tmp_path / "run"


def test_run_leaves_everything_in_its_folder(reference):
    run = reference / "run"
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.toml", "metrics.jsonl", "summary.txt", "curves.png",
                     "report.html", "checkpoints", "lock"}  # fmt: skip
    steps = [step for step, _, _ in evaluations(run)]
    assert steps == [0, 4, 8]
    best = final(run).metadata["cursor"]["best_step"]
    kept = CheckpointStore(run / CHECKPOINTS).steps()
    assert set(kept) == {4, 8, best}
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_training_learns(reference):
    losses = [loss for _, loss, _ in evaluations(reference / "run")]
    assert losses[-1] < losses[0] / 2


def test_output_names_result_and_places(linsey, blobs):
    result = linsey("train", "--data", blobs, *SMALL, "--out", "run")
    assert result.code == 0
    assert result.err == ""
    assert re.search(
        r"^test accuracy [01]\.\d{4} \(\d+ of 16\), loss", result.out, re.M
    )
    for name in ("report.html", "curves.png", "metrics.jsonl", "step_00000008"):
        assert f"run/{name}" in result.out or f"run/checkpoints/{name}" in result.out
    again = linsey("train", "--data", blobs, *SMALL, "--out", "run")
    assert again.code == 2
    assert again.error == (
        "run: --out: holds a run already (--resume continues it; nothing was changed)"
    )


def test_the_first_lines_say_what_is_being_done(linsey, blobs):
    result = linsey("train", "--data", blobs, *SMALL, "--out", "run")
    told = result.out.splitlines()
    assert told[:4] == [
        "training an mlp with batch normalization for 2 epochs, in run",
        f"reading {blobs} ...",
        "importing jax ...",
        "building the model ...",
    ]
    assert told[6] == "4 steps of 16 examples an epoch"
    assert told[7] == "compiling the evaluation ..."
    assert told[8].startswith("step      0/8")
    assert told[9] == "compiling the training step ..."
    assert told[10].startswith("step      4/8")


def test_the_first_line_needs_no_jax(blobs, tmp_path):
    """It is there before what takes long is imported."""
    code = f"""
import builtins, sys
from linsey.app import cli, terminal
write, told = terminal._write, []
def heavy(text, stream):
    told.append(sorted({{"jax", "optax", "matplotlib", "PIL"}} & set(sys.modules)))
    write(text, stream)
terminal._write = heavy
cli.main(["train", "--data", {str(blobs)!r}, "--epochs", "1", "--model", "mlp",
          "--batch-size", "65", "--out", {str(tmp_path / "run")!r}])
print("HEAVY", told[:2])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "HEAVY [[], []]" in done.stdout


def test_report_needs_nothing_but_itself(reference):
    page = (reference / "run" / "report.html").read_text()
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    sources = re.findall(r'src="([^"]{22})', page)
    assert sources == ["data:image/png;base64,"] * 4
    assert "test accuracy" in page
    assert "BatchNorm_0" in page


@pytest.mark.slow
def test_run_with_norm_none_has_no_statistics(linsey, blobs, tmp_path):
    linsey("train", "--data", blobs, *SMALL, "--norm", "none", "--out", "run")
    names = arrays(tmp_path / "run")
    assert not [name for name in names if name.startswith("batch_stats")]


def test_resume_of_a_finished_run_changes_no_bit(linsey, reference, finished):
    result = linsey("train", "--resume", "--out", finished)
    assert result.code == 0
    assert_same_run(finished, reference / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_resume_is_bit_identical(
    linsey, reference, tmp_path, monkeypatch, number
):
    """The signal arrives inside step 3, between two checkpoints."""
    train_step = steps.train_step

    def interrupted(state, *batch):
        if int(state.step) == 2:
            os.kill(os.getpid(), number)
        return train_step(state, *batch)

    monkeypatch.setattr(steps, "train_step", interrupted)
    run = tmp_path / "run"
    data = ("--data", reference / "blobs.npz")
    result = linsey("train", *data, *SMALL, "--out", run)
    assert result.code == 75
    assert f"stopped by {number.name}" in result.out
    assert f"linsey train --resume --out {run}" in result.out
    assert final(run).step == 3
    monkeypatch.undo()
    assert linsey("train", "--resume", "--out", run).code == 0
    assert_same_run(run, reference / "run")


def test_signal_during_evaluation_is_evaluated_after_resume(
    linsey, reference, tmp_path, monkeypatch
):
    evaluate = steps.evaluate

    def interrupted(state, *rest):
        if int(state.step) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(state, *rest)

    monkeypatch.setattr(steps, "evaluate", interrupted)
    run = tmp_path / "run"
    data = ("--data", reference / "blobs.npz")
    assert linsey("train", *data, *SMALL, "--out", run).code == 75
    assert final(run).metadata["cursor"]["evaluated_at"] == 0
    monkeypatch.undo()
    assert linsey("train", "--resume", "--out", run).code == 0
    assert_same_run(run, reference / "run")


def test_resumed_run_keeps_its_options(linsey, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    result = linsey("train", "--resume", "--out", finished, "--lr", 0.5)
    assert result.code == 2
    assert result.error == (
        f"{finished}: --lr: a resumed run keeps its options: expected 0.2, found 0.5 "
        "(start another run with another --out)"
    )
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


def test_checkpoint_of_another_run_is_refused(linsey, finished, blobs, tmp_path):
    linsey("train", "--data", blobs, *SMALL, "--seed", 1, "--out", "other")
    shutil.rmtree(finished / CHECKPOINTS)
    shutil.copytree(tmp_path / "other" / CHECKPOINTS, finished / CHECKPOINTS)
    result = linsey("train", "--resume", "--out", finished)
    assert result.code == 2
    assert "checkpoint of another model" in result.error


def test_changed_data_are_refused(linsey, blobs):
    linsey("train", "--data", blobs, *SMALL, "--out", "run")
    x, y = make_blobs(seed=1)
    np.savez(blobs, x=x, y=y)
    result = linsey("train", "--resume", "--out", "run")
    assert result.code == 2
    assert result.error.startswith(f"{blobs}: --data: the data are not those")


def test_damaged_checkpoint_is_refused_and_passed_over_only_on_request(
    linsey, reference, finished
):
    damaged = finished / CHECKPOINTS / "step_00000008" / file_name(0, 1)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    for command in (["train", "--resume", "--out", finished], ["eval", finished]):
        result = linsey(*command)
        assert result.code == 2
        assert result.error.startswith(f"{damaged}: ")
        assert "is not the one that was written" in result.error
        assert "step 4 is intact" in result.error
    result = linsey("train", "--resume", "--fallback", "--out", finished)
    assert result.code == 0
    assert result.err.startswith(f"linsey: warning: put aside: {damaged}: ")
    assert (finished / CHECKPOINTS / "step_00000008.refused").is_dir()
    assert_same_run(finished, reference / "run")


def test_other_thread_count_warns(linsey, finished, monkeypatch):
    monkeypatch.setenv("NPROC", "17")
    result = linsey("train", "--resume", "--out", finished)
    assert result.code == 0
    assert re.fullmatch(
        r"linsey: warning: threads changed from \d+ to 17 since the checkpoint was "
        r"written: the run goes on, but its bits may differ\n",
        result.err,
    )


def test_folder_in_use_is_refused(linsey, reference, tmp_path):
    from linsey.app.run_folder import lock

    (tmp_path / "run").mkdir()
    with lock(tmp_path / "run"):
        data = ("--data", reference / "blobs.npz")
        result = linsey("train", *data, *SMALL, "--out", tmp_path / "run")
    assert result.code == 2
    assert f"in use by process {os.getpid()}" in result.error


def test_folder_with_other_things_is_refused(linsey, blobs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    for more in ((), ("--resume",)):
        result = linsey("train", "--data", blobs, *SMALL, "--out", "run", *more)
        assert result.code == 2
        assert "not empty and holds no run" in result.error
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_batch_must_fit_the_data(linsey, blobs, tmp_path):
    result = linsey("train", "--data", blobs, "--model", "mlp", "--batch-size", 65,
                    "--out", "run")  # fmt: skip
    assert result.code == 2
    assert result.error == (
        "--batch-size: larger than the training data: expected at most 64, found 65 "
        "(--batch-size 64, or leave it out)"
    )
    assert not (tmp_path / "run").exists()


def test_step_that_is_not_finite_is_skipped_whole_and_reported(
    linsey, blobs, tmp_path, monkeypatch
):
    """One poisoned batch: nothing of it arrives, and the run says so."""
    train_step, seen = steps.train_step, []

    def poisoned(state, x, y):
        if int(state.step) == 5:
            x = x.at[0, 0].set(np.nan)
            seen.append(state.params["Dense_0"]["kernel"].copy())
        if int(state.step) == 6:
            assert (state.params["Dense_0"]["kernel"] == seen[0]).all()
        return train_step(state, x, y)

    monkeypatch.setattr(steps, "train_step", poisoned)
    result = linsey("train", "--data", blobs, *SMALL, "--out", "run")
    assert result.code == 0
    assert "1 of 8 steps were skipped as a whole" in result.err
    found = arrays(tmp_path / "run")
    assert all(np.isfinite(array).all() for array in found.values())
    assert (found["step"], found["skipped"]) == (8, 1)
    assert "1 of 8 steps were skipped" in (tmp_path / "run/report.html").read_text()


def test_tensorboard_gets_what_the_log_gets(linsey, blobs, tmp_path):
    result = linsey("train", "--data", blobs, *SMALL, "--tensorboard", "--out", "run")
    assert result.code == 0
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"eval/accuracy" in events.read_bytes()


def test_metrics_are_lines_of_json(reference):
    lines = (reference / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["kind"] for record in records] == [
        "start", "eval", "train", "train", "eval", "train", "train", "eval", "final",
    ]  # fmt: skip
    assert records[0]["threads"] >= 1
    assert records[2].keys() == {
        "kind", "step", "epoch", "loss", "accuracy", "learning_rate", "skipped",
        "examples_per_second",
    }  # fmt: skip


def test_the_step_that_compiles_has_no_speed(linsey, blobs, tmp_path):
    options = (*SMALL, "--log-every", 1, "--epochs", 1)
    assert linsey("train", "--data", blobs, *options, "--out", "run").code == 0
    records = metrics_log.read(tmp_path / "run" / "metrics.jsonl")
    speeds = [r["examples_per_second"] for r in records if r["kind"] == "train"]
    assert speeds[0] is None
    assert min(speeds[1:]) > 0


def test_eval_repeats_the_final_evaluation(linsey, reference):
    result = linsey("eval", reference / "run")
    _, loss, accuracy = evaluations(reference / "run")[-1]
    assert result.code == 0
    assert f"test accuracy {accuracy:.4f}" in result.out
    assert f"loss {loss:.4f}, step 8 of" in result.out


def test_eval_on_other_data_uses_all_of_them(linsey, reference, tmp_path):
    x, y = make_blobs(seed=5, count=33)
    np.savez(tmp_path / "other.npz", x=x, y=y)
    step = reference / "run" / CHECKPOINTS / "step_00000008"
    result = linsey("eval", step, "--data", "other.npz")
    assert result.code == 0
    assert " of 33), loss" in result.out
    np.savez(tmp_path / "wide.npz", x=np.ones((33, 9)), y=y)
    assert linsey("eval", step, "--data", "wide.npz").error == (
        "wide.npz: examples of another shape than the model was trained on: "
        "expected (6,), found (9,)"
    )
    np.savez(tmp_path / "many.npz", x=x, y=y + 1)
    assert linsey("eval", step, "--data", "many.npz").error == (
        "many.npz: y[3]: a label that does not occur in the training part: expected "
        "one of 0, 1, 2, 3, found 4"
    )


def test_eval_and_inspect_choose_the_step(linsey, reference):
    run = reference / "run"
    best = final(run).metadata["cursor"]["best_step"]
    assert f"step {best} of" in linsey("eval", run, "--best").out
    assert "step 4, every byte verified" in linsey("inspect", run, "--step", 4).out
    assert "no such step" in linsey("inspect", run, "--step", 5).error
    one = run / CHECKPOINTS / "step_00000004"
    assert "--step and --best need a run" in linsey("eval", one, "--best").error


def test_inspect_shows_statistics_apart(linsey, reference):
    text = linsey("inspect", reference / "run").out
    order = [text.index(f"\n{name}") for name in ("params", "batch_stats", "opt_state")]
    assert order == sorted(order)
    kernel = arrays(reference / "run")["params/Dense_0/kernel"]
    low, high = f"{kernel.min():.4g}", f"{kernel.max():.4g}"
    assert f"float32 (6, 8)  192 bytes  from {low} to {high}" in text
    assert "NOT FINITE" not in text
