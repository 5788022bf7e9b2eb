"""The errors of objects: provoked by programs, told in full, caught, and pickled."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import linsey.treex as tx
from linsey.errors import LinseyError, treex

X = jnp.ones((2, 3))
LABELS = jnp.array([0, 1])
TEXTS = Path(__file__).parent / "error_messages.txt"


class Model(tx.Module):
    """A module whose compact method builds as many layers as it is told."""

    cache: Any = tx.static()
    missing: Any = tx.Parameter.node()

    @tx.compact
    def __call__(self, x, layers=1, name=None):
        for _ in range(layers):
            x = tx.Linear(3, name=name)(x)
        return x

    @tx.compact
    def again(self, x):
        return self.again(x)

    @tx.compact
    def late(self):
        return self.get_field("missing", lambda: 1)


class Plain(tx.Module):
    """A module without a call."""


def traced_attribute():
    @jax.jit
    def f(model, x):
        model.cache = x
        return model

    return f(Model(), 1.0)


def built_more():
    return Model().init(0, X)(X, layers=2)


def missing_logs():
    losses = tx.metrics.AuxLosses([tx.Named("a", 1.0)])
    losses.update([tx.Named("b", 1.0)])


def accuracy(preds=X, target=LABELS, **options):
    tx.metrics.Accuracy(**options).update(preds, target)


def optimizer(size=1):
    return tx.Optimizer(optax.sgd(0.1)).init([X] * size)


# What each program does wrong, and the builtin error that catches it.
PROGRAMS: dict[str, tuple[Callable[[], object], type[Exception]]] = {
    "a traced value in a static attribute": (traced_attribute, TypeError),
    "a change in place of a tuple": (
        lambda: tx.map(abs, (1,), inplace=True), TypeError),
    "a filter that is a number": (lambda: tx.filter(Model(), 3), TypeError),
    "a merge of other numbers of leaves": (
        lambda: tx.merge([1, 2], [3], flatten_mode="normal", ignore_static=True),
        ValueError),
    "an unknown flatten mode": (
        lambda: tx.filter(Model(), flatten_mode="some"), ValueError),
    "a declared field that was never set": (lambda: Model().missing, AttributeError),
    "a change of a wrapper": (lambda: setattr(tx.Hashable(1), "value", 2),
                              AttributeError),
    "a compact method that builds more": (built_more, ValueError),
    "a compact method that calls itself": (
        lambda: Model().init(0, X, "again"), RuntimeError),
    "a compact object in a static field": (
        lambda: Model().init(0, {"x": X, "name": "cache"}), ValueError),
    "a first run outside of compact methods": (
        lambda: Model().first_run, RuntimeError),
    "get_field of an undeclared field": (
        lambda: Model().get_field("w", lambda: 1), ValueError),
    "get_field after the first run": (
        lambda: Model().init(0, X).late(), RuntimeError),
    "a call before init": (lambda: tx.Linear(3)(X), RuntimeError),
    "a key sequence without a key": (lambda: tx.KeySeq()(), RuntimeError),
    "a table with inputs before init": (
        lambda: tx.Linear(3).tabulate(X), RuntimeError),
    "a table with inputs without a call": (
        lambda: Plain().init(0).tabulate(X), TypeError),
    "init without inputs": (lambda: tx.Linear(3).init(0)(X), RuntimeError),
    "a key outside of init": (tx.next_key, RuntimeError),
    "a compact method outside of init": (lambda: Model()(X), RuntimeError),
    "a key that is text": (lambda: tx.Linear(3).init("seed", X), TypeError),
    "an MLP of no layers": (lambda: tx.MLP([]), ValueError),
    "a program as Linen": (lambda: tx.to_linen(Model()), TypeError),
    "a loss of positional arguments": (
        lambda: tx.losses.MeanSquaredError()(X, X), TypeError),
    "an unknown reduction": (
        lambda: tx.losses.Reduction.validate("product"), ValueError),
    "labels of other examples": (
        lambda: tx.losses.crossentropy(jnp.zeros(3, int), X), ValueError),
    "targets of another rank": (
        lambda: tx.losses.crossentropy(X[None], X), ValueError),
    "weights of another shape": (
        lambda: tx.metrics.Mean()(values=LABELS, sample_weight=X), ValueError),
    "a log that was not configured": (missing_logs, ValueError),
    "configured logs that are missing": (
        lambda: tx.LossAndLogs(aux_losses=1.0).update(), ValueError),
    "an accuracy that is not offered": (
        lambda: accuracy(average="samples"), ValueError),
    "an average without classes": (lambda: accuracy(average="macro"), ValueError),
    "subsets by class": (
        lambda: accuracy(average="macro", num_classes=3, subset_accuracy=True),
        ValueError),
    "an ignored class that is none": (
        lambda: accuracy(ignore_index=3, num_classes=3), ValueError),
    "a top_k of zero": (lambda: accuracy(top_k=0), ValueError),
    "targets that are numbers": (lambda: accuracy(target=X[:, 0]), ValueError),
    "predictions of other examples": (lambda: accuracy(X[:1]), ValueError),
    "labels without a number of classes": (lambda: accuracy(LABELS), ValueError),
    "another number of classes": (lambda: accuracy(num_classes=4), ValueError),
    "a top_k of all classes": (lambda: accuracy(top_k=3), ValueError),
    "an update before init": (
        lambda: tx.Optimizer(optax.sgd(0.1)).update([X], [X]), RuntimeError),
    "an update of nothing": (lambda: optimizer().update([X]), ValueError),
    "an update with other leaves": (
        lambda: optimizer().update([X, X], [X]), ValueError),
}  # fmt: skip


def provoked(name: str) -> Exception:
    program, _ = PROGRAMS[name]
    with pytest.raises(Exception) as caught:
        program()
    return caught.value


def told() -> str:
    errors = {name: provoked(name) for name in PROGRAMS}
    text = "\n".join(
        f"# {name}\n{type(error).__name__}: {error}\n" for name, error in errors.items()
    )
    return re.sub(r": \S*Tracer\S*\.", ": TRACER.", text)  # as JAX calls it now


def test_the_text_of_every_error():
    assert told() == TEXTS.read_text()


@pytest.mark.parametrize("name", PROGRAMS)
def test_errors_have_three_parts_are_caught_and_travel(name):
    error = provoked(name)
    assert isinstance(error, PROGRAMS[name][1])
    if not isinstance(error, AttributeError):  # as `hasattr` expects it
        assert isinstance(error, LinseyError)
        assert all((error.found, error.why, error.fix))
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back)) == (type(error), str(error))


def test_every_class_is_raised_by_a_program():
    classes = {
        name
        for name, value in vars(treex).items()
        if isinstance(value, type) and value.__module__ == treex.__name__
    }
    assert classes <= {type(provoked(name)).__name__ for name in PROGRAMS}


def test_changes_in_place_are_caught_as_either():
    assert issubclass(treex.InPlaceError, TypeError)
    assert issubclass(treex.InPlaceError, ValueError)
