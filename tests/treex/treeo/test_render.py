"""Trees as dictionaries and as text."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import linsey.treex as tx
from tests.treex.trees import Annotated, Leaf, Pair


def test_to_dict():
    pair = Pair()
    assert pair.to_dict(static_fields=False) == {
        "a": {"n": 2, "w": 1.0},
        "more": [{"n": 6, "w": 5.0}],
    }
    assert pair.to_dict()["b"] == {"n": 2, "name": "leaf", "w": 1.0}
    assert Leaf((1, 2)).to_dict()["w"] == [1, 2]
    typed = pair.to_dict(type_info=True)
    assert typed["__type__"] is Pair and typed["more"][-1] is list
    assert typed["more"][0]["__type__"] is Leaf
    named = pair.to_dict(field_info=True)["b"]["w"]
    assert (named.name, named.value, named.kind) == ("w", 1.0, tx.Parameter)
    assert "_training" in tx.Module().to_dict(private_fields=True)
    assert "_training" not in tx.Module().to_dict()


def test_to_string():
    tree = Leaf(jnp.ones(3), [np.ones(2), (), "x"])
    assert tx.to_string(tree) == "\n".join(
        [
            "Leaf {",
            "    n: list [                            State",
            "        numpy.ndarray((2,), float64),",
            "        tuple [],",
            '        "x",',
            "    ],",
            '    name: "leaf",',
            "    w: jaxlib.ArrayImpl((3,), float32),    Parameter",
            "}",
        ]
    ).replace("list [                            ", "list [" + " " * 30)
    assert repr(tree) == tx.to_string(tree)
    assert "\x1b[2mState" in tree.to_string(color=True)
    assert tx.to_string(Annotated()) == "Annotated {}"
    assert repr(Annotated()).startswith("<")  # a bare tree has no such repr
