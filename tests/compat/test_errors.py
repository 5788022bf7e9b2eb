"""Error classes against those of Flax: names, constructors, opening sentences."""

from __future__ import annotations

import inspect

import pytest

import linsey.errors as errors

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
REWORDED = {"LazyInitError", "CallSetupUnboundModuleError", "CursorFindError"}


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
