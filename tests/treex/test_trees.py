"""Trees: fields, leaves, structure, and what survives a journey."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import threading
from types import NoneType
from typing import Any, Literal, Optional, Union

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.treex as tx
from linsey.errors.treex import StaticTracerError

Array = Any


class Leaf(tx.Treex):
    """A tree of one parameter and one state."""

    w: Array = tx.Parameter.node()
    n: Array = tx.State.node()

    def __init__(self, w=1.0, n=2, name="leaf"):
        self.w, self.n, self.name = w, n, name


class Pair(tx.Treex):
    """Two trees and a static one."""

    a: Leaf
    b: Leaf = tx.static()
    more: list[Leaf]

    def __init__(self):
        self.a, self.b, self.more = Leaf(), Leaf(), [Leaf(5.0, 6)]


class Annotated(tx.Tree):
    """One field of each annotation."""

    plain: Leaf
    listed: list[Leaf]
    nested: dict[str, list[Leaf]]
    optional: Optional[Leaf]  # noqa: UP045
    either: Leaf | None
    union: Union[int, Leaf]  # noqa: UP007
    many: tuple[Leaf, ...]
    anything: Any
    number: tuple[int, ...]
    word: Literal["a"]


class Outside(tx.Tree):
    """Holds a tree in a field that says nothing of it."""

    child: Any

    def __init__(self, child):
        self.child = child
        self.late = None


def kinds_of(tree):
    with tx.add_field_info():
        return [(leaf.name, leaf.kind) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("mention", ["plain", "listed", "nested", "optional",
                                     "either", "union", "many"])  # fmt: skip
def test_an_annotation_that_mentions_a_tree_makes_a_node(mention):
    assert Annotated().field_metadata[mention] == tx.FieldMetadata(True, NoneType)


@pytest.mark.parametrize("name", ["anything", "number", "word"])
def test_other_annotations_make_static_fields(name):
    assert Annotated().field_metadata[name] == tx.FieldMetadata(False, NoneType)


def test_leaves_are_in_the_order_of_names():
    class Named(tx.Tree):
        z: Any = tx.node(1)
        a: Any = tx.node(2)
        m: Any = tx.node(3)

    assert jax.tree.leaves(Named()) == [2, 3, 1]
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(Named())]
    assert paths == [".a", ".m", ".z"]


def test_paths_lead_to_the_leaves():
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(Pair())]
    assert paths == [".a.n", ".a.w", ".more[0].n", ".more[0].w"]


def test_none_and_nothing_have_no_leaves():
    assert jax.tree.leaves(Leaf(None, tx.Nothing())) == []
    is_nothing = lambda x: isinstance(x, tx.Nothing)  # noqa: E731
    assert jax.tree.leaves([(1, 2), (3, tx.Nothing())], is_leaf=is_nothing) == [
        1, 2, 3, tx.NOTHING]  # fmt: skip
    assert {tx.Nothing(), tx.NOTHING} == {tx.NOTHING}
    assert tx.Nothing()


def test_what_is_declared_static_stays_static():
    pair = Pair()
    doubled = jax.tree.map(lambda x: 2 * x, pair)
    assert (doubled.a.w, doubled.b.w) == (2.0, 1.0)
    assert not pair.eval().field_metadata["b"].node


def test_trees_that_nobody_declared_are_nodes():
    outside = Outside(Leaf())
    outside.extra = Leaf()
    assert "extra" not in outside.field_metadata
    outside.check_metadata_updates()
    assert outside.field_metadata["extra"] == tx.FieldMetadata(True, Leaf)
    assert outside.field_metadata["child"].node
    assert len(jax.tree.leaves(outside)) == 4


def test_a_field_that_becomes_a_tree_becomes_a_node():
    outside = Outside(3)
    assert jax.tree.leaves(outside) == []
    outside.late = outside.child = Leaf()
    assert len(jax.tree.leaves(outside)) == 4


def test_containers_of_trees_without_annotation_are_static():
    outside = Outside([Leaf()])
    assert jax.tree.leaves(outside) == []


def test_flattening_finds_what_is_new():
    tree = Leaf()
    jax.tree.leaves(tree)
    tree.child = Leaf()
    assert len(jax.tree.leaves(tree)) == 4
    assert tree.field_metadata["child"].node
    del tree.child
    tree.other = Leaf()
    assert len(jax.tree.leaves(tree)) == 4


def test_defaults_are_on_the_instance():
    class Base(tx.Tree):
        flag: bool = tx.static(False)
        made: list = tx.node(default_factory=lambda: [1])

    a, b = Base(), Base()
    assert vars(a)["flag"] is False
    assert a.made == [1] and a.made is not b.made

    @dataclasses.dataclass
    class Derived(Base):
        x: int

    assert vars(Derived(3))["flag"] is False


def test_two_defaults_are_refused():
    with pytest.raises(ValueError):
        tx.field(1, node=True, default_factory=int)


def test_a_declared_field_that_was_never_set_says_so():
    class Unset(tx.Module):
        w: Array = tx.Parameter.node()

        def __init__(self):
            pass

    tree = Unset()
    with pytest.raises(AttributeError, match="was declared and never set"):
        _ = tree.w
    assert jax.tree.leaves(tree) == [] and "w" not in vars(tree.copy())
    assert "Unset" in repr(tree.init(0))


def test_subclasses_of_dataclasses_keep_their_fields():
    @dataclasses.dataclass
    class Base(tx.Tree):
        a: Any = tx.Parameter.node(1)
        b: Any = tx.static(2)

    class Derived(Base):
        pass

    assert Derived(3).field_metadata["a"] == tx.FieldMetadata(True, tx.Parameter)
    assert jax.tree.leaves(Derived(3)) == [3]
    doubled = jax.tree.map(lambda x: 2 * x, Base(3, b=7))
    assert (doubled.a, doubled.b) == (6, 7)  # not the default that the class has


def test_subclasses_override_declarations():
    class Derived(Leaf):
        w: Array = tx.State.node()

    assert kinds_of(Derived()) == [("n", tx.State), ("w", tx.State)]


def test_signatures_are_those_of_the_constructor():
    @dataclasses.dataclass
    class Made(tx.Tree):
        x: int
        y: int = tx.node(2)

    assert list(inspect.signature(Made).parameters) == ["x", "y"]
    assert list(inspect.signature(Leaf).parameters) == ["w", "n", "name"]


def test_metadata_is_read_only_and_compared_by_value():
    tree = Leaf()
    with pytest.raises(TypeError):
        tree.field_metadata["w"] = None
    with pytest.raises(AttributeError):
        tree.field_metadata["w"].node = False
    assert {"_field_metadata", "_subtrees"} <= set(tree.field_metadata)
    entry = tx.FieldMetadata(True, int, False)
    assert entry == tx.FieldMetadata(True, int, False)
    assert entry.update(kind=str) == tx.FieldMetadata(True, str, False)


def test_updated_metadata_belongs_to_the_copy():
    tree = Leaf(np.ones(2), np.ones(2))
    other = tree.update_field_metadata("w", node=False)
    assert tree.field_metadata["w"].node and not other.field_metadata["w"].node
    done = jax.jit(lambda t: t)(other)
    assert type(done.w) is np.ndarray and isinstance(done.n, jax.Array)
    with pytest.raises(KeyError):
        tree.update_field_metadata("unknown", node=False)


def test_equal_trees_have_equal_structures():
    traces = []

    @jax.jit
    def f(tree):
        traces.append(1)
        return tree

    f(tx.Linear(3)), f(tx.Linear(3))
    assert len(traces) == 1
    assert jax.tree.structure(tx.Linear(3)) != jax.tree.structure(tx.Linear(4))
    assert jax.tree.map(lambda a, b: a + b, Leaf(1.0), Leaf(2.0)).w == 3.0


@pytest.mark.parametrize("change", [
    lambda m: m.eval(), lambda m: m.freeze(), lambda m: m.init(0)
])  # fmt: skip
def test_modes_are_part_of_the_structure(change):
    module = tx.Module()
    assert jax.tree.structure(module) != jax.tree.structure(change(module))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (np.ones(2), np.ones(2), True),
        (np.ones(2), np.zeros(2), False),
        (np.ones(2), np.ones(3), False),
        (np.ones(2), jnp.ones(2, jnp.int32), False),
        ([np.ones(2)], [np.ones(2)], True),
        ({"x": np.ones(2)}, {"x": np.zeros(2)}, False),
        (object(), object(), False),
        (1, 1.0, True),
    ],
)
def test_static_values_are_compared_without_raising(a, b, same):
    one, two = Leaf(), Leaf()
    one.static, two.static = a, b
    assert (jax.tree.structure(one) == jax.tree.structure(two)) is same


def test_a_traced_value_in_a_static_field_is_named():
    @jax.jit
    def f(tree, x):
        tree.cache = x
        return tree

    with pytest.raises(StaticTracerError, match="`cache`"):
        f(Leaf(), 1.0)


def test_a_static_value_that_is_replaced_is_seen_everywhere():
    tree = jax.tree.map(lambda x: x, Leaf(name="one"))
    assert tree.name == "one"
    tree.name = "two"
    assert jax.tree.map(lambda x: x, tree).name == "two"
    vars(tree)["name"] = "three"
    assert jax.tree.map(lambda x: x, tree).name == "three"
    tree.__dict__ = {**vars(tree), "name": "four"}
    assert jax.tree.map(lambda x: x, tree).name == "four"
    other = jax.tree.map(lambda x: x, tree)
    del other.name
    assert not hasattr(jax.tree.map(lambda x: x, other), "name")
    tree.flag = 1
    tree = jax.tree.map(lambda x: x, tree)
    tree.flag = True
    assert jax.tree.map(lambda x: x, tree).flag is True


def test_an_equal_container_does_not_take_the_place_of_another():
    tree = Leaf()
    tree.table = [1]
    assert jax.tree.map(lambda x: x, tree).table is tree.table
    tree.table = [1]
    assert jax.tree.map(lambda x: x, tree).table is tree.table


def test_static_attributes_that_the_class_has_too():
    @dataclasses.dataclass
    class Shadowed(tx.Tree):
        x: Any = tx.node(1)
        y: int = tx.static(2)

        def method(self):
            return 0

    tree = Shadowed(x=3, y=4)
    tree.method = "mine"
    for _ in range(3):
        tree = jax.jit(lambda t: t)(tree)
    assert (int(tree.x), tree.y, tree.method) == (3, 4, "mine")


def test_classes_with_ways_of_their_own():
    @dataclasses.dataclass(frozen=True)
    class Frozen(tx.Tree):
        x: Any = tx.node(1)
        y: int = tx.static(2)

    class Lookup(tx.Tree):
        def __init__(self):
            self.x = "static"

        def __getattr__(self, name):
            raise AttributeError(f"no {name}")

    frozen = jax.tree.map(lambda x: x + 1, jax.tree.map(lambda x: x, Frozen(3, 4)))
    assert (frozen.x, frozen.y) == (4, 4)
    assert jax.tree.map(lambda x: x, Lookup()).x == "static"


def test_static_values_changed_in_a_compiled_function_come_back():
    tree = Leaf()
    tree.count = 0

    @jax.jit
    def f(tree):
        tree.count += 1
        return tree

    tree = f(f(tree))
    assert tree.count == 2


def test_hashable_is_one_structure_per_object():
    traces = []

    @jax.jit
    def f(tree):
        traces.append(1)
        return tree

    tree = Leaf()
    tree.table = table = tx.Hashable([1])
    assert f(f(tree)).table is table
    tree.table = tx.Hashable([1])
    f(tree)
    assert len(traces) == 2
    with pytest.raises(AttributeError):
        table.value = 1
    assert table != tx.Hashable([1]) and hash(table) != hash(tx.Hashable([1]))


@pytest.mark.parametrize(
    ("opaque", "one", "two", "count"),
    [
        (True, "a", "b", 1),
        (True, np.zeros(2), np.ones(2), 1),
        (True, np.zeros(2), np.zeros(3), 2),
        (lambda a, b: len(a.value) == len(b.value), [1], [2], 1),
        (lambda a, b: len(a.value) == len(b.value), [1], [1, 2], 2),
        (False, "a", "b", 2),
    ],
)
def test_opaque_values_do_not_ask_for_a_new_program(opaque, one, two, count):
    class Hidden(tx.Tree):
        x: Any = tx.node(1)
        hidden: Any = tx.static(opaque=opaque)

    traces = []

    @jax.jit
    def f(tree):
        traces.append(1)
        return tree

    first, second = Hidden(), Hidden()
    first.hidden, second.hidden = one, two
    f(first)
    stale = f(second)
    assert len(traces) == count
    assert stale.hidden is (one if count == 1 else two)
    assert jax.tree.map(lambda x: x, second).hidden is two


def test_opaque_in_an_ordinary_field():
    a, b = Leaf(name=tx.Opaque("a", None)), Leaf(name=tx.Opaque("b", None))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert tx.Opaque(1, None) != 1 and repr(tx.Opaque(1, None)) == "Hidden(1)"
    with pytest.raises(TypeError):
        hash(tx.Opaque(1, None))


def test_modes_of_flattening():
    tree = Leaf(1.0, 2, "x")
    with tx.flatten_mode("all_fields"):
        assert jax.tree.leaves(tree) == [2, "x", 1.0]
        with tx.flatten_mode(None):
            assert len(jax.tree.leaves(tree)) == 3
    with tx.flatten_mode(tx.FlattenMode.no_fields):
        leaves, structure = jax.tree.flatten(tree)
    assert leaves == [] and jax.tree.unflatten(structure, []).w == 1.0
    with pytest.raises(ValueError, match="'normal'"), tx.flatten_mode("other"):
        pass
    assert jax.tree.leaves(tree) == [2, 1.0]


def test_leaves_are_named_with_the_field_that_owns_them():
    tree = Leaf([{"a": 1}, Leaf(3, 4)], 2)
    with tx.add_field_info():
        leaves, structure = jax.tree.flatten(tree)
        back = jax.tree.unflatten(structure, leaves)
    found = [(i.name, i.value, i.kind, i.module is tree) for i in leaves]
    assert found == [
        ("n", 2, tx.State, True),
        ("w", 1, tx.Parameter, True),
        ("n", 4, tx.State, False),
        ("w", 3, tx.Parameter, False),
    ]
    assert back.w[0] == {"a": 1} and back.n == 2
    assert "name='n'" in repr(leaves[0]) and "module=Leaf" in repr(leaves[0])


def test_contexts_belong_to_their_thread():
    seen = {}
    ready, done = threading.Event(), threading.Event()

    def inside():
        with tx.flatten_mode("all_fields"), tx.rng_key(0), tx.add_field_info():
            ready.set()
            done.wait(5)

    thread = threading.Thread(target=inside)
    thread.start()
    ready.wait(5)
    try:
        seen["leaves"] = jax.tree.leaves(Leaf())
        with pytest.raises(RuntimeError):
            tx.next_key()
    finally:
        done.set()
        thread.join()
    assert seen["leaves"] == [2, 1.0]


def test_contexts_end_with_an_exception():
    with pytest.raises(KeyError), tx.flatten_mode("all_fields"), tx.rng_key(0):
        raise KeyError
    assert jax.tree.leaves(Leaf()) == [2, 1.0]
    with pytest.raises(RuntimeError):
        tx.next_key()


def test_anything_can_be_a_leaf_on_the_way_back():
    structure = jax.tree.structure(Leaf())
    for value in (None, "text", object(), jax.ShapeDtypeStruct((2,), jnp.float32)):
        assert jax.tree.unflatten(structure, [value, 1]).n is value


def test_flatten_methods():
    (nodes,), static = Leaf(1.0, 2).tree_flatten()
    assert nodes == {"n": 2, "w": 1.0} and static["name"] == "leaf"
    back = Leaf.tree_unflatten(static, (nodes,))
    assert (back.w, back.n, back.name) == (1.0, 2, "leaf")


def test_sharing_is_not_kept():
    tree = Pair()
    tree.more = [tree.a]
    other = tree.copy()
    assert other.more[0] is not other.a


def test_identity_is_equality_unless_a_dataclass_says_otherwise():
    assert Leaf() != Leaf() and len({Leaf(), Leaf()}) == 2

    @dataclasses.dataclass
    class Compared(tx.Tree):
        x: int = tx.node(1)

    assert Compared() == Compared()


@pytest.mark.parametrize(
    "travel",
    [
        copy.copy,
        copy.deepcopy,
        tx.copy,
        lambda t: pickle.loads(pickle.dumps(t)),
        lambda t: cloudpickle.loads(cloudpickle.dumps(t)),
        lambda t: jax.tree.map(lambda x: x, t),
    ],
    ids=["copy", "deepcopy", "tx.copy", "pickle", "cloudpickle", "map"],
)
def test_trees_survive_a_journey(travel):
    tree = Pair().update_field_metadata("more", node=False)
    tree.a.extra = Leaf()
    tree = jax.tree.map(lambda x: x, tree)
    back = travel(tree)
    assert jax.tree.structure(back.a) == jax.tree.structure(tree.a)
    assert not back.field_metadata["more"].node
    assert back.a.extra.w == 1.0 and back is not tree


def test_copy_builds_containers_anew_and_shares_leaves():
    tree = Leaf(np.ones(1))
    tree.table = {"x": [tree.w]}
    other = tree.copy()
    assert other.w is tree.w and other.table["x"][0] is tree.w
    assert other.table is not tree.table and other.table["x"] is not tree.table["x"]


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
