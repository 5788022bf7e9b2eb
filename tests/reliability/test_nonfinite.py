"""Numbers that are not finite are named, leave no trace, and are never saved."""

from __future__ import annotations

import json
import re

import jax
import numpy as np
import pytest

from linsey.app import steps
from linsey.app.config import TrainConfig
from linsey.app.loading import Batch, Loader
from linsey.app.nonfinite import diagnose
from linsey.app.own_network import make_network
from linsey.app.trainer import Trainer
from linsey.checkpoint import CheckpointStore, flatten
from tests.app.runs import arrays, final, make_blobs
from tests.reliability.figures import record
from tests.reliability.runs import OPTIONS, history

pytestmark = pytest.mark.timeout(120)
BAD_STEP = 8  # the first batch of the second epoch has number 6


@pytest.fixture
def poison(monkeypatch):
    """Changes the inputs of some steps; returns the states before and after steps."""

    def start(change, *numbers):
        take, train = Loader.take, Trainer._train

        def train_poisoned(self, loader, log):
            is_chosen = self.step + 1 in numbers

            def poisoned(loader):
                batch = take(loader)
                x, y = batch.shards
                return Batch(batch.indices, (change(x), y)) if is_chosen else batch

            monkeypatch.setattr(Loader, "take", poisoned)
            train(self, loader, log)

        monkeypatch.setattr(Trainer, "_train", train_poisoned)

    return start


def row_2(value):
    return lambda x: x.at[2].set(value)


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    ("change", "part", "count"),
    [
        (row_2(np.nan), "the batch", 1),
        (row_2(np.inf), "the batch", 1),
        (row_2(3e38), "the output of Dense_0", 1),
    ],
)
def test_skip_names_step_examples_and_layer(
    linsey, blobs, poison, tmp_path, change, part, count
):
    poison(change, BAD_STEP)
    result = linsey("train", "--data", blobs, *OPTIONS, "--out", "run")
    assert result.code == 0
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    (record,) = (r for r in map(json.loads, text.splitlines()) if r["kind"] == "skip")
    assert (record["step"], record["part"]) == (BAD_STEP, part)
    assert len(record["examples"]) == count
    assert f"step {BAD_STEP} is not finite: first {part}, with the" in result.err
    assert "1 of 15 steps were skipped as a whole" in result.err
    found = arrays(tmp_path / "run")
    assert all(np.isfinite(array).all() for array in found.values())


def test_steps_after_a_skipped_one_are_those_of_a_run_without_it():
    """Parameters, optimizer, statistics, with dropout and a schedule: every bit."""
    config = TrainConfig(model="mlp", width=2, depth=1, optimizer="adam", dropout=0.5)
    x, y = make_blobs()
    model = make_network(config, x.shape[1:], 4)
    batches = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 64, 16)]

    def trained(chosen):
        state = steps.create_state(config, model, x.shape[1:], 4)
        for x_batch, y_batch in chosen:
            state, _ = steps.train_step(state, x_batch, y_batch.astype("i4"))
        return state

    bad = np.full_like(x[:16], np.nan), y[:16]
    skipped = trained([batches[0], bad, batches[1], bad, *batches[2:]])
    without = trained(batches)
    assert (int(skipped.step), int(skipped.skipped)) == (6, 2)
    for name in ("params", "opt_state", "batch_stats", "noise"):
        pairs = zip(
            jax.tree.leaves(getattr(skipped, name)),
            jax.tree.leaves(getattr(without, name)),
            strict=True,
        )
        assert all(one.tobytes() == other.tobytes() for one, other in pairs), name
    record("a batch is not finite", "the same bits after 2 skipped of 6")


