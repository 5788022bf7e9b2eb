"""An mlp on a table of 100,000 x 20: how long until it is as accurate as it gets.

Two classes that a network of the same layers, with random weights, tells apart, with
every tenth label turned. `linsey train --model mlp` and its loop, Keras on JAX, and
scikit-learn's MLPClassifier, all with two layers of 128 units, batch 256 and the same
numbers. Keras and scikit-learn keep the rate of Adam that they come with, 0.001, for
ten epochs; linsey lets it fall, as the command does by itself, from 0.02 in one. Keras
by the recipe of linsey takes part as well. After each epoch the accuracy on 20,000
other examples is looked at, outside of the clock. Compiling counts. The time is that
until the goal, which is the best accuracy of the worst rival less a quarter of a
percent.
Run with `python -m benchmarks.table`; `--examples 2000 --epochs 3` tries it in small.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness

SAME = "keras, same recipe"
RIVALS = {
    "linsey": "linsey",
    "keras": "keras",
    "scikit-learn": "sklearn",
    SAME: "keras",
}
FEATURES, UNITS, BATCH, RATE = 20, 128, 256, 1e-3
FALLING_RATE, FALLING_EPOCHS = 2e-2, 1
SLACK = 0.0025
GOAL = "<= 0.5"
Points = list[tuple[float, float]]  # seconds, accuracy
Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def run(given: argparse.Namespace) -> list[harness.Row]:
    """Time all rivals, interleaved; ratios are linsey's to each of them."""
    rivals = []
    for rival, package in RIVALS.items():
        if importlib.util.find_spec(package) is None:
            harness.missing(rival, ImportError(f"{package} is not installed"))
        else:
            rivals.append(rival)
    found: dict[str, list[Points]] = {rival: [] for rival in rivals}
    for round_ in range(given.rounds):
        turn = round_ % len(rivals)
        for rival in rivals[turn:] + rivals[:turn]:
            found[rival].append(in_new_process(rival, given))
    best = (max(a for _, a in points) for runs in found.values() for points in runs)
    goal = min(best) - SLACK
    print(f"seconds to an accuracy of {goal:.4f}")
    times = {rival: [first(points, goal) for points in found[rival]] for rival in found}
    rows = []
    for rival, seconds in times.items():
        row = harness.summarise("table", rival, seconds, None)
        pairs = zip(times["linsey"], seconds, strict=True)
        ratio = float(np.median([ours / theirs for ours, theirs in pairs]))
        aim = None if rival in ("linsey", SAME) else GOAL
        rows.append(dataclasses.replace(row, ratio=ratio, goal=aim))
    return rows


def first(points: Points, goal: float) -> float:
    """Return the seconds after which the goal was reached."""
    return next(seconds for seconds, accuracy in points if accuracy >= goal)


