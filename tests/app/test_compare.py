import os
import re
import signal

import numpy as np
import pytest

from linsey.app import metrics_log, steps
from linsey.app.compare import _thinned, accuracy_table, milestone_table, variants
from linsey.app.conclusion import conclude
from linsey.app.config import TrainConfig
from tests.app.runs import SMALL, evaluations


@pytest.mark.slow
def test_comparison_stopped_and_resumed(linsey, blobs, tmp_path, monkeypatch):
    """Stopped in its second run, it goes on there and ends with tables and a page."""
    calls = 0
    train_step = steps.train_step

    def interrupted(state, *batch):
        nonlocal calls
        calls += 1
        if calls == 11:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(state, *batch)

    monkeypatch.setattr(steps, "train_step", interrupted)
    options = ("train", "--data", blobs, *SMALL, "--eval-every", 3, "--out", "c")
    first = linsey(*options, "--compare", "--compare-factors", 1)
    assert first.code == 75
    runs = {path.name for path in (tmp_path / "c").iterdir() if path.is_dir()}
    assert runs == {"batch-lr0.2", "none-lr0.2"}
    result = linsey("train", "--resume", "--out", "c")
    assert result.code == 0
    assert calls == 16  # no step was done twice
    assert re.search(r"step.*batch, lr 0.2.*none, lr 0.2", result.out)
    assert "steps until a test accuracy is reached" in result.out
    histories = [evaluations(tmp_path / "c" / name) for name in sorted(runs)]
    assert [step for step, _, _ in histories[0]] == [0, 3, 6, 8]
    last = [f"{history[-1][2]:.4f}" for history in histories]
    assert re.search(rf"│ 8 +│ {last[0]} +│ {last[1]} ", result.out)
    told = result.out.splitlines()
    assert [line[:10] for line in told if line.startswith("run ")] == [
        "run 1 of 2", "run 2 of 2",
    ]  # fmt: skip
    assert len(told) < 40
    (conclusion,) = [
        line for line in told if line.startswith("Normalization (batch) was ahead")
    ]
    page = (tmp_path / "c" / "report.html").read_text()
    assert conclusion in page
    assert "data:image/png;base64," in page
    assert f'<td class="number">{last[0]}</td>' in page
    assert (tmp_path / "c" / "curves.png").exists()


def test_variants_differ_in_norm_and_learning_rate_only():
    config = TrainConfig(lr=0.5, norm="layer", compare=True, compare_factors=(1, 2, 1))
    found = variants(config, examples=1438)
    assert [(each.norm, each.lr) for each in found] == [
        ("layer", 0.5), ("none", 0.5), ("layer", 1.0), ("none", 1.0),
    ]  # fmt: skip
    assert all(each.seed == config.seed and not each.compare for each in found)
    assert found[0].eval_every == 5  # four times an epoch of 22 steps
    assert variants(TrainConfig(norm="none"), 1438)[0].norm == "batch"


def history(values):
    return [{"kind": "eval", "step": step, "accuracy": v} for step, v in values.items()]


def test_tables_of_known_histories():
    histories = {
        (0.1, "batch"): history({0: 0.1, 5: 0.85, 10: 0.96}),
        (0.1, "none"): history({0: 0.1, 10: 0.5}),
    }
    table = accuracy_table(histories)
    assert table.headers == ["step", "batch, lr 0.1", "none, lr 0.1"]
    assert table.rows == [
        ["0", "0.1000", "0.1000"], ["5", "0.8500", ""], ["10", "0.9600", "0.5000"],
    ]  # fmt: skip
    assert milestone_table(histories).rows == [
        ["0.5", "5", "10"], ["0.8", "5", "never"], ["0.9", "10", "never"],
        ["0.95", "10", "never"], ["0.98", "never", "never"],
    ]  # fmt: skip


def test_the_conclusion_is_fair_to_both_sides():
    curves = {
        (0.1, "batch"): [(0, 0.1), (10, 0.4)],
        (0.1, "none"): [(0, 0.1), (5, 0.6), (10, 0.9)],
        (1.0, "batch"): [(0, 0.1), (10, 0.45)],
        (1.0, "none"): [(0, 0.1), (10, 0.45)],
    }
    assert conclude(curves) == (
        "Normalization (batch) was ahead at 0 of 2 learning rates and behind at 1: "
        "at its best it reached a test accuracy of 0.4500 (lr 1), without it the best "
        "was 0.9000 (lr 0.1)."
    )
    curves[1.0, "batch"] = []  # it ended before it was evaluated
    assert "ahead at 0 of 2 learning rates and behind at 2" in conclude(curves)


def test_long_tables_are_thinned_at_the_end():
    steps = list(range(0, 500, 5))
    shown = _thinned(steps)
    assert (shown[0], shown[-1]) == (steps[0], steps[-1])
    assert len(shown) <= 16
    assert np.all(np.diff(np.diff(shown)) >= -5)


@pytest.mark.slow
def test_batch_normalization_trains_sooner_and_at_any_learning_rate(linsey, tmp_path):
    """The claim of the 2015 paper, on the digits."""
    linsey("train", "--model", "mlp", "--depth", 4, "--epochs", 5, "--compare",
           "--compare-factors", 0.1, 1, 10, "--out", "c")  # fmt: skip
    rates = ("0.005", "0.05", "0.5")
    accuracy = {
        (name, rate): [
            record["accuracy"]
            for record in metrics_log.read(
                tmp_path / "c" / f"{name}-lr{rate}" / "metrics.jsonl"
            )
            if record["kind"] == "eval"
        ]
        for name in ("batch", "none")
        for rate in rates
    }
    assert min(accuracy["batch", rate][-1] for rate in rates) > 0.95
    assert min(accuracy["none", rate][-1] for rate in rates) < 0.5
    for rate in rates:  # sooner: above the other over the whole run
        assert np.mean(accuracy["batch", rate]) > np.mean(accuracy["none", rate])
