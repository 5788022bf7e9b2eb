"""Error classes against those of Flax: names, constructors, opening sentences."""

from __future__ import annotations

import inspect
import re

import flax.linen
import jax
import jax.numpy as jnp
import pytest

import linsey.errors as errors
import linsey.linen

flax_errors = pytest.importorskip("flax.errors")

NAMES = [
    name
    for name, value in vars(flax_errors).items()
    if inspect.isclass(value) and issubclass(value, Exception)
]

SAMPLES = {
    "annotations": "{'name': str}",
    "scope_path": "/encoder/Dense_0",
    "value_shape": (784, 128),
    "init_shape": (28, 128),
    "variables": {"params": {"kernel": 0}},
}


def positional(function) -> list[inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


@pytest.mark.parametrize("name", NAMES)
def test_constructor_takes_the_arguments_of_flax(name):
    theirs = positional(getattr(flax_errors, name))
    ours = positional(getattr(errors, name))
    assert [p.name for p in ours[: len(theirs)]] == [p.name for p in theirs]
    assert [p.default for p in ours[: len(theirs)]] == [p.default for p in theirs]
    assert all(p.default is not p.empty for p in ours[len(theirs) :])


@pytest.mark.parametrize("name", NAMES)
def test_bases_agree(name):
    assert issubclass(getattr(errors, name), errors.FlaxError)
    assert issubclass(getattr(flax_errors, name), flax_errors.FlaxError)


# Where the sentence of Flax is ungrammatical or a detail of its own, ours differs.
REWORDED = {"LazyInitError", "CursorFindError"}


@pytest.mark.parametrize("name", sorted(set(NAMES) - REWORDED))
def test_programs_that_match_the_first_sentence_still_do(name):
    arguments = [
        SAMPLES.get(p.name, f"<{p.name}>")
        for p in positional(getattr(flax_errors, name))
        if p.default is p.empty
    ]
    sentence = str(getattr(flax_errors, name)(*arguments)).split(". ")[0]
    sentence = sentence.split(" (https://")[0].rstrip(".")
    assert str(getattr(errors, name)(*arguments)).startswith(sentence)


KEY, X = jax.random.key(0), jnp.ones((2, 3))


def made(nn, body):
    """Return a module whose compact call is `body`."""
    return type("M", (nn.Module,), {"__call__": nn.compact(body)})()


def twice(first, second):
    def body(module, x):
        for kind in (first, second):
            if kind == "param":
                module.param("a", jax.nn.initializers.ones, ())
            elif kind == "layer":
                module.dense(2, name="a")(x)
            else:
                module.variable(kind, "a", jnp.zeros, ())

    def run(nn):
        module = made(nn, body)
        type(module).dense = nn.Dense
        module.init(KEY, X)

    return run


MISTAKES = {
    "no key": lambda nn: nn.Dense(2).init({}, X),
    "no key for a stream": lambda nn: nn.Dropout(0.5).apply({}, X, deterministic=False),
    "no key below": lambda nn: nn.Sequential([nn.Dense(2)]).init({"a": KEY}, X),
    "a key that is none": lambda nn: nn.Dense(2).init({"params": "s"}, X),
    "a key of apply that is none": lambda nn: nn.Dense(2).apply({}, X, rngs={"a": 3}),
    "a bound key that is none": lambda nn: nn.Dense(2).bind({}, rngs={"a": 3}),
    "two parameters": twice("param", "param"),
    "a parameter and a variable": twice("param", "params"),
    "two variables of params": twice("params", "params"),
    "two variables": twice("c", "c"),
    "a parameter and a layer": twice("param", "layer"),
    "a layer and a variable": twice("layer", "c"),
    "two layers": twice("layer", "layer"),
    "no call": lambda nn: type("E", (nn.Module,), {})().init(KEY),
    "a call unbound": lambda nn: nn.Dense(2)(X),
    "keys unbound": lambda nn: nn.Dense(2).make_rng("a"),
    "a query unbound": lambda nn: nn.Dense(2).has_rng("a"),
    "variables unbound": lambda nn: nn.Dense(2).variables,
    "sowing unbound": lambda nn: nn.Dense(2).sow("a", "b", 1),
    "a parent of no kind": lambda nn: nn.Dense(2, parent=3),
    "params in params": lambda nn: nn.Dense(2).apply({"params": {"params": {}}}, X),
    "no dictionary": lambda nn: nn.Dense(2).apply({"params": 3}, X),
    "a method that is none": lambda nn: nn.Dense(2).init(KEY, X, method=3),
    "a layer in no setup": lambda nn: nn.Dense(2).init(
        KEY, X, method=lambda self, x: nn.Dense(2)(x)
    ),
    "another width": lambda nn: nn.Dense(2).apply(
        {"params": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}}, X
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_refused_in_the_words_of_flax(name):
    caught = []
    for nn in (flax.linen, linsey.linen):
        try:
            MISTAKES[name](nn)
        except Exception as error:
            caught.append(error)
    theirs, ours = caught
    names = [cls.__name__ for cls in type(ours).__mro__]
    assert type(theirs).__name__ in names
    sentence = re.split(r"\. |\.?\s*\(https", str(theirs))[0].rstrip(". ")
    assert sentence in str(ours)
