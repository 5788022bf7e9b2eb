"""`linsey train --weights`: a run begins with weights that something else trained."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest

from linsey import weights
from tests.app.runs import arrays, final
from tests.app.test_convert import MODEL

# So small a rate leaves every weight what it is.
FROZEN = ("--optimizer", "sgd", "--lr", 1e-38, "--weight-decay", 0, "--epochs", 1,
          "--batch-size", 16, "--ema", 0.5)  # fmt: skip


@pytest.fixture
def images(tmp_path):
    drawn = np.random.default_rng(0)
    y = drawn.integers(3, size=80)
    x = (drawn.normal(size=(80, 6, 6, 2)) + y[:, None, None, None]).astype(np.float32)
    np.savez(tmp_path / "images.npz", x=x, y=y)
    (tmp_path / "net.py").write_text(MODEL)
    return ("--data", "images.npz", "--model", "net.py:Net")


def state_dict(classes: int) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(1)

    def array(*shape):
        return drawn.normal(size=shape).astype(np.float32)

    return {
        "conv.weight": array(4, 2, 3, 3),
        "bn.weight": array(4), "bn.bias": array(4),
        "bn.running_mean": array(4), "bn.running_var": np.exp(array(4)),
        "bn.num_batches_tracked": np.array(1234),
        "fc.weight": array(classes, 4), "fc.bias": array(classes),
    }  # fmt: skip


def test_a_run_begins_with_the_weights_and_goes_on_without_the_file(
    linsey, images, tmp_path
):
    theirs = state_dict(3)
    weights.write("theirs.pt", theirs)
    done = linsey("train", *images, *FROZEN, "--weights", "theirs.pt", "--out", "run")
    assert done.code == 0, done.err
    assert "7 arrays loaded into 3 layers (3 by name)" in done.out
    found = arrays(tmp_path / "run")
    np.testing.assert_array_equal(found["params/fc/bias"], theirs["fc.bias"])
    kernel = theirs["conv.weight"].transpose(2, 3, 1, 0)
    for place in "params", "average/total/params":
        assert f"{place}/conv/kernel" in found
    np.testing.assert_array_equal(found["params/conv/kernel"], kernel)
    text = (tmp_path / "run" / "config.toml").read_text()
    assert "weights_sha256" in text and "theirs.pt" in text
    final_step = final(tmp_path / "run").step
    (tmp_path / "theirs.pt").unlink()
    longer = ("--resume", "--epochs", 2, *images[2:], "--out", "run")
    assert linsey("train", *longer).code == 0
    assert final(tmp_path / "run").step == 2 * final_step


def test_a_head_of_another_size_is_refused_and_begins_anew_if_asked(
    linsey, images, tmp_path
):
    theirs = state_dict(5)
    weights.write("theirs.safetensors", theirs)
    options = (*images, *FROZEN, "--weights", "theirs.safetensors", "--out", "run")
    refused = linsey("train", *options)
    assert refused.code == 2 and "`params/fc/kernel`" in refused.error
    assert refused.error.endswith("(--new-head begins with a new layer there)")
    assert not (tmp_path / "run").exists()
    done = linsey("train", *options, "--new-head")
    assert done.code == 0, done.err
    found = arrays(tmp_path / "run")
    assert found["params/fc/kernel"].shape == (4, 3)
    np.testing.assert_array_equal(found["params/bn/scale"], theirs["bn.weight"])


def test_the_command_that_is_suggested_makes_weights_that_fit(linsey, images, tmp_path):
    theirs = {**state_dict(3), "aux.weight": np.ones((7, 4), np.float32)}
    weights.write("theirs.pt", theirs)
    options = (*images, *FROZEN, "--out", "run", "--weights")
    refused = linsey("train", *options, "theirs.pt")
    assert refused.code == 2
    command = shlex.split(re.search("`(linsey convert .*?)`", refused.error)[1])
    assert command[-1] == "THEIRS=OURS"
    done = linsey(*command[1:-1], "aux=")
    assert done.code == 0, done.err
    done = linsey("train", *options, "ours.safetensors")
    assert done.code == 0, done.err
    found = arrays(tmp_path / "run")["params/fc/bias"]
    np.testing.assert_array_equal(found, theirs["fc.bias"])


def test_a_comparison_begins_anew(linsey, images):
    refused = linsey("train", "--compare", "--weights", "theirs.pt")
    assert refused.error == (
        "--compare: compares models that both begin anew (leave --weights out)"
    )


def test_weights_of_another_model_are_refused(linsey, images, tmp_path):
    weights.write("other.npz", {"a.weight": np.ones((2, 3), np.float32)})
    options = (*images, *FROZEN, "--weights", "other.npz", "--out", "run")
    refused = linsey("train", *options, "--new-head")
    assert refused.code == 2 and "--map" in refused.error
    assert not (tmp_path / "run").exists()
    refused = linsey("train", *options[:-4], "--weights", "no.npz", "--out", "run")
    assert refused.code == 2 and "no.npz: no such file" in refused.error


@pytest.mark.slow
def test_a_run_is_what_another_one_begins_with(linsey, images, tmp_path):
    weights.write("theirs.pt", state_dict(3))
    first = (*images, *FROZEN, "--weights", "theirs.pt", "--out", "first")
    assert linsey("train", *first).code == 0
    second = (*images, *FROZEN, "--weights", "first", "--out", "second")
    assert linsey("train", *second).code == 0
    one, other = arrays(tmp_path / "first"), arrays(tmp_path / "second")
    name = "params/conv/kernel"
    np.testing.assert_allclose(one[name], other[name], rtol=1e-6)  # its average


TREEX = """
import jax, linsey.treex as tx

