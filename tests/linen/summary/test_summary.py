"""The table of a model: the same cells as Flax draws, found without running it."""

from __future__ import annotations

import enum
import sys
from types import SimpleNamespace

import flax.linen
import jax
import jax.numpy as jnp
import pytest

import linsey.linen
from linsey.linen.summary import module_paths, tabulate

KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
PLAIN = {"width": 200, "color_system": None, "force_terminal": False}
X = jnp.ones((4, 8))
LIBRARIES = {"flax": flax.linen, "linsey": linsey.linen}


def models(nn):
    """The same models in one of the two libraries."""

    class Block(nn.Module):
        size: int

        @nn.compact
        def __call__(self, x, train=True):
            y = nn.Dense(self.size)(x)
            y = nn.Dropout(0.5, deterministic=not train)(y)
            self.sow("intermediates", "y", y)
            zeros = jnp.zeros((self.size,), jnp.bfloat16)
            self.variable("batch_stats", "m", lambda: zeros)
            return {"a": nn.relu(y), "b": (y, None, 3)}

    class Shared(nn.Module):
        def setup(self):
            self.dense = nn.Dense(8)
            self.unused = nn.Dense(3)
            self.layers = [nn.Dense(8) for _ in range(2)]

        def __call__(self, x):
            for layer in (self.dense, *self.layers):
                x = layer(x)
            return self.again(x)

        def again(self, x):
            return self.dense(x)

    class Nest(nn.Module):
        @nn.compact
        def __call__(self, x, train=True, *, note=None):
            x = Block(8)(x, train=train)["a"]
            table = {"a": {"b": jnp.ones((3,), jnp.int32)}, "c": jnp.ones(())}
            self.param("table", lambda key: table)
            return Shared(name="shared")(x)

    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(8)(nn.Dense(8)(x))

    class Step(nn.Module):
        @nn.compact
        def __call__(self, carry, x):
            carry = nn.Dense(8)(carry)
            return carry, carry

    class Lifted(nn.Module):
        @nn.compact
        def __call__(self, x):
            axes = {"params": 0}
            x = nn.vmap(MLP, variable_axes=axes, split_rngs={"params": True})()(x)
            x = nn.remat(MLP)(name="again")(nn.jit(MLP)(name="compiled")(x))
            x = nn.remat(lambda m, x: m(x))(MLP(name="function"), x)
            once = {"params": False}
            return nn.scan(Step, variable_broadcast="params", split_rngs=once)()(
                x[0], x
            )

    class InFields(nn.Module):
        first: nn.Module
        second: nn.Module

        def __call__(self, x):
            return self.second(self.first(x))

    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.with_partitioning(nn.initializers.ones, ("a", None))
            return nn.Dense(3, kernel_init=init)(x)

    class Returns(nn.Module):
        @nn.compact
        def __call__(self, *args, **kwargs):
            return args or kwargs

    @nn.jit
    @nn.compact
    def compiled(self, x):
        return MLP()(x)

    class Compiled(nn.Module):
        __call__ = compiled

    return SimpleNamespace(**{k: v for k, v in locals().items() if k != "nn"})


MODELS = {name: models(nn) for name, nn in LIBRARIES.items()}


def draw(library, build, args=(X,), console=PLAIN, rngs=KEYS, call=None, **kwargs):
    """The table that a library draws."""
    table = {"flax": flax.linen.tabulate, "linsey": tabulate}[library]
    module = build(LIBRARIES[library], MODELS[library])
    return table(module, rngs, console_kwargs=console, **kwargs)(*args, **(call or {}))


def cells(text):
    """The title, the caption and the rows of a drawn table, as `{column: cell}`."""
    rows, row, around = [], [], []
    for line in filter(None, map(str.strip, text.split("\n"))):
        if line[0] in "┃│":
            row.append([cell[1:-1].rstrip() for cell in line[1:-1].split(line[0])])
            continue
        if line[0] not in "┏┡├└":
            around.append(line)
        if row:
            rows.append(["\n".join(c).rstrip() for c in zip(*row, strict=True)])
            row = []
    header, *rows = rows
    return around, [dict(zip(header, row, strict=True)) for row in rows]


def assert_same_table(build, **kwargs):
    """Same cells; Flax has the collections in an order that changes between runs."""
    found = cells(draw("linsey", build, **kwargs))
    assert found == cells(draw("flax", build, **kwargs))
    return found


