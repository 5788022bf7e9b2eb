"""Options of training through the command: what they do to a run, and to its resume."""

import json
import re
import shutil

import numpy as np
import pytest

from linsey.app import cli, curves, metrics_log
from linsey.app.options import load_options
from tests.app.runs import (
    SMALL,
    arrays,
    assert_same_run,
    evaluations,
    final,
    make_blobs,
)

EVERYTHING = (
    "--model", "mlp", "--width", 2, "--depth", 1, "--epochs", 2, "--batch-size", 16,
    "--augment", "color,flip,crop", "--precision", "mixed", "--ema", 0.7,
    "--accumulate", 2, "--label-smoothing", 0.1, "--class-weights", "balanced",
    "--clip-norm", 1, "--optimizer", "optax:lion", "--optimizer-arg", "b1=0.8",
    "--optimizer-arg", "weight_decay=0.1", "--schedule", "optax:exponential_decay",
    "--schedule-arg", "decay_rate=0.5", "--validation-fraction", 0.25, "--lr", 0.01,
    "--early-stopping", 9, "--log-every", 2, "--checkpoint-every", 2,
)  # fmt: skip


def train(*arguments: object) -> int:
    return cli.main(["train", *map(str, arguments)])


@pytest.fixture(scope="module", autouse=True)
def no_curves():
    """To draw them takes longer than the runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "drawn", lambda *_, **__: "")
        yield


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A finished run with every option, and its data: images of 4 classes."""
    folder = tmp_path_factory.mktemp("everything")
    random = np.random.default_rng(0)
    y = np.arange(80) % 4
    x = random.normal(size=(80, 6, 6, 3)) + y[:, None, None, None]
    np.savez(folder / "data.npz", x=x.astype("f4"), y=y)
    assert (
        train("--data", folder / "data.npz", *EVERYTHING, "--out", folder / "run") == 0
    )
    return folder


@pytest.mark.slow
def test_a_run_with_every_option_resumes_to_the_bit(everything, tmp_path):
    """As after a kill in the second epoch, after step 4."""
    run = tmp_path / "run"
    shutil.copytree(everything / "run", run)
    shutil.rmtree(run / "checkpoints" / "step_00000006")
    assert final(run).step == 4
    assert train("--resume", "--out", run) == 0
    assert_same_run(run, everything / "run")


def test_a_run_with_every_option_says_what_was_chosen_on_which_part(everything):
    records = metrics_log.read(everything / "run" / "metrics.jsonl")
    parts = [record["part"] for record in records if record["kind"] == "eval"]
    assert parts == ["validation"] * 3
    report = (everything / "run" / "report.html").read_text()
    assert "Best validation accuracy along the way" in report
    assert re.search("<th[^>]*>validation loss", report)
    found = arrays(everything / "run")
    assert found["average/count"] == 6 and found["average/missing"] > 0.1
    assert found["opt_state/1/0/mu/Dense_0/kernel"].dtype == np.float32


