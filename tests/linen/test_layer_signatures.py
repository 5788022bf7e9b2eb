"""Layers are built and called as those of Flax: names, order, kinds and defaults."""

from __future__ import annotations

import inspect

import flax.linen as theirs
import pytest

import linsey.linen as ours

LAYERS = [
    *("Conv", "ConvLocal", "ConvTranspose", "Dense", "DenseGeneral", "Dropout"),
    *("Einsum", "Embed", "PReLU", "Sequential"),
    *("Bidirectional", "ConvLSTMCell", "GRUCell", "LSTMCell", "MGUCell"),
    *("OptimizedLSTMCell", "RNN", "SimpleCell", "SpectralNorm", "WeightNorm"),
    *("MultiHeadAttention", "MultiHeadDotProductAttention", "SelfAttention"),
]
FUNCTIONS = [
    ("attention", "combine_masks"),
    ("attention", "dot_product_attention"),
    ("attention", "dot_product_attention_weights"),
    ("attention", "make_attention_mask"),
    ("attention", "make_causal_mask"),
    ("dtypes", "canonicalize_dtype"),
    ("dtypes", "promote_dtype"),
    ("linear", "canonicalize_padding"),
    ("recurrent", "flip_sequences"),
    ("pooling", "avg_pool"),
    ("pooling", "max_pool"),
    ("pooling", "min_pool"),
    ("pooling", "pool"),
]


def parameters(function):
    """Name, kind and default of each parameter; functions and objects by their type."""
    plain = (bool, int, float, str, tuple, type, type(None))
    return [
        (
            parameter.name,
            parameter.kind,
            parameter.default
            if isinstance(parameter.default, plain)
            else getattr(parameter.default, "__name__", None),
        )
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in ("parent", "name")
    ]


@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_the_fields_of_flax(name):
    assert parameters(getattr(ours, name)) == parameters(getattr(theirs, name))


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_called_as_in_flax(name):
    found, expected = (getattr(lib, name).__call__ for lib in (ours, theirs))
    assert parameters(found) == parameters(expected)


@pytest.mark.parametrize(("module", "name"), FUNCTIONS)
def test_functions_are_called_as_in_flax(module, name):
    found, expected = (getattr(getattr(lib, module), name) for lib in (ours, theirs))
    assert parameters(found) == parameters(expected)


@pytest.mark.parametrize(
    "module",
    [
        "activation",
        "attention",
        "combinators",
        "dtypes",
        "initializers",
        "linear",
        "pooling",
        "recurrent",
    ],
)
def test_modules_offer_the_public_names_of_flax(module):
    def offered(lib):
        return {
            name
            for name, value in vars(getattr(lib, module)).items()
            if not name.startswith("_")
            and getattr(value, "__module__", "").startswith(("flax", "jax.nn"))
        }

    imported = {"Module", "compact", "Dense", "T"}
    assert offered(theirs) - imported <= set(dir(getattr(ours, module)))