OPTIONS = {
    "all": {},
    "depth 0": {"depth": 0},
    "depth 1": {"depth": 1},
    "depth 1, repeated": {"depth": 1, "show_repeated": True},
    "repeated": {"show_repeated": True},
    "intermediates too": {"mutable": True},
    "arguments": {"args": (X, False), "call": {"note": "abc"}},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_table_of_a_nested_model_is_that_of_flax(options):
    assert_same_table(lambda nn, m: m.Nest(), **options)


BUILDERS = {
    "batch norm": lambda nn, m: nn.BatchNorm(use_running_average=False),
    "setup": lambda nn, m: m.Shared(),
    "lifted": lambda nn, m: m.Lifted(),
    "shared in fields": lambda nn, m: m.InFields(*[nn.Dense(8)] * 2),
    "boxed": lambda nn, m: m.Boxed(),
    "conv": lambda nn, m: nn.Conv(3, (3,)),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_table_is_that_of_flax(build):
    assert_same_table(build)


@pytest.mark.parametrize("method", ["again", "function of the class"])
def test_table_of_another_method_is_that_of_flax(method):
    for library in LIBRARIES:
        cls = MODELS[library].Shared
        chosen = cls.again if method != "again" else method
        _, rows = cells(draw(library, lambda nn, m: m.Shared(), method=chosen))
        assert [row["module"] for row in rows] == ["Shared (again)", "Dense", ""]


@pytest.mark.parametrize("name", ["Nest", "Lifted", "Boxed"])
def test_operations_are_those_of_flax(name):
    _, rows = assert_same_table(
        lambda nn, m: getattr(m, name)(),
        show_repeated=name == "Nest",
        compute_flops=True,
        compute_vjp_flops=True,
    )
    assert int(rows[0]["vjp_flops"]) > int(rows[0]["flops"]) > 0


def test_operations_of_a_derivative_that_does_not_exist_are_zero():
    numbers = jnp.ones((3,), jnp.int32)
    assert_same_table(
        lambda nn, m: m.Returns(),
        args=(numbers,),
        compute_flops=True,
        compute_vjp_flops=True,
    )

    class Loops(linsey.linen.Module):
        @linsey.linen.compact
        def __call__(self, x):
            return jax.lax.while_loop(lambda x: x.sum() < 3, lambda x: x + 1, x)

    text = tabulate(
        Loops(), KEYS, compute_vjp_flops=True, console_kwargs=PLAIN, compute_flops=True
    )(X)
    row = cells(text)[1][0]
    assert int(row["flops"]) > 0
    assert row["vjp_flops"] == "0"


def test_operations_of_a_call_that_cannot_be_repeated_alone_are_left_out():
    nn = linsey.linen

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            class Inner(nn.Module):
                @nn.compact
                def __call__(inner, x):  # noqa: N805
                    return nn.Dense(8, parent=self, name="of_outer")(x)

            return Inner()(x)

    _, rows = cells(
        tabulate(
            Outer(),
            KEYS,
            console_kwargs=PLAIN,
            compute_flops=True,
            compute_vjp_flops=True,
        )(X)
    )
    assert [row["flops"] for row in rows[:-1]] == ["544", "", "544"]
    assert [row["vjp_flops"] for row in rows[:-1]] == ["1664", "", "1664"]


INPUTS = {
    "none": ((), {}),
    "scalars": ((1.5, "s", None, True, -1, 1e-5), {}),
    "array": ((X,), {}),
    "list": (([X],), {}),
    "empty": (([],), {}),
    "nested": (({"a": X, "b": [X, {"c": (1, 2)}], "d": {}, "e": [[1, [2]]]},), {}),
    "keywords": ((), {"b": X, "a": 1}),
    "both": (([X],), {"b": 3}),
    "keys": ((jax.random.key(0), jax.random.PRNGKey(0)), {}),
    "numpy": ((X.__array__(), jnp.bfloat16(3)), {}),
    "objects": ((slice(1, 2), ..., range(3), frozenset({1})), {}),
    "abstract": ((jax.ShapeDtypeStruct((3,), jnp.float16),), {}),
}


@pytest.mark.parametrize(("args", "kwargs"), INPUTS.values(), ids=INPUTS)
def test_inputs_are_written_as_flax_writes_them(args, kwargs):
    tables = []
    for library, nn in LIBRARIES.items():

        class Nothing(nn.Module):
            @nn.compact
            def __call__(self, *args, **kwargs):
                return None

        tables.append(draw(library, lambda nn, m: Nothing(), args, call=kwargs))
    assert tables[0] == tables[1]


def test_text_of_the_user_is_not_taken_for_markup():
    text = draw("linsey", lambda nn, m: m.Returns(), ("[bold]x[/bold]", "a\nb"))
    assert cells(text)[1][0]["inputs"] == "- [bold]x[/bold]\n- a b"


@pytest.mark.parametrize("count", [1, 250, 251, 10**6, 300 * 10**9])
def test_sizes_are_written_as_flax_writes_them(count):
    tables = []
    for library, nn in LIBRARIES.items():

        class Big(nn.Module):
            @nn.compact
            def __call__(self, x):
                self.param("a", nn.initializers.zeros, (count,))
                return x

        tables.append(draw(library, lambda nn, m, big=Big: big()))
    assert tables[0] == tables[1]


def test_styled_text_is_that_of_flax_to_the_character():
    styled = {"width": 100}
    tables = [draw(lib, lambda nn, m: m.Boxed(), console=styled) for lib in LIBRARIES]
    assert tables[0] == tables[1]
    assert "\x1b[" in tables[1]


def test_keyword_arguments_reach_the_table_and_its_columns():
    kwargs = {"table_kwargs": {"show_edge": False}, "column_kwargs": {"no_wrap": True}}
    tables = [draw(lib, lambda nn, m: nn.Dense(3), **kwargs) for lib in LIBRARIES]
    assert tables[0] == tables[1]


def test_every_variable_is_counted_once():
    # Flax counts variables below a module that is not itself called twice.
    nn = linsey.linen

    class Holder(nn.Module):
        def setup(self):
            self.dense = nn.Dense(2)

    class Outer(nn.Module):
        def setup(self):
            self.holder = Holder()

        def __call__(self, x):
            return self.holder.dense(x)

    around, rows = cells(tabulate(Outer(), KEYS, console_kwargs=PLAIN)(X))
    assert around[-1] == "Total Parameters: 18 (72 B)"
    assert [row["path"] for row in rows] == ["", "holder/dense", ""]
    assert rows[0]["params"] == ""
    assert rows[1]["params"].endswith("18 (72 B)")


def test_a_compiled_method_is_shown_each_time():
    # Flax shows an empty table from the second time on.
    first = draw("linsey", lambda nn, m: m.Compiled())
    assert draw("linsey", lambda nn, m: m.Compiled()) == first
    assert [row["path"] for row in cells(first)[1]][:2] == ["", "MLP_0"]


def test_nothing_is_computed():
    def fail(*args):
        raise AssertionError("an initial value was computed")

    def init(key, shape, dtype):
        return jax.pure_callback(fail, jax.ShapeDtypeStruct(shape, dtype))

    assert "27 (108 B)" in draw(
        "linsey", lambda nn, m: nn.Dense(3, kernel_init=init), compute_flops=True
    )


def test_keys_may_be_abstract():
    keys = jax.eval_shape(lambda: KEYS)
    table = draw("linsey", lambda nn, m: m.Nest(), rngs=keys, compute_flops=True)
    assert table == draw("linsey", lambda nn, m: m.Nest(), compute_flops=True)


def test_module_and_function_draw_the_same_table():
    model = MODELS["linsey"].Nest()
    found = model.tabulate(KEYS, X, False, depth=1, console_kwargs=PLAIN)
    assert found == tabulate(model, KEYS, depth=1, console_kwargs=PLAIN)(X, False)


def test_without_rich_the_table_is_plain(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.markup", None)
    text = tabulate(linsey.linen.Dense(3), KEYS)(X)
    assert text == (
        "\n"
        "Dense Summary\n"
        "-----+--------+--------------+--------------+---------------------\n"
        "path | module | inputs       | outputs      | params\n"
        "-----+--------+--------------+--------------+---------------------\n"
        "     | Dense  | float32[4,8] | float32[4,3] | bias: float32[3]\n"
        "     |        |              |              | kernel: float32[8,3]\n"
        "     |        |              |              |\n"
        "     |        |              |              | 27 (108 B)\n"
        "-----+--------+--------------+--------------+---------------------\n"
        "     |        |              | Total        | 27 (108 B)\n"
        "-----+--------+--------------+--------------+---------------------\n"
        "Total Parameters: 27 (108 B)\n"
    )


@pytest.mark.parametrize(
    ("name", "show_repeated"),
    [("Nest", False), ("Shared", False), ("Shared", True), ("Lifted", False)],
)
def test_module_paths_are_those_of_flax(name, show_repeated):
    theirs, ours = (
        getattr(MODELS[lib], name)().module_paths(KEYS, X, show_repeated=show_repeated)
        for lib in LIBRARIES
    )
    assert list(ours) == list(theirs)
    for path, module in ours.items():
        assert type(module).__name__ == type(theirs[path]).__name__
        assert module.scope is None
        assert module.parent is None
        assert module.name is None


def test_modules_by_path_can_be_used_alone():
    model = MODELS["linsey"].Nest()
    modules = module_paths(model, KEYS, False, True, (X,), {})
    params = model.init(KEYS, X)["params"]["shared"]
    alone = modules["shared"].apply({"params": params}, X)
    assert alone.shape == (4, 8)


def test_a_missing_collection_is_an_error():
    with pytest.raises(linsey.errors.ScopeCollectionNotFound):
        draw("linsey", lambda nn, m: m.Nest(), mutable="params")


class Word(str, enum.Enum):  # noqa: UP042 (as programs write it)
    b = "two words"
    a = "one"


class Number(enum.Enum):
    one = 1


@pytest.mark.parametrize(
    "names", [(None,), ("a",), ("a", None), (("a", "b"),), (("a",), None)]
)
def test_partitions_and_enums_are_written_as_by_flax(names):
    drawn = []
    for nn in LIBRARIES.values():

        class Net(nn.Module):
            @nn.compact
            def __call__(self, inputs):
                ones = nn.with_partitioning(nn.initializers.ones, names)
                self.param("p", ones, (2,) * len(names))
                return {Number.one: inputs[Word.a]}, {"n": [Number.one]}

        inputs = {Word.b: 3, Word.a: {Number.one: X}}
        drawn.append(Net().tabulate(KEYS, inputs, console_kwargs=PLAIN))
    assert drawn[0] == drawn[1]