@pytest.mark.slow
def test_eval_and_tools_use_the_average(everything, linsey, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(everything / "run", run)
    (last,) = [
        r for r in metrics_log.read(run / "metrics.jsonl") if r["kind"] == "final"
    ]
    told = json.loads(linsey("eval", run, "--json").out)
    assert told["examples"] == 16
    assert (told["loss"], told["accuracy"]) == (last["loss"], last["accuracy"])
    assert linsey("fold", run, "folded").code == 0
    folded = json.loads(linsey("eval", "folded", "--json").out)
    assert folded["loss"] == pytest.approx(told["loss"], rel=0.02)  # of bfloat16
    assert linsey("recalibrate", run, "again").code == 0
    assert linsey("eval", "again").code == 0
    assert "average: moving average that is evaluated" in linsey("inspect", run).out


@pytest.mark.slow
def test_a_schedule_with_steps_of_its_own_can_be_evaluated(linsey, blobs):
    """Nobody says there how many steps the run had."""
    schedule = ("--schedule", "optax:warmup_cosine_decay_schedule", "--schedule-arg",
                "warmup_steps=3", "--schedule-arg", "init_value=0")  # fmt: skip
    data = ("--data", blobs, *SMALL)
    assert linsey("train", *data, *schedule, "--out", "run").code == 0
    assert linsey("eval", "run").code == 0
    result = linsey("train", *data, *schedule[:3], "warmup_steps=9", "--out", "other")
    assert result.code == 2
    assert (
        "optax:warmup_cosine_decay_schedule(warmup_steps=9) cannot be" in result.error
    )


# -- early stopping ------------------------------------------------------------------

STANDING = ("--lr", 1e-12, "--epochs", 5)  # the first evaluation stays the best


@pytest.mark.slow
def test_early_stopping_ends_the_run_and_can_be_taken_back(linsey, blobs, tmp_path):
    data = ("--data", blobs, *SMALL, *STANDING)
    whole = linsey("train", *data, "--out", "whole")
    assert whole.code == 0 and "stopped early" not in whole.out
    result = linsey("train", *data, "--early-stopping", 2, "--out", "run")
    assert result.code == 0
    assert (
        "stopped early at step 8 of 20: 2 evaluations in a row without a better test "
        "accuracy; --resume with --early-stopping 0 goes on"
    ) in result.out
    run = tmp_path / "run"
    assert [step for step, _, _ in evaluations(run)] == [0, 4, 8]
    assert final(run).step == 8
    assert "stopped early at step 8 of 20" in (run / "report.html").read_text()
    again = linsey("train", "--resume", "--out", "run")
    assert again.code == 0 and "stopped early at step 8 of 20" in again.out
    assert final(run).step == 8
    assert linsey("train", "--resume", "--early-stopping", 0, "--out", "run").code == 0
    assert_same_run_but_for_its_count(run, tmp_path / "whole")


def assert_same_run_but_for_its_count(one, other):
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert evaluations(one) == evaluations(other)


# -- longer --------------------------------------------------------------------------


def test_a_run_goes_on_for_longer_and_says_so(linsey, blobs, tmp_path):
    run, data = tmp_path / "run", ("--data", blobs, *SMALL)
    assert linsey("train", *data, "--out", run).code == 0
    shutil.copytree(run, tmp_path / "killed")
    result = linsey("train", "--resume", "--epochs", 4, "--out", run)
    assert result.code == 0
    assert (
        "4 epochs instead of 2: from step 8 on, the learning rate is that of a run of 4"
    ) in result.out
    records = metrics_log.read(run / "metrics.jsonl")
    (extended,) = [record for record in records if record["kind"] == "extend"]
    assert (extended["step"], extended["epochs"], extended["before"]) == (8, 4, 2)
    assert load_options(run / "config.toml")["epochs"] == 4
    rates = {r["step"]: r["learning_rate"] for r in records if r["kind"] == "train"}
    # Cosine over 16 steps, of which 4 rise; the rate of step 10 is that of its 10th.
    assert rates[10] == pytest.approx(0.2 * (1 + np.cos(np.pi * 5 / 12)) / 2)
    # A kill after the options were saved and before the first new checkpoint:
    config = tmp_path / "killed" / "config.toml"
    config.write_text(config.read_text().replace("epochs = 2\n", "epochs = 4\n"))
    assert linsey("train", "--resume", "--out", "killed").code == 0
    assert_same_run(tmp_path / "killed", run)


def test_a_run_does_not_get_shorter_and_keeps_its_other_options(linsey, blobs):
    assert linsey("train", "--data", blobs, *SMALL, "--out", "run").code == 0
    for more in (("--epochs", 1), ("--epochs", 4, "--ema", 0.5)):
        result = linsey("train", "--resume", *more, "--out", "run")
        assert result.code == 2
        assert "a resumed run keeps its options" in result.error


# -- refusals ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--augment", "flip"), r"--augment: augmentation needs images: found examples"
         " (6,) (leave it out)"),
        (("--augment", "flp"), "--augment: out of range: expected none, or some of "
         "flip,crop,color, found 'flp'"),
        (("--accumulate", 3), "--batch-size: does not divide into 3 microbatches "
         "(--accumulate): expected a multiple of 3, found 16 (--batch-size 15)"),
        (("--optimizer", "lion"), "--optimizer: no such name: expected sgd, adam, "
         "adamw, or optax:NAME of what optax has, found 'lion' (did you mean "
         "optax:lion?)"),
        (("--class-weights", "5=2"), "--class-weights: no such class: expected 0, 1, 2,"
         " 3, found '5'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_line_and_leaves_no_folder(
    linsey, blobs, tmp_path, options, error
):
    result = linsey("train", "--data", blobs, *SMALL, *options, "--out", "run")
    assert (result.code, result.error) == (2, error)
    assert not (tmp_path / "run").exists()


def test_a_fraction_beside_a_validation_part_is_refused(linsey, tmp_path):
    x, y = make_blobs()
    parts = ("train", "val", "test")
    named = {f"{name}_{part}": value for part in parts
             for name, value in (("x", x), ("y", y))}  # fmt: skip
    np.savez(tmp_path / "parts.npz", **named)
    data = ("--data", "parts.npz", *SMALL)
    result = linsey("train", *data, "--validation-fraction", 0.1, "--out", "run")
    assert (
        result.code == 2 and "there is a validation part (leave it out" in result.error
    )
    result = linsey("train", *data, "--epochs", 1, "--out", "run")
    assert result.code == 0
    assert "80 to choose the best step by, 80 to test on" in result.out
    assert "best validation accuracy" in result.out
