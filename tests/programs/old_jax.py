"""Names that JAX removed and old packages use, given back for Flax and linsey alike.

Programs import this module first; `pytest -p old_jax` does for tests of a package.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def give(module, name, value):
    """Sets a name where JAX no longer has it."""
    try:
        getattr(module, name)
    except AttributeError:
        setattr(module, name, value)


for name in (
    "map",
    "leaves",
    "structure",
    "flatten",
    "unflatten",
    "reduce",
    "transpose",
):
    give(jax, "tree_" + name, getattr(jax.tree_util, "tree_" + name))
give(jax, "tree_multimap", jax.tree_util.tree_map)
give(jax.tree_util, "tree_multimap", jax.tree_util.tree_map)
give(jax.random, "KeyArray", jax.Array)
give(jax.random, "PRNGKeyArray", jax.Array)
give(jnp, "DeviceArray", jax.Array)
give(jnp, "product", jnp.prod)
give(jnp, "alltrue", jnp.all)
give(jnp, "sometrue", jnp.any)
give(jnp, "row_stack", jnp.vstack)
give(jnp, "in1d", jnp.isin)
give(jnp, "trapz", jnp.trapezoid)
give(jax, "ShapedArray", jax.core.ShapedArray)

_clip = jnp.clip


@functools.wraps(_clip)
def clip(arr=None, /, min=None, max=None, **old):
    """`jnp.clip` under its old keywords as well."""
    return _clip(old.get("a", arr), old.get("a_min", min), old.get("a_max", max))


jnp.clip = clip


def device_put_sharded(shards, devices):
    """One shard a device, stacked along a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *shards)


def device_put_replicated(x, devices):
    """One copy a device, stacked along a new first axis."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * len(devices)), x)


give(jax, "device_put_sharded", device_put_sharded)
give(jax, "device_put_replicated", device_put_replicated)
give(np, "product", np.prod)


def pytest_configure(config):
    """Tests for absl's runner read flags that pytest does not parse."""
    try:
        from absl import flags
    except ImportError:
        return
    flags.FLAGS.mark_as_parsed()


from jax._src import core as _core  # noqa: E402

give(jax.core, "pytype_aval_mappings", _core.pytype_aval_mappings)
