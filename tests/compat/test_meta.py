"""Boxes against those of Flax: names, signatures, results of every operation."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from linsey.core import meta as ours

theirs = pytest.importorskip("flax.core.meta")

# Conversion to and from NNX; linsey has no NNX.
ABSENT = {"to_nnx_metadata", "from_nnx_metadata"}
STACK = {"partition_name": "s"}


def own_names(module) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and name[0] != "_"
    }


def test_every_public_name_is_there():
    theirs_named = {n for n in own_names(theirs) if len(n) > 1}
    assert theirs_named - {"TAxisMetadata"} <= own_names(ours)
    assert ours.PARTITION_NAME == theirs.PARTITION_NAME
    for cls in ("AxisMetadata", "Partitioned"):
        names = {n for n in dir(getattr(theirs, cls)) if n[0] != "_"}
        assert names - ABSENT <= set(dir(getattr(ours, cls)))


SHARED = sorted(own_names(ours) & own_names(theirs))


@pytest.mark.parametrize("name", [n for n in SHARED if n[0].islower()])
def test_signatures_agree(name):
    mine = inspect.signature(getattr(ours, name)).parameters.values()
    other = inspect.signature(getattr(theirs, name)).parameters.values()
    assert [(p.name, p.default) for p in mine] == [(p.name, p.default) for p in other]


OPERATIONS = {
    "add": lambda m, box: box.add_axis(1, STACK),
    "add far": lambda m, box: box.add_axis(4, STACK),
    "add unnamed": lambda m, box: box.add_axis(0, {"partition_name": None}),
    "add and remove": lambda m, box: box.add_axis(0, STACK).remove_axis(0, STACK),
    "tree": lambda m, box: m.add_axis({"a": box, "b": 1}, 0, STACK),
    "unbox": lambda m, box: m.unbox({"a": m.Partitioned(box, ("y",))}),
    "replace": lambda m, box: m.replace_boxed({"a": box, "b": 1}, {"a": 2, "b": 3}),
    "specs": lambda m, box: m.get_partition_spec({"a": box, "b": jnp.ones(2), "c": 3}),
    "shardings": lambda m, box: m.get_sharding(
        {"a": box, "b": jnp.ones(2)}, Mesh(np.array(jax.devices()[:1]), ("x",))
    ),
    "init": lambda m, box: m.with_partitioning(jax.nn.initializers.ones, ("x",))(
        jax.random.key(0), (2,)
    ),
    "paths": lambda m, box: jax.tree_util.tree_flatten_with_path(box),
    "no name": lambda m, box: box.add_axis(0, {}),
    "wrong name": lambda m, box: box.remove_axis(0, STACK),
    "wrong tree": lambda m, box: m.replace_boxed({"a": box}, {"b": 1}),
    "abstract": lambda m, box: m.AxisMetadata(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_agree(name):
    def run(module):
        try:
            box = module.Partitioned(jnp.ones((2, 3)), ("x", None))
            return repr(OPERATIONS[name](module, box))
        except Exception as error:
            kinds = (ValueError, TypeError, AssertionError)
            names = [cls.__name__ for cls in kinds if isinstance(error, cls)]
            return names or type(error).__name__

    found, expected = run(ours), run(theirs)
    if isinstance(expected, list):  # what catches the error of Flax catches ours
        assert set(expected) <= set(found)
    else:
        assert found == expected


def test_an_axis_added_at_the_end_is_named_at_the_end_here():
    mine = ours.Partitioned(0, ("x", None)).add_axis(-1, STACK)
    other = theirs.Partitioned(0, ("x", None)).add_axis(-1, STACK)
    assert mine.names == ("x", None, "s") and other.names == ("x", "s", None)
