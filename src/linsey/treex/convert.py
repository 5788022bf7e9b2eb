"""Both faces meet: Linen modules with variables as objects, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from linsey.errors.treex import NoLinenTwinError
from linsey.treex.nn.flax_module import FlaxModule
from linsey.treex.utils import as_key


def from_linen(
    module: Any,
    variables: Mapping[str, Any],
    *,
    key: int | jax.Array = 0,
    **options: Any,
) -> FlaxModule:
    """An initialized object of a Linen module and its variables.

    The arrays are shared, not copied. `to_linen` gives module and variables back.

    Args:
        module: any Linen module.
        variables: its variables by collection, as `init` returns them.
        key: where the random keys of calls come from.
        **options: further arguments of `FlaxModule`, for example `rngs`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn, linsey.treex as tx
        >>> module = nn.Dense(3)
        >>> variables = module.init(jax.random.key(0), jnp.ones((1, 2)))
        >>> model = tx.from_linen(module, variables)
        >>> model(jnp.ones((5, 2))).shape
        (5, 3)
        >>> model.to_linen()[1]["params"]["kernel"] is variables["params"]["kernel"]
        True
    """
    made = FlaxModule(module, variables=variables, **options)
    # Nothing is left to initialize but the keys: no call is needed.
    return made.init(as_key(key))


def to_linen(obj: Any) -> tuple[Any, dict[str, Any]]:
    """The Linen module of an object and its variables, whose arrays are shared.

    Args:
        obj: a `FlaxModule`, a layer, or a `Sequential` of these.

    Raises:
        NoLinenTwinError: its call is a program that nothing translates.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> module, variables = tx.to_linen(tx.Linear(3).init(0, jnp.ones((1, 2))))
        >>> type(module).__name__, sorted(variables["params"])
        ('Dense', ['bias', 'kernel'])
    """
    if not hasattr(obj, "to_linen"):
        raise NoLinenTwinError(obj)
    return obj.to_linen()
