"""Private names of Flax that programs use do what Flax's do, by calling both."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections import namedtuple
from collections.abc import Callable
from typing import Any
from unittest import mock

import flax
import flax.core.scope
import flax.jax_utils
import flax.linen
import flax.linen.partitioning
import flax.linen.summary
import flax.training.checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import linsey.core
import linsey.linen
from linsey import compat
from linsey.compat import private
from linsey.compat.adapters import linear, modules, retrace, spmd

KEY = jax.random.key(0)
LIBRARIES = {"flax": flax.linen, "linsey": linsey.linen}
Pair = namedtuple("Pair", "a b")  # noqa: PYI024
X = jax.random.normal(KEY, (4, 3, 2))
MASK = jnp.arange(4)[:, None, None] < 3


def normalized(f: Any, nn: Any, **options: Any) -> Any:
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            mean, var = x.mean((0, 1)) + 1, x.var((0, 1)) + 1
            init = nn.initializers.normal(1.0)
            chosen = {"use_bias": True, "use_scale": True, **options}
            rest = dict(bias_init=init, scale_init=init, param_dtype=jnp.float32)
            args = self, x, mean, var, (0, 1), (-1,)
            dtype = chosen.pop("dtype", None)
            return f(*args, dtype=dtype, epsilon=1e-3, **rest, **chosen)

    return jax.jit(Layer().init_with_output)(KEY, X)


def stacked(context: Any, nn: Any) -> list[Any]:
    seen: list[Any] = [list(context.module_stack)]

    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            stack = context.module_stack
            seen.append([type(module).__name__ for module in stack])
            seen.append((stack[-1] is self, stack[-1].path, bool(stack)))
            before = list(stack)
            stack[:] = [None]
            seen.append(nn.Dense(2).parent)
            stack[:] = before
            stack.append(None)
            seen.append(nn.Dense(2).parent)
            stack.pop()
            seen.append(context.capture_stack[-1] is False)
            return nn.Dense(2)(x)

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Inner()(x)

    x = jnp.ones((1, 2))
    variables = jax.eval_shape(Outer().init, KEY, x)
    run = functools.partial(Outer().apply, capture_intermediates=True)
    jax.eval_shape(run, variables, x)
    return [*seen, len(context.module_stack), jax.tree.map(jnp.shape, variables)]


def call_records(tabulate: Any, nn: Any) -> Any:
    """Return the calls of a model, and the operations of each."""
    is_flax = nn is flax.linen
    module = flax.linen.module if is_flax else modules
    context = module._context if is_flax else modules.context
    adapter = private.load(private.find("flax.linen.summary._get_call_flops") or "")
    flops = flax.linen.summary._get_call_flops if is_flax else adapter

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, factor=1):
            return nn.Dense(2)(x) * factor

    with tabulate():
        jax.eval_shape(lambda: Model().init(KEY, jnp.ones((3, 2)), factor=4))
        calls = sorted(context.call_info_stack[-1].calls, key=lambda call: call.index)
    assert not context.call_info_stack
    return [
        (
            call.index,
            call.path,
            type(call.module).__name__,
            call.method,
            call.args[0].shape,
            str(call.outputs.dtype),
            list(call.rngs),
            *(flops(call, *which) for which in [(True, True), (False, True)]),
        )
        for call in calls
    ]


def call_info(cls: Any, nn: Any) -> Any:
    return list(inspect.signature(cls).parameters)


def table(f: Any, nn: Any) -> Any:
    rows = f(nn.Sequential([nn.Dense(2), nn.relu]), None, False, False, False)(
        KEY, jnp.ones((3, 2))
    )
    return rows.collections, [
        (r.path, r.method, r.inputs.shape, r.size_and_bytes(["params"]), r.flops)
        for r in rows
    ]


def lifted(lift_transform: Any, nn: Any) -> Any:
    pack = importlib.import_module(f"{nn.__name__.partition('.')[0]}.core.lift").pack

    def recompute(fn, prevent_cse):
        def inner(scope_fn, repack_fn, variables, rngs, *args):
            @functools.partial(jax.remat, prevent_cse=prevent_cse)
            def run(variables, rngs, *args):
                scope = scope_fn(variables, rngs)
                return fn(scope, *args), repack_fn(scope)

            return run(variables, rngs, *args)

        return pack(inner, (True,), (True,), (True,))

    def double(module, x):
        return nn.Dense(2, name="inside")(x) * 2

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = lift_transform(recompute, nn.Dense, prevent_cse=False)(3)(x)
            x = lift_transform(recompute, nn.Dense, False, methods=["__call__"])(4)(x)
            return lift_transform(recompute, double, True)(self, x)

    return jax.jit(Model().init_with_output)(KEY, X)


def called_directly(lift_direct_transform: Any, nn: Any) -> Any:
    lift = importlib.import_module(f"{nn.__name__.partition('.')[0]}.core.lift")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            def vjp(fn, scope, x):
                return lift.vjp(fn, scope, x)

            apply = (lambda module, x: module(x),)
            dense = nn.Dense(2)
            y, back = lift_direct_transform(vjp, apply, dense, x, multi_scope=False)
            return y, back(jnp.ones_like(y))[1:]

    return jax.jit(Model().init_with_output)(KEY, X)


def constrained(f: Any, nn: Any) -> Any:
    mesh = Mesh(jax.devices()[:1], ("d",))
    x, spec = jnp.ones((2, 2)), PartitionSpec("d")
    with jax.set_mesh(mesh):
        text = str(jax.make_jaxpr(lambda x: f(x, spec))(x))
    return f(x, spec) is x, f(x, spec, mesh=mesh).sharding, "constraint" in text


def reduced(f: Any, nn: Any) -> Any:
    metadata = importlib.import_module(f"{nn.__name__}.partitioning").AxisMetadata
    a, b = metadata(("a",)), metadata(("b",))
    for mistake, error in [((a, b), ValueError), ((1, a), AssertionError)]:
        with pytest.raises(error):
            f(*mistake)
    with pytest.raises(TypeError):
        f(a, 2)
    return [f(x, a).names for x in (a, None, (), {})]


class _Own:
    pass


def conv(cls: Any, nn: Any) -> Any:
    class Doubled(cls):
        @property
        def shared_weights(self):
            return True

    y, variables = jax.eval_shape(Doubled(2, (3,)).init_with_output, KEY, X)
    is_base = [isinstance(m, cls) for m in (nn.Conv(1, 1), nn.ConvLocal(1, 1), 3)]
    kinds = [issubclass(c, cls) for c in (nn.Conv, Doubled, nn.Dense)]
    strict = isinstance(nn.Conv(1, 1), Doubled)
    return str((y, variables)), is_base, kinds, strict, cls.__name__


def on(*arguments: tuple[Any, ...], **keywords: Any) -> Callable[[Any, Any], Any]:
    """Call the function on each tuple of arguments."""
    return lambda f, nn: [f(*given, **keywords) for given in arguments]


SPECS = [(x,) for x in (None, ("a", None), ("a", 1), [1], "a", (), ("a", ("b",)), 3)]
SPECS.append((PartitionSpec("a"),))
TREE = {"params": {"a": {"k": 1, "b": {"c": 2}}, "d": 3}, "stats": {"a": {"m": 4}}}
PACKED = np.float32([[1.0, 2.0]])

CASES: dict[str, Callable[[Any, Any], Any]] = {
    "linen.normalization._canonicalize_axes": on((3, -1), (3, (2, 0, 2)), (3, [1])),
    "linen.normalization._abs_sq": lambda f, nn: jax.jit(
        lambda x: [f(x), f(x + 1j * x)]
    )(X),
    "linen.normalization._l2_normalize": lambda f, nn: jax.jit(
        lambda x: [f(x), f(x, 1), f(x, (0, 2))]
    )(X),
    "linen.normalization._compute_stats": lambda f, nn: jax.jit(lambda: [
        f(X, (0, 1), None),
        f(X, -1, jnp.float16, use_mean=False),
        f(X.astype(jnp.bfloat16), (0,), None, force_float32_reductions=False),
        f(X, (0, 1), jnp.float32, mask=MASK, use_fast_variance=False),
        f(X + 1j * X, (0, 1), None),
        jax.vmap(lambda x: f(x, (0,), None, axis_name="i"), axis_name="i")(X),
    ])(),
    "linen.normalization._normalize": lambda f, nn: [
        normalized(f, nn),
        normalized(f, nn, use_bias=False, use_scale=False, dtype=jnp.bfloat16),
    ],
    "linen.linear._conv_dimension_numbers": on(((1, 2, 3),), ((1, 2, 3, 4, 5),)),
    "linen.linear._canonicalize_tuple": on((3,), ([3, 4],)),
    "linen.linear._normalize_axes": on(((-1, 0), 3), ((2,), 3)),
    "linen.linear._Conv": conv,
    "linen.module._context": stacked,
    "linen.module._tabulate_context": call_records,
    "linen.module._CallInfo": call_info,
    "linen.module._freeze_attr": lambda f, nn: [
        (type(y).__name__, str(y))
        for y in map(f, ([1, [2]], {"a": [1, {2: 3}]}, (1, [2]), Pair([1], {}), None))
    ],
    "linen.module._get_fn_name": on((sum,), (jax.tree_util.Partial(sum),)),
    "linen.module._map_submodules": lambda f, nn: str(
        f(lambda module: module.features, {"a": [nn.Dense(2), 3], "b": nn.Dense(4)})
    ),
    "linen.spmd._with_sharding_constraint": constrained,
    "linen.spmd._is_logical_spec": on(*SPECS),
    "linen.spmd._is_axis_spec": on(*SPECS),
    "linen.spmd._logical_to_mesh_axes": lambda f, nn: [
        str(f(("a", "b", None), (("a", "x"),))), f(None),
    ],
    "linen.spmd._unassigned_axis": lambda mark, nn: (repr(mark), bool(mark)),
    "linen.spmd._mesh_assignment_free": on(
        ("x", ["y", ("x",)]), (None, ["y"]), (("x", "z"), ["y"])
    ),
    "linen.partitioning._param_with_axes_sow_reduce_fn": reduced,
    "linen.transforms.lift_transform": lifted,
    "linen.transforms.lift_direct_transform": called_directly,
    "linen.summary._process_inputs": on(
        ((1,), {}), ((1, 2), {}), ((), {"a": 1}), ((1,), {"a": 1}), ((), {})
    ),
    "linen.summary._get_path_variables": on(
        (("a", "b"), TREE), ((), TREE), (("z",), TREE)
    ),
    "linen.summary._get_module_variables": on(
        (("a",), TREE, {(), ("a",), ("a", "b")}), ((), TREE, {(), ("a",)})
    ),
    "linen.summary._get_module_table": table,
    "serialization._msgpack_ext_unpack": lambda f, nn: [
        f(int(p.code), p.data)
        for p in map(flax.serialization._msgpack_ext_pack, (PACKED, PACKED[0, 0], 1j))
    ],
    "serialization._msgpack_ext_pack": on((PACKED,), (PACKED[0, 0],), (1j,)),
    "serialization._ndarray_to_bytes": on((PACKED,)),
    "serialization._ndarray_from_bytes": on(
        (flax.serialization._ndarray_to_bytes(PACKED),)
    ),
    "serialization._dtype_from_name": on(("bfloat16",), ("int8",)),
    "serialization._chunk_array_leaves_in_place": on(({"a": PACKED},)),
    "serialization._unchunk_array_leaves_in_place": on(({"a": PACKED},)),
    "serialization._np_convert_in_place": on(({"a": {"b": X}, "c": 1},)),
    "serialization._STATE_DICT_REGISTRY": lambda registry, nn: (
        dict in registry, _Own in registry,
    ),
    "serialization._dict_state_dict": on(({1: 2},)),
    "serialization._restore_dict": on(({"a": 1}, {"a": 2})),
    "serialization._list_state_dict": on(([1, 2],)),
    "serialization._restore_list": on(([1, 2], {"0": 3, "1": 4})),
    "serialization._namedtuple_state_dict": on((Pair(1, 2),)),
    "serialization._restore_namedtuple": on((Pair(1, 2), {"a": 3, "b": 4})),
    "core.scope._is_valid_rng": on(
        (KEY,), (jax.random.PRNGKey(0),), (1,), (X,), (jnp.ones((2, 2), jnp.uint32),)
    ),
    "core.scope._unfreeze_variables": on((TREE, True), (TREE, "params")),
    "core.scope._fold_in_static": lambda f, nn: jax.random.key_data(f(KEY, ("a", 1))),
    "jax_utils._pmap_device_order": on(()),
    "traverse_util._get_params_dict": on((TREE,), ({"b": {"a": 1}},)),
    "traverse_util._sorted_items": on(({"b": 1, "a": 2},)),
    "struct.TNode": lambda variable, nn: str(variable),
    "core.meta.TAxisMetadata": lambda variable, nn: str(variable),
    "training.checkpoints._checkpoint_path": on(("folder", 3, "checkpoint_")),
}  # fmt: skip


def of_flax(name: str) -> Any:
    module, _, short = f"flax.{name}".rpartition(".")
    return getattr(importlib.import_module(module), short)


@pytest.mark.parametrize("name", CASES)
def test_a_private_name_does_what_it_does_in_flax(name):
    adapter = private.find(f"flax.{name}")
    assert adapter is not None
    results = []
    for library, nn in LIBRARIES.items():
        value = of_flax(name) if library == "flax" else private.load(adapter)
        with jax.numpy_dtype_promotion("standard"):
            results.append(CASES[name](value, nn))
    expected, found = results
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        if not isinstance(b, jax.Array | np.ndarray):
            assert a == b
            continue
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        small = jnp.issubdtype(b.dtype, jnp.inexact) and jnp.finfo(b.dtype).bits == 16
        tolerance = 0.02 if small else 1e-5
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_every_name_has_a_test_and_is_in_flax_or_was():
    gone = {"_AxisRules", "_axis_rules"}  # in the versions with which T5X was written
    for row in private.PRIVATE:
        assert row.used_by
        assert private.load(row.adapter) is not None
        package, _, name = row.name.partition(".")
        if package != "flax" or name.rpartition(".")[2] in gone:
            continue
        if name.startswith("metrics."):  # imports TensorFlow
            continue
        assert of_flax(name) is not None


def test_they_are_offered_by_the_aliases_alone():
    compat.install()
    try:
        import flax.linen as nn
        from flax.linen.normalization import _compute_stats

        assert _compute_stats.__module__.startswith("linsey.compat")
        assert nn.normalization._compute_stats is _compute_stats
        assert "_compute_stats" in dir(nn.normalization)
        assert isinstance(nn.Dense.parent, nn.module._Sentinel)
        with pytest.raises(AttributeError, match="private name of Flax"):
            nn.module._no_such_name  # noqa: B018
        assert nn.module._context is nn.module._context
        dense = nn.Dense(2).bind(nn.Dense(2).init(KEY, jnp.ones((1, 2))))
        assert set(dense.scope._collection("params")) == {"kernel", "bias"}
        assert dense.scope._collection("other") == {}
    finally:
        compat.uninstall()
    assert not hasattr(linsey.linen.normalization, "_compute_stats")
    assert not hasattr(linsey.core.Scope, "_collection")


def states_of_modules(nn):
    """What modules see of their own state: before, in and after `setup`."""
    seen = []

    def see(module):
        state = module._state
        seen.append((state.in_setup, int(state.setup_called), state.in_compact_method))
        seen.append(module._initialization_allowed)

    class Model(nn.Module):
        def setup(self):
            see(self)
            self.dense = Compact()

        def __call__(self, x):
            see(self)
            seen.append(sorted(self._state.children))
            return self.dense(x)

    class Compact(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(2)(x)
            seen.append((self._state.in_compact_method, *self._state.children))
            seen.append(dict(self._state.autoname_cursor))
            return x

    def intercept(call, args, kwargs, context):
        seen.append((context.method_name, context.module._initialization_allowed))
        return call(*args, **kwargs)

    see(Model())
    with nn.intercept_methods(intercept):
        Model().init(KEY, jnp.ones((1, 2)))
    bound = Model().bind({})
    see(bound)
    bound._try_setup()
    see(bound)
    return seen


def test_modules_show_their_state_as_in_flax():
    expected = states_of_modules(LIBRARIES["flax"])
    compat.install()
    try:
        import flax.linen as served

        assert states_of_modules(served) == expected
    finally:
        compat.uninstall()


def test_the_rules_of_axes_are_an_attribute():
    with linsey.linen.logical_axis_rules((("batch", "data"),)):
        assert spmd.axis_rules.rules == (("batch", "data"),)
        spmd.axis_rules.rules = ()
        assert linsey.linen.get_logical_axis_rules() == ()


def test_hyper_parameters_are_flattened_as_by_the_writer_of_flax():
    # What Flax's gives, which imports TensorFlow.
    given = {"a": 1, "b": {"c": 2.0, "d": {"e": "x"}}, "l": [1], "n": None, "e": {}}
    flat = private.load("trees.flatten_dict")
    assert flat(given) == {"a": 1, "b.c": 2.0, "b.d.e": "x", "l": "[1]", "n": "None"}
    assert flat({"a": {"b": 1}}, "p", "/") == {"p/a/b": 1}


def test_a_second_trace_is_named():
    step = jax.jit(retrace.check_rejit(lambda x: x + 1))
    step(jnp.ones(2))
    step(jnp.zeros(2))
    with pytest.warns(UserWarning, match=r"float32\[2\] -> float32\[3\]"):
        step(jnp.ones(3))


def test_a_local_convolution_is_one_too():
    class Local(linear.Conv):
        @property
        def shared_weights(self):
            return False

    found = jax.eval_shape(Local(2, (3,)).init_with_output, KEY, X)
    layer = linsey.linen.ConvLocal(2, (3,))
    assert found == jax.eval_shape(layer.init_with_output, KEY, X)


def test_patches_of_an_alias_reach_linsey():
    compat.install()
    try:
        with mock.patch("flax.linen.relu", "patched"):
            import flax.linen as nn

            assert nn.relu == linsey.linen.relu == "patched"
        assert nn.relu is linsey.linen.relu is not None
        assert "relu" in vars(nn) and "relu" in dir(nn)
        assert sys.modules["flax.linen"] is nn
    finally:
        compat.uninstall()