class Net(tx.Module):
    def __init__(self, classes: int):
        self.conv = tx.Conv(4, (3, 3), use_bias=False)
        self.bn, self.fc = tx.BatchNorm(), tx.Linear(classes)

    def __call__(self, x):
        return self.fc(jax.nn.relu(self.bn(self.conv(x))).mean((1, 2)))
"""


@pytest.mark.slow
def test_a_treex_model_begins_with_weights_of_its_own_names(linsey, images, tmp_path):
    (tmp_path / "net.py").write_text(TREEX)
    first = (*images, *FROZEN, "--out", "first")
    assert linsey("train", *first).code == 0
    assert linsey("convert", "first", "all.npz").code == 0
    second = (*images, *FROZEN, "--seed", 1, "--weights", "all.npz", "--out", "second")
    done = linsey("train", *second)
    assert done.code == 0, done.err
    assert "arrays loaded (by the names of the treex model)" in done.out
    one, other = arrays(tmp_path / "first"), arrays(tmp_path / "second")
    kernels = [name for name in one if name.startswith("params") and "kernel" in name]
    assert kernels
    for name in kernels:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6)
    # Arrays of another shape are refused, unless they are of a new head.
    found = weights.read("all.npz")
    name = next(n for n in found if n.startswith("params/fc") and "kernel" in n)
    weights.write("five.npz", {**found, name: np.ones((4, 5), np.float32)})
    options = (*images, *FROZEN, "--weights", "five.npz", "--out", "third")
    refused = linsey("train", *options)
    assert f"`{name}` has the shape (4, 5) instead of (4, 3)" in refused.error
    assert linsey("train", *options, "--new-head").code == 0


def test_a_treex_model_refuses_what_has_other_names(linsey, images, tmp_path):
    (tmp_path / "net.py").write_text(TREEX)
    weights.write("theirs.pt", state_dict(3))
    refused = linsey("train", *images, *FROZEN, "--weights", "theirs.pt", "--out", "a")
    assert refused.code == 2 and "is missing" in refused.error
    assert refused.error.endswith(
        "(a treex model begins with a run of the same model, or with a file of the "
        "same names; only the weights of Linen modules are translated)"
    )
    assert not (tmp_path / "a").exists()
