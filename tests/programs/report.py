"""What a program found, written where the test that ran it looks for it."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

found: dict[str, Any] = {}


def model(
    name: str,
    module: Any,
    *args: Any,
    keys: tuple[str, ...] = ("params", "dropout"),
    grads: bool = True,
    compiled: bool = True,
    method: Any = None,
    **kwargs: Any,
) -> Any:
    """Notes what a Linen module does: variables, outputs, new state and gradients.

    Returns the variables.
    """
    rngs = {key: jax.random.PRNGKey(i) for i, key in enumerate(keys)}
    compile = jax.jit if compiled else lambda function: function
    variables = compile(lambda: module.init(rngs, *args, method=method, **kwargs))()
    found[name + "_variables"] = variables
    params = variables.get("params", {})
    state = {key: variables[key] for key in variables if key != "params"}

    def loss(params: Any) -> Any:
        outputs = module.apply(
            {"params": params, **state},
            *args,
            rngs={key: rngs[key] for key in rngs if key != "params"},
            mutable=[*state, "intermediates"],
            method=method,
            **kwargs,
        )
        leaves = [
            jnp.abs(leaf) for leaf in jax.tree.leaves(outputs[0]) if is_inexact(leaf)
        ]
        return sum((jnp.square(leaf).mean() for leaf in leaves), jnp.zeros(())), outputs

    if grads and params:
        slopes, found[name] = compile(jax.grad(loss, has_aux=True))(params)
        found[name + "_grads"] = slopes
    else:
        found[name] = compile(loss)(params)[1]
    return variables


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is of real or complex numbers."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def save(**trees: Any) -> None:
    """Writes every array of some trees, named by its path, to the file of the test."""
    arrays = {}
    for name, tree in {**found, **trees}.items():
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            if jnp.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            arrays[name + jax.tree_util.keystr(path)] = np.asarray(leaf)
    np.savez(sys.argv[1], **arrays)
