"""Statistics of the data in one pass, in little memory, and what is odd in them."""

import subprocess
import sys

import numpy as np
import pytest

from linsey.app import standardizer
from linsey.app.standardizer import Standardizer, first_not_finite
from linsey.errors import InputError

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "uint8": RANDOM.integers(0, 256, (300, 4, 4, 3), np.uint8),
    "int64": RANDOM.integers(-(2**62), 2**62, (500, 3)),
    "float32": RANDOM.normal(5, 3, (1000, 7)).astype("f4"),
    "float16": RANDOM.normal(5, 3, (1000, 2)).astype("f2"),
    "bool": RANDOM.integers(0, 2, (500, 3)).astype(bool),
    "times": RANDOM.integers(0, 10**6, (500, 1)) + 1_700_000_000 * 10**9,
    "one": np.ones((1, 3)),
}


@pytest.mark.parametrize("block", [1, 40, 10**9])
@pytest.mark.parametrize("name", ARRAYS)
def test_moments_are_those_of_numpy(monkeypatch, name, block):
    monkeypatch.setattr(standardizer, "_BLOCK", block)
    x = ARRAYS[name]
    axes = tuple(range(x.ndim - 1))
    values = x.astype(np.float64)
    shifted = values - values.reshape(-1, x.shape[-1])[0]
    found, deviation = Standardizer.fit(x), shifted.std(axes)
    np.testing.assert_allclose(found.mean, x.mean(axes, dtype=float), rtol=1e-12)
    np.testing.assert_allclose(found.std, np.where(deviation, deviation, 1), rtol=1e-11)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_batch_is_standardized_in_float64_whatever_the_blocks(monkeypatch, name):
    """The bits are those of the formula, so that runs resume to the same ones."""
    x = ARRAYS[name]
    fitted = Standardizer.fit(x)
    expected = ((x - fitted.mean) / fitted.std).astype(np.float32)
    for block in (1, 50, 10**9):
        monkeypatch.setattr(standardizer, "_BLOCK", block)
        assert fitted(x).tobytes() == expected.tobytes()
        assert fitted(x[:0]).shape == x[:0].shape


@pytest.mark.parametrize("value", [0.1, 1e30, -3, 2**62 + 1])
def test_a_feature_that_does_not_vary_becomes_zero(value):
    x = np.stack([np.full(1001, value), np.arange(1001)], 1)
    fitted = Standardizer.fit(x)
    assert fitted.is_constant.tolist() == [True, False] and fitted.std[0] == 1
    assert not fitted(x)[:, 0].any()


def test_values_that_are_too_large_can_be_rescaled():
    x = np.asarray([[1e200], [-1e200], [3e200]])
    with pytest.raises(InputError, match=r"feature 0: the values .*\(rescale them\)"):
        Standardizer.fit(x)
    assert np.isfinite(Standardizer.fit(x / 1e200)(x / 1e200)).all()


def told(x, names=()):
    return Standardizer.fit(x).oddities(names)


def test_features_that_say_nothing_are_named_in_one_line():
    x = RANDOM.normal(size=(20, 6))
    assert told(x) == []
    x[:, 4] = 7
    same = "the same in all of the training data: nothing can be learned from it"
    assert told(x) == [f"feature 4 is {same}"]
    assert told(x, "abcdef") == [f"feature e is {same}"]
    assert Standardizer.fit(x).oddities((), "channel") == [f"channel 4 is {same}"]
    x[:, 1] = 0
    assert told(x) == [f"features 1 and 4 are {same}"]
    x[:, 2:] = 0
    assert told(x) == [f"features 1, 2, 3 and 2 more are {same}"]


def test_features_of_enormous_scale_are_named_in_one_line():
    x = RANDOM.normal(size=(20, 3))
    x[3, 1] = 1e30
    (line,) = told(x, "abc")
    assert line == (
        "feature b is of enormous scale (2.2e+29): is it a mark for missing values, or "
        "a number that only names an example?"
    )
    x[:, 1] = 1e30
    assert len(told(x)) == 2


@pytest.mark.slow
def test_the_command_warns_of_odd_features_and_labels(linsey, tmp_path):
    x = RANDOM.normal(size=(40, 3))
    x[:, 2] = 1
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(40) % 2 + 1)
    options = ("--model", "mlp", "--width", 1, "--epochs", 1, "--out", "run")
    result = linsey("train", "--data", "a.npz", *options)
    assert result.code == 0
    assert result.err.splitlines() == [
        "linsey: warning: y: the labels 1, 2 are taken as 2 classes (--classes 3 takes "
        "them as class numbers)",
        "linsey: warning: feature 2 is the same in all of the training data: nothing "
        "can be learned from it",
    ]
    shown = linsey("eval", "run")
    assert shown.code == 0 and shown.err == ""


def test_the_first_value_that_is_not_finite_is_found(monkeypatch):
    monkeypatch.setattr(standardizer, "_BLOCK", 6)
    x = np.zeros((10, 3))
    assert first_not_finite(x) is None
    x[7, 2] = np.inf
    x[9, 0] = np.nan
    assert first_not_finite(x) == (7, 2)
    assert first_not_finite(x.astype(bool)) is None


PEAK = """
import resource, sys
import numpy as np
from linsey.app.config import DataOptions
from linsey.app.readers import load
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
data = load(DataOptions(data=sys.argv[1]))
data.standardizer.check(data.x_test)
data.standardizer(data.x_train[:64])
print(peak() - before)
"""


def test_loading_takes_little_more_than_the_memory_of_the_data(tmp_path):
    x = RANDOM.integers(0, 256, (20_000, 32, 32, 3), np.uint8)  # 61 MB
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(20_000) % 10)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "a.npz")]
    needed = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert needed < 1.5 * x.nbytes
