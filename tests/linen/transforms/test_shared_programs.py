"""Equal modules under `nn.jit` share a program, and never a wrong one."""

from __future__ import annotations

import dataclasses
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey
import linsey.linen
from linsey import errors, traceback_util
from tests.compat.agreement import KEY, X, agrees

ONE = jnp.ones(())
OWN = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
RNGS = {"params": KEY, "dropout": jax.random.key(1)}


def block(nn, traces, form="method"):
    """A class with a compiled call, which says when it is traced."""

    class Block(nn.Module):
        width: int = 3

        @nn.compact
        def __call__(self, x):
            traces.append(1)
            x = nn.BatchNorm(use_running_average=False)(nn.Dense(self.width)(x))
            return nn.Dropout(0.5, deterministic=False)(x)

    class Method(Block):
        __call__ = nn.jit(Block.__call__)

    function = nn.jit(Block.__call__)

    class Function(Block):
        def __call__(self, x):
            return function(self, x)

    forms = {"method": Method, "class": nn.jit(Block), "function": Function}
    return forms[form]


def stack(nn, layer, depth=12):
    class Compact(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(depth):
                x = layer()(x)
            return x

    return Compact()


@pytest.mark.parametrize("form", ["method", "class", "function"])
def test_a_stack_of_equal_blocks_is_traced_once(form):
    """Each is drawn keys of its own, and the program grows with distinct blocks."""
    nn, traces = linsey.linen, []
    net = stack(nn, block(nn, traces, form))
    variables = jax.eval_shape(net.init, RNGS, X)
    assert (len(traces), len(variables["params"])) == (1, 12)

    def text(net):
        run = lambda v, x, r: net.apply(v, x, rngs=r, mutable=["batch_stats"])  # noqa: E731
        return jax.jit(run).lower(variables, X, RNGS).as_text()

    whole = text(net)
    assert len(traces) == 2
    short = text(stack(nn, block(nn, traces, form), depth=2))
    assert whole.count("dot_general") == short.count("dot_general") == 1


@agrees(ulps=64)
def test_a_stack_of_equal_blocks_computes_what_flax_computes(nn):
    """Also the bits of keys, as nothing was compiled before."""
    net = stack(nn, block(nn, []), depth=3)
    y, variables = net.init_with_output(RNGS, X)
    return y, variables, net.apply(variables, X, rngs=RNGS, mutable=["batch_stats"])


@agrees
def test_blocks_of_setup_lists_fields_scans_and_other_transforms_share(nn):
    traces = []

    class Block(nn.Module):
        inner: Any = None

        def setup(self):
            self.dense = nn.Dense(3, use_bias=False)

        @nn.jit
        def __call__(self, x):
            traces.append(1)
            return self.dense(x) if self.inner is None else self.inner(x)

    class Step(nn.Module):
        def setup(self):
            self.blocks = [Block() for _ in range(3)]

        @nn.jit
        def __call__(self, x, _):
            for layer in self.blocks:
                x = layer(x)
            return x, None

    class Net(nn.Module):
        def setup(self):
            self.steps = nn.scan(Step, length=2, **OWN)()
            self.named = {"a": Block(), "b": Block()}
            self.holders = [Block(nn.Dense(3)), Block(nn.Dense(3))]

        def __call__(self, x):
            x, _ = self.steps(x, None)
            x = nn.remat(lambda m, x: m.named["b"](m.named["a"](x)))(self, x)
            return self.holders[1](self.holders[0](x))

    variables = jax.eval_shape(Net().init, KEY, X)
    first = len(traces)
    jax.eval_shape(jax.grad(lambda v: Net().apply(v, X).sum()), variables)
    return jax.tree.map(jnp.shape, variables), first, len(traces) <= 7


def test_a_second_call_without_jit_traces_nothing():
    nn, traces = linsey.linen, []
    net = stack(nn, block(nn, traces), depth=2)
    variables = net.init(RNGS, X)
    for count in (2, 2):
        net.apply(variables, X, rngs=RNGS, mutable=["batch_stats"])
        assert len(traces) == count
    net.apply(variables, X, rngs={"dropout": KEY}, mutable=["batch_stats"])
    assert len(traces) == 3  # another set of streams


READERS = {
    "name": lambda self: self.name,
    "path": lambda self: "".join(self.path),
    "scope.name": lambda self: self.scope.name,
    "scope.path": lambda self: "".join(self.scope.path),
    "field": lambda self: {
        f.name: getattr(self, f.name) for f in dataclasses.fields(self)
    }["name"],
    "clone": lambda self: self.clone().name,
}


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("where", ["here", "remat", "jit", "failed"])
def test_a_program_that_reads_where_it_is_stands_there_only(what, where):
    """Flax takes the name of the block that was compiled first."""
    nn, read = linsey.linen, READERS[what]

    class Scale(nn.Module):
        @nn.jit
        @nn.compact
        def __call__(self, x):
            by = lambda self, x: x * len(read(self))  # noqa: E731
            if where in ("remat", "jit"):
                return getattr(nn, where)(by)(self, x)
            y = by(self, x)
            if where == "failed":
                with pytest.raises(ZeroDivisionError):
                    nn.jit(lambda m, x: 1 // 0)(self, x)
            return y

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return [Scale(name=name)(x) for name in ("a", "bcd")]

    for _ in range(2):
        assert Net().apply({}, ONE) == [1.0, 3.0]


@pytest.fixture
def hasty_threads():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_names_that_are_read_in_threads_are_those_of_the_thread(hasty_threads):
    """Also of a program that another thread traced while it was asked for."""
    for _ in range(10):
        assert in_threads() == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}


def in_threads() -> dict[int, float]:
    nn, found = linsey.linen, {}

    class Scale(nn.Module):
        @nn.jit
        def __call__(self, x):
            return x * len(self.name)

    class Net(nn.Module):
        size: int

        @nn.compact
        def __call__(self, x):
            return Scale(name="n" * self.size)(x)

    def work(size):
        found[size] = float(Net(size).apply({}, ONE))

    threads = [threading.Thread(target=work, args=(size,)) for size in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@dataclasses.dataclass
class Config:
    by: Any


def scale(nn):
    class Scale(nn.Module):
        config: Any

        @nn.jit
        def __call__(self, x):
            by = self.config
            while not isinstance(by, (int, float)):
                by = by.by if isinstance(by, Config) else by["by"]
            return x * by

    return Scale


@pytest.mark.parametrize(
    "wrap", [lambda v: v, Config, lambda v: {"by": Config({"by": v})}]
)
def test_fields_that_are_equal_and_not_the_same_have_programs_of_their_own(wrap):
    Scale, x = scale(linsey.linen), jnp.ones((), jnp.int32)
    for value, dtype in [(1, "int32"), (1.0, "float32"), (True, "int32")]:
        assert Scale(wrap(value)).apply({}, x).dtype == dtype
    assert jnp.signbit(Scale(wrap(-0.0)).apply({}, 1.0))
    assert not jnp.signbit(Scale(wrap(0.0)).apply({}, 1.0))


def test_a_field_that_was_changed_in_place_is_seen():
    config = Config({"by": 1})
    model = scale(linsey.linen)(config)
    assert model.apply({}, ONE) == 1
    config.by["by"] = 5
    assert model.apply({}, ONE) == 5


@agrees
def test_fields_may_hold_what_has_no_hash(nn):
    traces = []

    class Hold(nn.Module):
        what: Any

        @nn.jit
        @nn.compact
        def __call__(self, x):
            traces.append(1)
            return x

    makers = [
        lambda: {"k"},
        lambda: {"a": [1, {2}]},
        lambda: np.ones(2),
        lambda: Config([1]),
        lambda: bytearray(b"a"),
        lambda: nn.WeightNorm(nn.Dense(2)),
    ]
    counts = []
    for make in makers:
        traces.clear()
        for _ in range(2):
            jax.eval_shape(Hold(make()).init, KEY, X)
        counts.append(len(traces))
    norm = nn.jit(nn.WeightNorm)(nn.Dense(2))
    return counts, jax.tree.map(jnp.shape, norm.init(KEY, X))


class Traced:
    """Programs in which a field of a module holds an array that is being traced."""

    @staticmethod
    def own(nn):
        class Scale(nn.Module):
            by: Any

            @nn.jit
            def __call__(self, x):
                return x * self.by["by"][0]

        return lambda by, x: Scale({"by": [by, by + 1]}).apply({}, x)

    @staticmethod
    def of_a_child(nn):
        class Scale(nn.Module):
            by: Any

            def __call__(self, x):
                return x * self.by

        class Outer(nn.Module):
            inner: nn.Module

            @nn.jit
            def __call__(self, x):
                return self.inner(x)

        return lambda by, x: Outer(Scale(by)).apply({}, x)

    @staticmethod
    def of_an_argument(nn):
        class Scale(nn.Module):
            by: Any

            def __call__(self, x):
                return x * self.by

        class Use(nn.Module):
            def __call__(self, x, other):
                return other(x)

        class Outer(nn.Module):
            @nn.compact
            def __call__(self, by, x):
                return nn.jit(Use)()(x, Scale(by))

        return lambda by, x: Outer().apply({}, by, x)


@pytest.mark.parametrize("where", ["own", "of_a_child", "of_an_argument"])
def test_a_traced_array_in_a_field_is_an_input_of_the_program(where):
    scaled = getattr(Traced, where)(linsey.linen)
    with jax.checking_leaks():
        for by in (2.0, 3.0):  # the second call finds the program of the first
            assert jax.jit(scaled)(jnp.float32(by), ONE) == by
            assert jax.grad(scaled)(jnp.float32(by), ONE) == 1
            assert jax.vmap(scaled, (0, None))(jnp.array([by, 1]), ONE)[0] == by
        assert jax.eval_shape(scaled, ONE, ONE).shape == ()


def test_a_traced_array_inside_an_object_names_the_field():
    scaled = scale(linsey.linen)
    with pytest.raises(errors.ArgumentTypeError, match="Field `config` of Scale"):
        jax.jit(lambda by: scaled(Config(by)).apply({}, ONE))(ONE)


def test_a_traced_array_in_a_module_among_the_arguments_names_the_field():
    class Use(linsey.linen.Module):
        @linsey.linen.jit
        def __call__(self, x, other):
            return other.config.by * x

    Scale = scale(linsey.linen)
    with pytest.raises(errors.ArgumentTypeError, match="Field `config` of Scale"):
        jax.jit(lambda by: Use().apply({}, ONE, Scale(Config(by))))(ONE)


def test_what_surrounds_a_call_is_part_of_the_program():
    nn = linsey.linen

    class Count(nn.Module):
        @nn.jit
        def __call__(self, x):
            frozen = not isinstance(self.variables, dict)
            return x * (len(nn.get_logical_axis_rules()) + 10 * frozen)

    assert Count().apply({}, ONE) == 0
    with nn.logical_axis_rules((("a", "b"),)):
        assert Count().apply({}, ONE) == 1
    with linsey.config.config.temp_flip_flag("return_frozendict", True):
        assert Count().apply({}, ONE) == 10
    assert Count().apply({}, ONE) == 0


def test_an_interceptor_sees_every_block():
    nn, traces = linsey.linen, []
    net = stack(nn, block(nn, traces), depth=3)
    variables = jax.eval_shape(net.init, RNGS, X)
    seen = []

    def watch(next_fun, args, kwargs, context):
        seen.append(type(context.module).__name__)
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(watch):
        jax.eval_shape(net.init, RNGS, X)
    assert seen.count("Dense") == 3
    traces.clear()
    last = lambda module, name: module.name == "Method_2"  # noqa: E731
    run = lambda v: net.apply(v, X, rngs=RNGS, capture_intermediates=last, mutable=True)  # noqa: E731
    found = jax.eval_shape(run, variables)[1]["intermediates"]
    assert list(found) == ["Method_2"]
    everything = lambda v: net.apply(  # noqa: E731
        v, X, rngs=RNGS, capture_intermediates=True, mutable=True
    )
    traces.clear()
    found = jax.eval_shape(everything, variables)[1]["intermediates"]
    assert len(traces) == 1
    assert len(found) == 4


@agrees
def test_variables_pass_through_nested_compiled_modules(nn):
    class Inner(nn.Module):
        total: Any

        @nn.jit
        @nn.compact
        def __call__(self, x):
            self.total["of"][0].value += x
            return x

    class Outer(nn.Module):
        total: Any

        @nn.jit
        @nn.compact
        def __call__(self, x):
            Inner({"of": [self.total]})(x)
            return nn.remat(lambda m, x: m.total.value * x)(self, x)

    class Net(nn.Module):
        @nn.jit
        @nn.compact
        def __call__(self, x):
            total = self.variable("sums", "total", jnp.zeros, x.shape)
            return Outer(total)(x) + total.value

    y, variables = Net().init_with_output(KEY, jnp.ones(1))
    return y, variables, Net().apply(variables, jnp.ones(1), mutable=["sums"])


TRANSFORMS = {
    "jit": lambda nn, fn: nn.jit(fn),
    "remat": lambda nn, fn: nn.remat(fn),
    "vmap": lambda nn, fn: nn.vmap(fn, in_axes=(None, 0), **OWN),
    "fold_rngs": lambda nn, fn: nn.fold_rngs(fn),
    "map_variables": lambda nn, fn: nn.map_variables(fn, "state", mutable=True),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@agrees
def test_names_of_setup_and_of_arguments_are_taken_inside(nn, transform):
    def lift(fn):
        return TRANSFORMS[transform](nn, fn)

    class SetUp(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)
            self.w = self.param("w", nn.initializers.ones, (3,))

        @nn.compact
        def __call__(self, x):
            return lift(lambda m, _, x: nn.Dense(3, name="a")(x))(self, x, x)

        @nn.compact
        def again(self, x):
            return lift(lambda m, _, x: m.param("w", nn.initializers.ones, (3,)) * x)(
                self, x, x
            )

        @nn.compact
        def other(self, x):
            return lift(lambda m, _, x: nn.Dense(2, name="b")(m.a(x)))(self, x, x)

    class Compact(nn.Module):
        @nn.compact
        def __call__(self, x):
            inside = lambda m, layer, x: (nn.Dense(3, name="a"), layer(x))[1]  # noqa: E731
            return lift(inside)(self, nn.Dense(3, name="a"), x)

        @nn.compact
        def siblings(self, x):
            run = lambda m, layer, x: nn.Dense(3)(layer(x))  # noqa: E731
            return lift(run)(self, nn.Dense(3), x)

    class Passed(nn.Module):
        layer: nn.Module

        @nn.compact
        def __call__(self, x):
            return lift(lambda m, _, x: nn.Dense(3)(x))(self, x, self.layer(x))

    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = Passed(nn.Dense(3))  # of this module, whose scope both use
            nn.share_scope(self, inner)
            return inner(x)

    outcomes = []
    for cls, method in [
        (SetUp, "__call__"), (SetUp, "again"), (SetUp, "other"),
        (Compact, "__call__"), (Compact, "siblings"), (Shared, "__call__"),
    ]:  # fmt: skip
        try:
            tree = jax.eval_shape(lambda k: cls().init(k, X, method=method), KEY)  # noqa: B023
            outcomes.append(jax.tree.map(jnp.shape, tree))
        except Exception as error:
            # Other errors, of axes, have words of linsey's own.
            name = type(error).__name__
            taken = name == "NameInUseError" and str(error).split(".")[0]
            outcomes.append(taken or isinstance(error, (ValueError, IndexError)))
    return outcomes


@agrees
def test_methods_that_run_the_module_may_be_compiled(nn):
    traces = []

    class Net(nn.Module):
        scale: Any = 2

        @nn.compact
        def __call__(self, x):
            traces.append(1)
            return nn.Dense(2)(x) * self.scale

        @nn.jit
        def init(self, *args, **kwargs):
            return super().init(*args, **kwargs)

        @nn.jit
        def apply(self, *args, **kwargs):
            return super().apply(*args, **kwargs)

        @nn.jit
        def double(self, x):
            return self.scale * x

        @nn.remat
        def again(self, x):
            return self.scale * x

    shapes = []
    for _ in range(2):
        variables = Net().init(KEY, X)
        shapes += [jax.tree.map(jnp.shape, variables), Net().apply(variables, X).shape]
    ones = [Net().double(ONE), Net(3).double(ONE), Net(3).again(ONE)]
    return shapes, len(traces), ones


def test_unbound_modules_in_arguments_are_told_apart():
    nn = linsey.linen

    class Other(nn.Module):
        by: Any

    class Use(nn.Module):
        @nn.jit
        def __call__(self, x, other):
            return x * other.by

    x = jnp.ones((), jnp.int32)
    assert Use().apply({}, x, Other(1)).dtype == "int32"
    assert Use().apply({}, x, Other(1.0)).dtype == "float32"


def test_a_compiled_class_that_is_unbound_says_so():
    with pytest.raises(errors.CallCompactUnboundModuleError):
        linsey.linen.jit(linsey.linen.Dense)(2)(X)


@agrees(wording=False)
def test_static_arguments_are_counted_with_the_module(nn):
    class Net(nn.Module):
        def __call__(self, x, train, by=1.0):
            return x * by if train else -x

    outcomes = []
    for options in [
        {"static_argnums": 2}, {"static_argnums": (2,)}, {"static_argnums": [0, 2]},
        {"static_argnums": -1}, {"static_argnums": 1}, {"static_argnames": "train"},
        {"static_argnames": ["train", "by"]}, {"backend": "cpu"}, {"device": None},
        {"donate_argnums": 3, "static_argnums": 2},
    ]:  # fmt: skip
        model = nn.jit(Net, **options)()
        for args, kwargs in [((True, 2.0), {}), ((False,), {}), ((), {"train": True})]:
            try:
                outcomes.append(model.apply({}, jnp.ones(2), *args, **kwargs))
            except Exception as error:
                outcomes.append(type(error).__name__)
    return outcomes


def test_the_profile_names_each_block():
    """The shared body has the name of its class; Flax has the first block for all."""
    nn = linsey.linen

    class Block(nn.Module):
        @nn.jit
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

    net = stack(nn, Block, depth=2)
    variables = jax.eval_shape(net.init, KEY, X)
    text = jax.jit(net.apply).lower(variables, X).as_text(debug_info=True)
    for expected in ("Compact/Block_0", "Compact/Block_1", "Block/Dense_0"):
        assert expected in text
    assert "Block_0/Dense_0" not in text


@pytest.mark.parametrize("filtering", ["remove_frames", "off"])
@pytest.mark.parametrize("method", ["init", "init_with_output", "lazy_init", "apply"])
def test_tracebacks_lead_through_no_frame_of_the_library(method, filtering):
    nn = linsey.linen

    class Inner(nn.Module):
        def setup(self):
            self.count = 1

        @nn.jit
        def __call__(self, x):
            raise ValueError("here")

    class Step(nn.Module):
        @nn.remat
        @nn.compact
        def __call__(self, x, _):
            return Inner()(x), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.scan(Step, length=2, **OWN)()(x, None)

    traceback_util.hide_flax_in_tracebacks()
    before = jax.config.jax_traceback_filtering  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_filtering", filtering)
    try:
        with pytest.raises(ValueError, match="here") as caught:
            first = {} if method == "apply" else KEY
            getattr(nn.jit(Net)(), method)(first, X)
    finally:
        jax.config.update("jax_traceback_filtering", before)
    frames = [f.f_code.co_filename for f, _ in traceback.walk_tb(caught.tb)]
    root = str(Path(linsey.__file__).parent)
    assert not [file for file in frames if file.startswith(root)]
    assert frames.count(__file__) == 4