def in_new_process(rival: str, given: argparse.Namespace) -> Points:
    """Time one rival in a process that ends with it."""
    command = [sys.executable, "-m", "benchmarks.table", "--process", rival]
    command += ["--examples", str(given.examples), "--epochs", str(given.epochs)]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def table(count: int) -> Data:
    """Make examples and labels for training, and a fifth as many for testing."""
    random = np.random.default_rng(0)
    x = random.normal(size=(count + count // 5, FEATURES)).astype(np.float32)
    hidden = np.maximum(x @ random.normal(size=(FEATURES, 32)), 0)
    scores = hidden @ random.normal(size=32)
    y = (scores > np.median(scores)).astype(np.int32)
    y ^= (random.random(len(y)) < 0.1).astype(np.int32)
    return x[:count], y[:count], x[count:], y[count:]


class Clock:
    """Seconds of training; evaluations are taken out of them."""

    def __init__(self) -> None:
        self._start, self.points = time.perf_counter(), []

    def look(self, accuracy: Callable[[], float]) -> None:
        """Note the time, and the accuracy, which is found with the clock stopped."""
        now = time.perf_counter()
        self.points.append((now - self._start, float(accuracy())))
        self._start += time.perf_counter() - now


def with_linsey(data: Data, epochs: int) -> Points:
    """Run the loop of the command."""
    from linsey.app.config import TrainConfig
    from linsey.app.metrics_log import MetricsLog
    from linsey.app.progress import progress
    from linsey.app.readers import load
    from linsey.app.stopping import StopRequest
    from linsey.app.trainer import Trainer
    from linsey.checkpoint import CheckpointStore

    names = ("x_train", "y_train", "x_test", "y_test")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.npz"
        np.savez(path, **dict(zip(names, data, strict=True)))
        config = TrainConfig(
            data=str(path), model="mlp", norm="none", width=UNITS // 4, depth=2,
            dropout=0.0, optimizer="adam", lr=FALLING_RATE, schedule="cosine",
            warmup_epochs=0.0, weight_decay=0.0, batch_size=BATCH, epochs=epochs,
            log_every=100, checkpoint_every=10**9,
        )  # fmt: skip
        clock = Clock()
        dataset = load(config, loading=config)

        class Watched(Trainer):
            def evaluate(self, stop: Any = None, part: Any = "test") -> Any:
                if self.compiling is not None:  # what it does meanwhile counts as well
                    self.compiling.exception()
                clock.look(lambda: self._evaluated(stop, part))
                return self.last

            def _evaluated(self, stop: Any, part: Any) -> float:
                self.last = super().evaluate(stop, part)
                return self.last.accuracy

        trainer = Watched(config, dataset, CheckpointStore(Path(folder) / "steps"))
        log = MetricsLog(Path(folder) / "metrics.jsonl", None)
        with StopRequest() as stop, progress(0, trainer.total, True) as shown:
            trainer.run(log, shown, stop)
        log.close()
    return clock.points


def with_keras(data: Data, epochs: int, is_falling: bool = False) -> Points:
    """Call `fit` of a sequential model."""
    import keras

    x, y, x_test, y_test = data
    clock = Clock()
    dense = keras.layers.Dense
    model = keras.Sequential([
        keras.Input((FEATURES,)), dense(UNITS, "relu"), dense(UNITS, "relu"), dense(2)
    ])  # fmt: skip
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = RATE
    if is_falling:
        steps = epochs * (len(x) // BATCH)
        rate = keras.optimizers.schedules.CosineDecay(FALLING_RATE, steps)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            clock.look(lambda: np.mean(
                model.predict(x_test, 4096, verbose=0).argmax(-1) == y_test
            ))  # fmt: skip

    model.fit(x, y, BATCH, epochs, verbose=0, callbacks=[Look()])
    return clock.points


def with_sklearn(data: Data, epochs: int) -> Points:
    """Call `partial_fit`, an epoch at a time."""
    from sklearn.neural_network import MLPClassifier

    x, y, x_test, y_test = data
    clock = Clock()
    model = MLPClassifier(
        (UNITS, UNITS), batch_size=BATCH, learning_rate_init=RATE, alpha=0,
        random_state=0,
    )  # fmt: skip
    for _ in range(epochs):
        model.partial_fit(x, y, classes=np.arange(2))
        clock.look(lambda: np.mean(model.predict(x_test) == y_test))
    return clock.points


def process(rival: str, given: argparse.Namespace) -> Points:
    """Time one rival."""
    data, few = table(given.examples), min(FALLING_EPOCHS, given.epochs)
    match rival:
        case "linsey":
            return with_linsey(data, few)
        case "keras":
            return with_keras(data, given.epochs)
        case "scikit-learn":
            return with_sklearn(data, given.epochs)
    return with_keras(data, few, is_falling=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"rounds": 5, "examples": 100_000, "epochs": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--process", choices=RIVALS)
    options = parser.parse_args()
    if options.process:
        print(json.dumps(process(options.process, options)))
        raise SystemExit
    measured = run(options)
    harness.print_table("table: seconds to the same accuracy", measured)
    print(f"written to {harness.write_json('table', options.rounds, measured)}")
