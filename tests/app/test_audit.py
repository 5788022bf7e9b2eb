"""`linsey audit` on runs and on files of others, and what a run says of itself."""

from __future__ import annotations

import json

import flax.serialization
import numpy as np
import pytest
import safetensors.numpy

from linsey.checkpoint import flatten, write_checkpoint
from linsey.training.contents import Contents, read_contents, write_contents
from tests.app.runs import SMALL, final

MODEL = """
import flax.linen as nn

class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4, use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        return nn.Dense(4)(x)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of eight steps: its folder, and data beside."""
    from linsey.app import cli
    from tests.app.runs import make_blobs

    folder = tmp_path_factory.mktemp("audited")
    x, y = make_blobs()
    np.savez(folder / "blobs.npz", x=x, y=y)
    data = ("--data", folder / "blobs.npz", *SMALL, "--out", folder / "run")
    assert cli.main(["train", *map(str, data)]) == 0
    return folder


def changed(finished, path, change):
    """A step like the last one, with something changed in its statistics."""
    checkpoint = final(finished / "run")
    tree = checkpoint.read()
    change(tree)
    write_checkpoint(path, checkpoint.step, tree, checkpoint.metadata)
    return path


def test_a_run_is_healthy(linsey, finished):
    result = linsey("audit", finished / "run")
    assert result.code == 0
    assert "Audit of 1 batch norm" in result.out
    assert "BatchNorm_0" in result.out
    found = json.loads(linsey("audit", finished / "run", "--json").out)
    assert found["columns"][-1] == "distance"
    assert not [one for one in found["findings"] if one["severity"] == "error"]


def test_an_error_has_a_code_of_its_own(linsey, finished, tmp_path):
    def shift(tree):
        stats = tree["batch_stats"]["BatchNorm_0"]
        stats["mean"] = stats["mean"] + 100

    step = changed(finished, tmp_path / "step_00000008", shift)
    result = linsey("audit", step)
    assert result.code == 3
    assert "error: BatchNorm_0: wrong_statistics" in result.out
    # Without data the numbers are all right.
    assert linsey("audit", step, "--batches", 0).code == 0


def test_a_previous_state_with_the_same_statistics(linsey, finished, tmp_path):
    def move(tree):
        tree["params"]["Dense_0"]["kernel"] = 2 * tree["params"]["Dense_0"]["kernel"]

    step = changed(finished, tmp_path / "step_00000008", move)
    result = linsey("audit", step, "--previous", finished / "run", "--batches", 0)
    assert "error: BatchNorm_0: stale" in result.out
    assert result.code == 3


@pytest.mark.parametrize("kind", ["msgpack", "safetensors", "orbax"])
def test_files_of_others_with_their_model(linsey, finished, tmp_path, kind):
    random = np.random.default_rng(0)
    variables = {
        "params": {
            "Dense_0": {"kernel": random.normal(size=(6, 4)).astype("f4")},
            "BatchNorm_0": {"scale": np.ones(4, "f4"), "bias": np.zeros(4, "f4")},
            "Dense_1": {"kernel": np.ones((4, 4), "f4"), "bias": np.zeros(4, "f4")},
        },
        "batch_stats": {
            "BatchNorm_0": {"mean": np.zeros(4, "f4"), "var": np.ones(4, "f4")}
        },
    }
    path = tmp_path / f"net.{kind}"
    if kind == "msgpack":
        path.write_bytes(flax.serialization.to_bytes(variables))
    elif kind == "safetensors":
        flat = {key.replace("/", "."): a for key, a in flatten(variables).items()}
        safetensors.numpy.save_file(flat, path)
    else:
        import orbax.checkpoint

        orbax.checkpoint.PyTreeCheckpointer().save(path, variables)
    result = linsey("audit", path)
    assert result.code == 3
    assert "error: BatchNorm_0: never_updated" in result.out

    (tmp_path / "net.py").write_text(MODEL)
    named = ("--model", "net.py:Net", "--data", finished / "blobs.npz")
    found = json.loads(linsey("audit", path, *named, "--json").out)
    momentum = found["columns"].index("momentum")
    assert found["rows"][0][momentum] == pytest.approx(0.5)