@pytest.mark.parametrize("policy", ["stop", "raise"])
def test_stop_saves_the_last_good_state_and_raise_does_not(
    linsey, blobs, poison, tmp_path, monkeypatch, policy
):
    poison(row_2(np.nan), BAD_STEP)
    options = ("--data", blobs, *OPTIONS, "--out", "run")
    result = linsey("train", *options, "--on-nonfinite", policy)
    assert result.code == 5
    assert "step 8 is not finite: first the batch, with the examples" in result.err
    assert ("Traceback" in result.err) == (policy == "raise")
    assert final(tmp_path / "run").step == (7 if policy == "stop" else 6)
    assert arrays(tmp_path / "run")["skipped"] == 0
    # The step is still to be done: with a policy that passes over it, or good data.
    result = linsey("train", "--resume", "--out", "run", "--on-nonfinite", "skip")
    assert result.code == 0
    assert arrays(tmp_path / "run")["skipped"] == 1


def test_skip_ends_when_more_than_half_of_the_last_steps_are_skipped(
    linsey, blobs, poison, tmp_path
):
    poison(row_2(np.nan), *range(3, 16))
    result = linsey("train", "--data", blobs, *OPTIONS, "--out", "run")
    assert result.code == 5
    assert re.search(
        r"^linsey: error: step 10: 8 of the last 10 steps were not finite and were "
        r"skipped; the last good state is saved \(a lower --lr may help\)$",
        result.err, re.M,
    )  # fmt: skip
    assert result.err.count("skipped\n") == 5  # warnings do not drown the rest
    assert (final(tmp_path / "run").step, arrays(tmp_path / "run")["skipped"]) == (
        10,
        8,
    )
    assert linsey("eval", "run").code == 0
    before = history(tmp_path / "run")
    assert linsey("train", "--resume", "--out", "run").code == 5  # where it ended
    assert history(tmp_path / "run") == before


def test_layers_outside_of_the_forward_pass_are_named():
    """Finite outputs, loss and gradients, and a rate that is too much for them."""
    config = TrainConfig(model="mlp", width=2, norm="none", lr=1e38, warmup_epochs=0)
    x, y = make_blobs(count=12)
    state = steps.create_state(config, make_network(config, (6,), 4), (6,), 1)
    found = diagnose(state, 1e20 * x, y.astype("i4"))
    assert found.part == "the new value of params/Dense_0/kernel"
    assert found.rows.tolist() == list(range(12))


def test_leaf_that_was_finite_is_never_saved_otherwise(
    linsey, blobs, tmp_path, monkeypatch
):
    train_step = steps.train_step

    def broken(state, *batch):
        state, metrics = train_step(state, *batch)
        if int(state.step) == 6:  # as a defect of the memory would
            bias = state.params["Dense_1"]["bias"].at[0].set(np.nan)
            params = {**state.params, "Dense_1": {**state.params["Dense_1"]}}
            params["Dense_1"]["bias"] = bias
            state = state.replace(params=params)
        return state, metrics

    monkeypatch.setattr(steps, "train_step", broken)
    result = linsey("train", "--data", blobs, *OPTIONS, "--out", "run")
    assert result.code == 5
    assert "step 6: params/Dense_1/bias is not finite although no step" in result.err
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    for step in store.steps():
        leaves = flatten(store.open(step).read()).values()
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves)


def test_constant_batches_train(linsey, tmp_path):
    np.savez(tmp_path / "flat.npz", x=np.full((80, 6), 7.5), y=np.arange(80) % 4)
    result = linsey("train", "--data", "flat.npz", *OPTIONS, "--out", "run")
    assert result.code == 0
    (warning,) = result.err.splitlines()
    assert "the same in all of the training data" in warning


def test_values_whose_variance_overflows_are_refused_by_feature(linsey, tmp_path):
    x, y = make_blobs()
    x = x.astype("f8")
    x[3, 4] = 1e308
    np.savez(tmp_path / "huge.npz", x=x, y=y)
    result = linsey("train", "--data", "huge.npz", *OPTIONS, "--out", "run")
    assert result.code == 2
    assert "feature 4" in result.error
    assert not (tmp_path / "run").exists()
