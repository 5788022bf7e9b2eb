"""`linsey.load`: the model of a run as a function, with what belongs to it."""

import json

import jax
import numpy as np
import pytest

import linsey
from linsey.errors import InputError
from tests.app.served import SPECIES, pixels, table_rows, write_table


@pytest.fixture(scope="module")
def model(image_run):
    return linsey.load(image_run)


@pytest.fixture(scope="module")
def images():
    return np.stack([pixels(kind % 2, 70 + kind) for kind in range(5)])


def test_predictions_are_the_softmax_of_apply(model, images):
    x = (images - model.standardizer.mean) / model.standardizer.std
    logits = np.asarray(model.apply(model.variables, x.astype("f4")), float)
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    found = model.predict(images)
    np.testing.assert_allclose(found.probabilities, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.logits, logits, rtol=0, atol=1e-5)
    names = ["left, dark", "right"]
    assert model.class_names == tuple(names)
    assert found.class_names == [names[i] for i in expected.argmax(1)]


def test_apply_is_pure(model, images):
    x = model.preprocess(images)
    assert (x.dtype, x.shape) == (np.float32, images.shape)
    eager = model.apply(model.variables, x)
    compiled = jax.jit(model.apply)(model.variables, x)
    np.testing.assert_allclose(compiled, eager, rtol=0, atol=1e-5)
    by_one = jax.vmap(lambda one: model.apply(model.variables, one[None])[0])(x)
    np.testing.assert_allclose(by_one, eager, rtol=0, atol=1e-5)
    gradient = jax.grad(lambda x: model.apply(model.variables, x).sum())(x)
    assert np.abs(gradient).max() > 0


def test_batches_of_any_size_give_the_same(model, images):
    whole = model.predict(images).probabilities
    for size in (1, 2, 3):
        parts = model.predict(images, batch_size=size).probabilities
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-6)
    assert model.predict(images[:0]).probabilities.shape == (0, 2)


def test_what_belongs_to_it_is_that_of_the_run(image_run, table_run, model):
    assert model.config.image_size == 8 and model.shape == (8, 8, 3)
    assert set(model.variables) == {"params", "batch_stats"}
    table = linsey.load(table_run)
    assert table.class_names == SPECIES
    assert table.feature_names == (
        "year", "size", 'color, or none=dark "blue"', "color, or none=red",
    )  # fmt: skip
    assert repr(table) == "<mlp of step 6: examples (4,) to 2 classes>"


def test_files_are_read_as_the_command_reads_them(linsey, table_run, tmp_path):
    import linsey as package

    path = write_table(tmp_path / "new.csv", table_rows(6, seed=8))
    lines = linsey("predict", table_run, "new.csv", "--json").out.splitlines()
    found = package.load(table_run).predict(path)
    records = [json.loads(line) for line in lines]
    assert [record["class"] for record in records] == found.class_names
    np.testing.assert_allclose(
        [record["probability"] for record in records], found.probabilities.max(1)
    )
    with pytest.raises(InputError, match="a value is missing"):
        package.load(table_run).predict(path, missing="refuse")


def test_a_step_can_be_chosen(table_run):
    first, last = sorted((table_run / "checkpoints").iterdir())
    number = int(first.name.rpartition("_")[2])
    assert linsey.load(table_run).step == int(last.name.rpartition("_")[2])
    assert linsey.load(table_run, step=number).step == linsey.load(first).step == number
    record = linsey.load(table_run).metadata.cursor
    assert linsey.load(table_run, best=True).step == record.best_step
    with pytest.raises(InputError, match="need a run"):
        linsey.load(first, best=True)
    with pytest.raises(InputError, match="no such folder"):
        linsey.load(table_run / "nothing")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((8, 8, 3)), r"one example is x\[None\]"),
        (np.zeros((2, 3, 8, 8)), r"expected \(examples, 8, 8, 3\)"),
        (np.full((1, 8, 8, 3), np.nan), r"x\[0, 0, 0, 0\]: not a finite number"),
        (np.array([["a"]]), "not numbers"),
        (np.full((1, 8, 8, 3), 1e300), "example 0: the values are too large"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(model, x, words):
    with pytest.raises(InputError, match=words):
        model.predict(x)
