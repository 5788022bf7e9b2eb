"""The face of `linsey.ops`: what it offers, and what its signatures promise."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys

import jax.numpy as jnp
import jaxtyping
import pytest

from linsey import ops
from linsey.ops import ema, merge_moments, moments, normalize
from tests.ops.signatures import resolved_hints

FUNCTIONS = [name for name in ops.__all__ if not inspect.isclass(getattr(ops, name))]
X, CHANNELS = jnp.ones((4, 3)), jnp.ones(3)

# Their files say "array" where others say its shape and dtype.
WITHOUT_SHAPES = {
    "attend", "attention_scores", "avg_pool", "combine_masks", "conv", "conv_transpose",
    "dense", "dense_general", "dequantize", "dropout", "flip_sequences",
    "fp8_scaled_dot_general", "lookup", "make_attention_mask", "make_causal_mask",
    "mask_scores", "max_pool", "min_pool", "pool", "quantize", "softmax",
    "spectral_norm", "weighted_values",
}  # fmt: skip


@pytest.mark.parametrize("name", ops.__all__)
def test_the_face_shows_what_the_files_define(name):
    """Also where a function has the name of its file, and the file is imported."""
    shown = inspect.unwrap(getattr(ops, name))
    file = importlib.import_module(shown.__module__)
    assert getattr(file, name) is shown
    assert inspect.unwrap(getattr(ops, name)) is shown


def annotated_names(annotation: str) -> list[str]:
    nodes = ast.walk(ast.parse(annotation))
    return [node.id for node in nodes if isinstance(node, ast.Name)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_are_complete(name):
    function = inspect.unwrap(getattr(ops, name))
    hints = resolved_hints(function)
    assert hints.keys() == {*inspect.signature(function).parameters, "return"}
    if name in WITHOUT_SHAPES:
        return
    for annotation in inspect.get_annotations(function).values():
        names = annotated_names(annotation)
        assert "Any" not in names
        arrays = [n for n in names if n in ("Array", "ArrayLike")]
        shaped = [n for n in names if n not in arrays and hasattr(jaxtyping, n)]
        assert len(arrays) == len(shaped)


@pytest.mark.parametrize(
    ("parameter", "call"),
    [
        ("var", lambda: normalize(X, CHANNELS, jnp.ones(2))),
        ("bias", lambda: normalize(X, CHANNELS, CHANNELS, CHANNELS, jnp.ones(2))),
        ("epsilon", lambda: normalize(X, CHANNELS, CHANNELS, epsilon=CHANNELS)),
        ("weights", lambda: moments(X, 0, jnp.ones((4, 2)))),
        ("weights", lambda: moments(X[:1], 0, X)),
        ("var", lambda: merge_moments(X, CHANNELS)),
        ("value", lambda: ema(X, CHANNELS, 0.9)),
    ],
)
def test_a_wrong_shape_is_refused(parameter, call):
    with pytest.raises(jaxtyping.TypeCheckError, match=f"parameter '{parameter}'"):
        call()


@pytest.mark.parametrize(
    ("parameter", "call"),
    [
        ("var", lambda: normalize(X, CHANNELS, CHANNELS.astype("complex64"))),
        ("x", lambda: normalize(X == 1, CHANNELS, CHANNELS)),
        ("weights", lambda: moments(X, 0, X.astype("complex64"))),
        ("count", lambda: merge_moments(X, X, X == 1)),
        ("valid", lambda: ema(X, X, 0.9, CHANNELS)),
    ],
)
def test_a_wrong_dtype_is_refused(parameter, call):
    with pytest.raises(jaxtyping.TypeCheckError, match=f"parameter '{parameter}'"):
        call()


def test_the_face_imports_no_library_that_checks_types():
    program = (
        "import sys, linsey.ops\n"
        "print({'jaxtyping', 'beartype'} & set(sys.modules), linsey.ops.moments)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("set() <function moments")
