"""`linsey.fit` is `linsey train` as a function: same bits, same folder, same resume."""

from __future__ import annotations

import numpy as np
import pytest

import linsey
import linsey.linen as nn
from linsey.errors import InputError
from tests.app.runs import SMALL, arrays, assert_same_run, make_blobs

OPTIONS = {"width": 2, "depth": 1, "epochs": 2, "batch_size": 16, "log_every": 2,
           "lr": 0.2}  # fmt: skip


@pytest.fixture
def command(request):
    """The fixture `linsey`, which has the name of the package here."""
    return request.getfixturevalue("linsey")


class Net(nn.Module):
    classes: int
    width: int = 3

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(self.width)(x))
        return nn.Dense(self.classes)(nn.relu(x))


def test_bits_are_those_of_the_command(command, blobs, tmp_path):
    result = command(
        "train", "--data", blobs, "--out", tmp_path / "a", *SMALL, "--checkpoint-every",
        "3",
    )  # fmt: skip
    assert result.code == 0
    fitted = linsey.fit("mlp", blobs, OPTIONS, checkpoint_every=3, out=tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")
    params = fitted.variables["params"]["Dense_0"]["kernel"]
    name = "params/Dense_0/kernel"
    assert np.asarray(params).tobytes() == arrays(tmp_path / "a")[name].tobytes()
    # What it found is what it says of the test part.
    x, _ = make_blobs()
    assert fitted(x[:5]).shape == (5, 4)
    logits = fitted.apply(fitted.variables, fitted.standardize(x[:5]))
    np.testing.assert_allclose(fitted(x[:5]), logits, rtol=1e-5, atol=1e-6)
    # Either continues the other: nothing is left to be done.
    again = linsey.fit("mlp", blobs, out=tmp_path / "a", resume=True)
    assert (again.accuracy, again.loss) == (fitted.accuracy, fitted.loss)
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.slow
def test_arrays_and_objects(tmp_path):
    x, y = make_blobs()
    before = x.copy()
    given = {"epochs": 1, "batch_size": 16, "seed": 3}
    one = linsey.fit(Net(4, width=5), (x, y), given, out=tmp_path / "a")
    np.testing.assert_array_equal(x, before)  # a split moves rows of what is read
    arguments = {"width": 5}
    two = linsey.fit(Net, {"x": x, "y": y}, given, model_arg=arguments,
                     out=tmp_path / "b")  # fmt: skip
    assert one.config.identity == two.config.identity
    assert one.config.model_arg == ("width=5",)
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"epoch": 3}, r"epoch: unknown option \(did you mean `epochs`\?\)"),
        ({"epochs": "3"}, "epochs: value of another type"),
        ({"compare": True}, "compare: not an option of `linsey.fit`"),
        ({"resume": True}, r"resume: which run\? \(name its folder with out=...\)"),
        ({"model_arg": {"act": nn.relu}}, "model_arg.act: an argument that cannot be"),
    ],
)
def test_options_that_are_refused(tmp_path, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=told):
        linsey.fit(Net, make_blobs(), **options)
    assert not list(tmp_path.iterdir())


def test_data_that_are_nothing_of_the_kind(tmp_path):
    with pytest.raises(InputError, match="data: no data: expected"):
        linsey.fit("mlp", 3, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())