def test_weights_of_pytorch(linsey, tmp_path):
    flat = {"bn.running_mean": np.zeros(3, "f4"), "bn.running_var": np.ones(3, "f4")}
    safetensors.numpy.save_file(flat, tmp_path / "torch.safetensors")
    result = linsey("audit", "torch.safetensors")
    assert result.code == 3
    assert "error: bn: foreign_layout" in result.out


@pytest.mark.parametrize("kind", ["step", "msgpack", "safetensors", "orbax"])
def test_statistics_are_recalibrated_beside_the_first(linsey, finished, tmp_path, kind):
    def spoil(tree):
        stats = tree["batch_stats"]["BatchNorm_0"]
        stats["mean"] = stats["mean"] + 100

    step = changed(finished, tmp_path / "step_00000008", spoil)
    before = {path: path.read_bytes() for path in step.rglob("*")}
    if kind == "step":
        assert linsey("recalibrate", step, "new").code == 0
        assert linsey("audit", "new").code == 0
        assert "test accuracy" in linsey("eval", "new").out
    else:
        checkpoint = final(finished / "run")
        variables = {k: checkpoint.read()[k] for k in ("params", "batch_stats")}
        spoil(variables)
        write_contents(tmp_path / "old", kind, Contents(variables, separator="."))
        (tmp_path / "net.py").write_text(
            "from linsey.app.config import ModelOptions\n"
            "from linsey.app.models import MLP\n"
            "net = MLP(4, ModelOptions(model='mlp', width=2, depth=1))\n"
        )
        named = ("--model", "net.py:net", "--data", finished / "blobs.npz")
        assert linsey("recalibrate", "old", "new", *named).code == 0
        old, new = (read_contents(tmp_path / n, kind).tree for n in ("old", "new"))
        np.testing.assert_array_equal(
            old["params"]["Dense_0"]["kernel"], new["params"]["Dense_0"]["kernel"]
        )
        assert np.all(np.abs(new["batch_stats"]["BatchNorm_0"]["mean"]) < 50)
    result = linsey("recalibrate", step, "new")
    assert result.error == "new: is there already (name another one, or remove it)"
    assert {path: path.read_bytes() for path in step.rglob("*")} == before


def test_a_folded_run_is_evaluated_without_norms(linsey, finished):
    result = linsey("fold", finished / "run", "folded")
    assert result.code == 0
    assert "BatchNorm_0" in result.out
    before, after = linsey("eval", finished / "run"), linsey("eval", "folded")
    assert after.code == 0
    found, expected = (
        run.out.partition("test accuracy")[0].splitlines() for run in (after, before)
    )
    assert len(found) > 8 and found == expected
    assert "normalization (0 values" in linsey("inspect", "folded").out


def test_modes_are_compared(linsey, finished, tmp_path):
    def spoil(tree):
        stats = tree["batch_stats"]["BatchNorm_0"]
        stats["mean"] = stats["mean"] + 100

    step = changed(finished, tmp_path / "step_00000008", spoil)
    result = linsey("eval", step, "--compare-modes", "--json")
    assert result.code == 0
    found = json.loads(result.out)
    assert [one["layer"] for one in found["findings"]] == ["BatchNorm_0"]
    assert found["rows"][-1][0] == "(output)"
    same = linsey("eval", step, "--compare-modes", "--previous", finished / "run")
    assert same.code == 2
    assert "`previous` has the same parameters" in same.error
    early = finished / "run/checkpoints/step_00000004"
    told = linsey("eval", step, "--compare-modes", "--previous", early)
    assert "stale" in told.out or "slow_momentum" in told.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["run", "--model", "net.py"], "--model: no name of a model"),
        (["run", "--data", "nowhere.npz"], "nowhere.npz: --data: no such file"),
    ],
)
def test_what_cannot_be_audited(linsey, finished, tmp_path, arguments, told):
    (tmp_path / "run").symlink_to(finished / "run")
    result = linsey("audit", *arguments)
    assert result.code == 2
    assert told in result.error


def test_the_page_of_a_run_has_a_section_about_statistics(finished):
    page = (finished / "run" / "report.html").read_text()
    assert "<h2>Statistics</h2>" in page
    assert "<td>BatchNorm_0</td>" in page
