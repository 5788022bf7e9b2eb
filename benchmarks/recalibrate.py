"""How far recalibrated statistics are from those of all data, by several rules.

The inputs of one layer are linear features of handwritten digits: 1,797 rows in batches
of 256, whose last one has 5. They come shuffled, and sorted by digit, as from a folder
for each class. The figures are the largest errors over the channels against float64
over all rows at once: of the mean, in deviations, and of the variance, relative. Run
with `python -m benchmarks.recalibrate`.

The rules of others are a line of NumPy each, in float64, so that nothing but the rule
is measured; `torch` itself takes part where it is installed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import harness
from linsey import datasets
from linsey.batch_stats import recalibrate

Pair = tuple[np.ndarray, np.ndarray]
BATCH, FEATURES = 256, 16


def batches(is_sorted: bool) -> list[np.ndarray]:
    """Return batches of features, float32."""
    images, labels = datasets.digits()
    images = images.reshape(len(labels), -1)
    generator = np.random.default_rng(0)
    features = images @ generator.normal(size=(images.shape[1], FEATURES)) + 20
    order = generator.permutation(len(features))
    if is_sorted:
        order = np.argsort(labels, kind="stable")
    rows = features[order].astype(np.float32)
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def by_linsey() -> Callable[[list[np.ndarray]], Pair]:
    """Call `recalibrate` on a module of linsey."""
    import linsey.linen as nn

    return lambda data: _recalibrated(nn, data)


def by_linsey_on_flax() -> Callable[[list[np.ndarray]], Pair]:
    """Call `recalibrate` on a module of Flax."""
    import flax.linen as nn

    return lambda data: _recalibrated(nn, data)


def _recalibrated(nn: Any, data: list[np.ndarray]) -> Pair:
    model = nn.BatchNorm()
    variables = model.init(jax.random.key(0), data[0], use_running_average=True)
    stats = recalibrate(model, variables, data)["batch_stats"]
    return np.asarray(stats["mean"]), np.asarray(stats["var"])


def rule_of_update_bn() -> Callable[[list[np.ndarray]], Pair]:
    """Average means and unbiased variances of batches, with equal weights."""
    return functools.partial(_averages, degrees=1)


def rule_of_fvcore() -> Callable[[list[np.ndarray]], Pair]:
    """Average means and biased variances of batches, with equal weights."""
    return functools.partial(_averages, degrees=0)


def _averages(data: list[np.ndarray], degrees: int) -> Pair:
    parts = [x.astype(np.float64) for x in data]
    means = [x.mean(0) for x in parts]
    return np.mean(means, 0), np.mean([x.var(0, ddof=degrees) for x in parts], 0)


def by_torch() -> Callable[[list[np.ndarray]], Pair]:
    """Call `torch.optim.swa_utils.update_bn` itself."""
    import torch  # type: ignore
    from torch.optim.swa_utils import update_bn  # type: ignore

    def run(data: list[np.ndarray]) -> Pair:
        model = torch.nn.BatchNorm1d(FEATURES)
        update_bn(map(torch.tensor, data), model)
        return model.running_mean.numpy(), model.running_var.numpy()

    return run


RULES = {
    "linsey.batch_stats.recalibrate": by_linsey,
    "the same on a module of Flax": by_linsey_on_flax,
    "rule of torch's update_bn": rule_of_update_bn,
    "torch's update_bn": by_torch,
    "rule of fvcore": rule_of_fvcore,
}


def errors(found: Pair, data: list[np.ndarray]) -> tuple[float, float]:
    """Largest error of the mean, in deviations, and relative one of the variance."""
    rows = np.concatenate(data).astype(np.float64)
    mean, var = rows.mean(0), rows.var(0)
    off = np.abs(found[0] - mean) / np.sqrt(var), np.abs(found[1] / var - 1)
    return float(off[0].max()), float(off[1].max())


def run() -> list[harness.Row]:
    """Measure the errors of all rules."""
    orders = {"shuffled": batches(False), "sorted": batches(True)}
    rows = []
    for name, make in RULES.items():
        try:
            rule = make()
        except ImportError as error:
            harness.missing(name, error)
            continue
        for order, data in orders.items():
            found = zip(("mean", "variance"), errors(rule(data), data), strict=True)
            for of, error in found:
                task = f"error of the {of}, {order}"
                rows.append(harness.summarise(task, name, [error], unit=""))
    return sorted(rows, key=lambda row: row.task)


if __name__ == "__main__":
    measured = run()
    harness.print_table("recalibrate: errors against float64", measured)
    print(f"written to {harness.write_json('recalibrate', 1, measured)}")
