"""The moving average that is evaluated in place of the last weights (`--ema`).

Weights and running statistics are averaged alike, so that they nearly match; see
`linsey.batch_stats.ema`. A checkpoint holds both the last weights and, as `average`,
the average: training continues from the former, everything else uses the latter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from linsey.app.metadata import RunMetadata
from linsey.batch_stats.averages import EmaState, ema
from linsey.training.contents import Contents

FIELD = "average"
Variables = dict[str, Any]


def started(variables: Variables, decay: float) -> EmaState:
    """Return an average that has seen no values yet."""
    return ema(decay).init(variables)


def moved(state: EmaState, variables: Variables, decay: float) -> EmaState:
    """Return the average after one more step."""
    return ema(decay).update(variables, state)


def averaged(state: EmaState, variables: Variables) -> Variables:
    """Return the variables to evaluate with.

    Args:
        state: the average.
        variables: the variables of the last step. They determine the dtypes, and are
            returned as long as the average has seen no values.
    """
    weight = jnp.where(state.missing < 1, 1 - state.missing, 1)

    def choose(total: jax.Array, last: jax.Array) -> jax.Array:
        if not jnp.issubdtype(last.dtype, jnp.inexact):
            return total
        average = (total / weight.astype(total.dtype)).astype(last.dtype)
        return jnp.where(state.count > 0, average, last)

    return jax.tree.map(choose, state.total, variables)


def evaluated_contents(contents: Contents) -> Contents:
    """Return a checkpoint with its average in place of the variables.

    Args:
        contents: the contents of a checkpoint; without an average, they are returned
            unchanged.
    """
    tree, config = contents.tree, contents.metadata.get("config")
    is_averaged = isinstance(config, Mapping) and config.get("ema")
    if not is_averaged or {*tree.get(FIELD, ())} != {*EmaState._fields}:
        return contents
    state = EmaState(**tree[FIELD])
    names = [name for name in ("params", "batch_stats") if name in state.total]
    last = {name: jax.tree.map(jnp.asarray, tree.get(name, {})) for name in names}
    found = jax.tree.map(np.asarray, averaged(state, last))
    rest = {name: value for name, value in tree.items() if name != FIELD}
    return dataclasses.replace(contents, tree={**rest, **found})


def without_average(
    contents: Contents, metadata: RunMetadata
) -> tuple[Contents, RunMetadata]:
    """Return a checkpoint and its metadata as those of a run without `--ema`."""
    config = dataclasses.replace(metadata.train_config, ema=0.0)
    recorded = {"config": config.identity, "config_sha256": config.digest}
    contents = dataclasses.replace(
        evaluated_contents(contents), metadata={**contents.metadata, **recorded}
    )
    identity = dataclasses.replace(metadata.config, ema=0.0)
    return contents, dataclasses.replace(
        metadata, config=identity, config_sha256=config.digest
    )
