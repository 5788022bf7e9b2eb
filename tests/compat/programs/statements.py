"""Statements of a method: what it does with `x` and with variables of the module."""

from __future__ import annotations

from collections.abc import Callable

from tests.compat.programs.bodies import Body
from tests.compat.programs.layers import ACTIVATIONS, Unit, initializer
from tests.compat.programs.layers import cell as one_cell
from tests.compat.programs.lifts import LIFTS
from tests.compat.programs.passing import PASSING
from tests.compat.programs.sequences import SEQUENCES
from tests.compat.programs.syntax import Block

# Facts about the module at this point; each is compared.
FACTS = (
    "self.path",
    "self.name",
    "self.is_initializing()",
    "self.is_mutable_collection('params')",
    "self.is_mutable_collection('state')",
    "self.has_rng('noise')",
    "self.has_rng('params')",
    "self.has_variable('state', 'n')",
    "self.scope.path",
    "self.scope.name",
    "sorted(self.variables)",
    "jax.tree.map(jnp.shape, self.variables)",
    "type(self.variables).__name__",
    "self.get_variable('params', 'nothing', 7)",
    "type(self).__name__",
    "repr(self)",
    "self.clone(parent=None) == self.clone(parent=None)",
    "self.scope.is_mutable_collection('params')",
    "self.parent is None",
    "isinstance(self.parent, nn.Module)",
    "type(self.scope.root).__name__",
    "x.shape",
    "self.has_variable('params', 'w')",
    "self.clone() == self",
    "self.clone() is self",
    "self.scope.path == self.path",
    "self.scope.has_rng('noise')",
    "sorted(self.scope.variables())",
    "isinstance(self.scope.parent, type(self.scope))",
    "hash(self) == hash(self)",
    "self.unbind()[0] == self.clone(parent=None, name=None)",
    "jax.tree.map(jnp.shape, self.unbind()[1])",
)


def fact(body: Body) -> None:
    body.say(f"seen.append({body.draw.pick(*FACTS)})")


def activation(body: Body) -> None:
    name = body.draw.pick(*ACTIVATIONS)
    body.say(f"x = nn.{name}(x)")


def call(body: Body) -> None:
    """A submodule, called once."""
    unit = body.unit()
    text = f"{body.submodule(unit, body.draw.chance(0.3))}"
    method = body.draw.pick(*unit.methods) if unit.methods else ""
    chosen = f".{method}" if method and body.draw.chance(0.3) else ""
    body.say(f"x = {text}{chosen}(x)")
    body.shape = unit.given


def share(body: Body) -> None:
    """One submodule, called several times."""
    unit = body.unit()
    name = body.submodule(unit, held=True)
    body.say(f"x = {name}(x)")
    body.shape = unit.given
    if body.draw.chance(0.3):
        fact(body)
    body.reshape(unit.taken)
    body.say(f"x = {name}(x)")
    body.shape = unit.given


def several(body: Body) -> None:
    """A list, tuple or dict of submodules."""
    units = [body.unit(cell=True) for _ in range(body.draw.pick(1, 2, 3))]
    made = [unit.make() for unit in units]
    kind = body.draw.pick("list", "tuple", "dict", "nested")
    if kind == "dict":
        pairs = ", ".join(f"{k!r}: {m}" for k, m in zip("bac", made, strict=False))
        name = body.hold(f"{{{pairs}}}") + ".values()"
    elif kind == "nested":
        name = body.hold(f"{{'k': [{', '.join(made)}], 'j': 3}}") + "['k']"
    elif kind == "tuple":
        name = body.hold(f"({', '.join(made)},)")
    else:
        name = body.hold(f"[{', '.join(made)}]")
    body.say(Block(f"for layer in {name}:", ["x = layer(x)"]))


def passed(body: Body) -> None:
    """A module that is made here and given to another one as a field."""
    unit = body.unit()
    kind = body.draw.pick("one", "one", "twice", "tree")
    wrapper = wrap(body, kind)
    inner = body.submodule(unit, held=True)
    if unit.cls == "functools.partial":
        return
    given = {"one": inner, "twice": f"{inner}, {inner}", "tree": f"{{'t': {inner}}}"}
    outer = body.hold(f"{wrapper}({given[kind]})")
    if body.draw.chance(0.3):
        body.say(f"x = jnp.resize({inner}(x), {unit.taken})")
    body.say(f"x = {outer}(x)")
    body.shape = unit.given


def wrap(body: Body, kind: str) -> str:
    """A class of modules that call the ones they are given."""
    from tests.compat.programs.syntax import Class, Function

    name = body.book.fresh("Wrap")
    cls = Class(name)
    if kind == "tree":
        cls.fields = ["parts: Any"]
        lines = ["return self.parts['t'](x)"]
    elif kind == "twice":
        cls.fields = ["first: nn.Module", "second: nn.Module"]
        lines = ["seen.append(self.first is self.second)", "return self.second(x)"]
    else:
        cls.fields = ["inner: nn.Module"]
        lines = ["seen.append(self.inner.name)", "return self.inner(x)"]
    style = body.draw.pick(["nn.compact"], [])
    cls.methods = [Function("__call__", "self, x", list(lines), style)]
    body.book.program.definitions.append(cls)
    return name


def parameter(body: Body) -> None:
    draw, last = body.draw, body.shape[-1]
    name = body.book.fresh("w")
    choices = [
        (f"{initializer(draw, 1, 0.4)}, ({last},)", "x * {}"),
        (f"{initializer(draw, 1)}, ({last},), jnp.{draw.pick('bfloat16', 'float16')}",
         "x + {}"),
        (f"{initializer(draw, 2, 0.4)}, ({last}, {last})", "x @ {}"),
        ("lambda key: 2.0", "x * {}"),
        ("lambda key: jnp.float32(jax.random.bits(key) % 7)", "x + {}"),
        (f"lambda key, n: {{'b': jnp.ones(n), 'a': jnp.zeros(n)}}, {last}",
         "x + {}['b']"),
        (f"nn.initializers.normal(0.5), ({last},), unbox={draw.pick(True, False)}",
         "x + {}"),
        (f"{initializer(draw, 1, 1.0)}, ({last},), unbox=False", "x + {}.unbox()"),
    ]  # fmt: skip
    init, use = draw.pick(*choices)
    value = body.hold(f"self.param({name!r}, {init})", "p")
    body.say(f"x = {use.format(value)}")


def variable(body: Body) -> None:
    draw = body.draw
    collection = draw.pick("state", "state", "state", "cache", "batch_stats", "params")
    name = draw.pick(body.book.fresh("v"), body.book.fresh("v"), "n")
    init = draw.pick(
        "jnp.zeros, ()",
        "lambda: jnp.zeros(())",
        "lambda: 0.0",
        "lambda: jnp.int32(1)",
        "lambda n: jnp.full(n, 2.0), ()",
        "lambda: nn.Partitioned(jnp.zeros(()), ())",
        "lambda: jax.random.normal(self.make_rng('noise'))",
    )
    text = f"self.variable({collection!r}, {name!r}, {init})"
    held = body.hold(text, "v")
    update = draw.pick("{0}.value + 1", "{0}.value * 2 + jnp.mean(x)", "jnp.sum(x)")
    change = f"{held}.value = {update.format(held)}"
    guard = draw.pick(
        "not self.is_initializing()",
        f"self.is_mutable_collection({collection!r})",
        f"self.is_mutable_collection({collection!r}) and not self.is_initializing()",
        "True",
    )
    body.when(guard, change)
    if draw.chance(0.5):
        body.say(f"x = x + {held}.value")


def put(body: Body) -> None:
    name = body.book.fresh("u")
    had = f"self.has_variable('state', {name!r})"
    got = f"self.get_variable('state', {name!r}, jnp.zeros(()))"
    body.when(
        f"self.is_mutable_collection('state'){body.draw.pick('', f' or {had}')}",
        f"seen.append({had})",
        f"self.put_variable('state', {name!r}, {got} + 1)",
        f"seen.append({had})",
    )
    body.say(f"x = x + {got}")


def sow(body: Body) -> None:
    draw = body.draw
    collection = draw.pick("intermediates", "intermediates", "state", "losses")
    extra = draw.arguments(["reduce_fn=lambda a, b: a + b, init_fn=lambda: 0.0"], 0.4)
    if draw.chance(0.1):
        extra = ", reduce_fn=lambda a, b: b"
    value = draw.pick("x", "jnp.mean(x)", "2.0", "{'mean': jnp.mean(x)}")
    if "reduce" in extra and value[0] == "{":
        value = "x"
    name = draw.pick("s", body.book.fresh("s"), body.book.fresh("s"))
    text = f"self.sow({collection!r}, {name!r}, {value}{extra})"
    body.say(draw.pick(text, f"seen.append({text})"))


def perturb(body: Body) -> None:
    name = body.book.fresh("t")
    extra = body.draw.arguments(["collection='grads'"], 0.2)
    body.say(f"x = self.perturb({name!r}, x{extra})")


def noise(body: Body) -> None:
    stream = body.draw.pick(*["noise"] * 6, "params", "dropout", "unknown")
    line = f"x = x + jax.random.normal(self.make_rng({stream!r}), x.shape)"
    if body.draw.chance(0.5):
        body.when(f"self.has_rng({stream!r})", line)
    else:
        body.say(line)


def cell(body: Body) -> None:
    """A recurrent cell, for one step."""
    features = body.draw.size()
    cls, _, args = one_cell(body.draw, features).partition("(")
    name = body.submodule(Unit(cls, args[:-1], (), ()), held=True)
    seed = body.draw.pick("jax.random.key(0)", "self.make_rng('params')")
    body.say(f"carry = {name}.initialize_carry({seed}, x.shape)")
    body.say(f"carry, x = {name}(carry, x)")
    body.shape = (*body.shape[:-1], features)


def spectral(body: Body) -> None:
    inner = Unit("nn.Dense", f"{body.draw.size()}", (), ())
    given = (*body.shape[:-1], int(inner.args))
    choices = ["n_steps=2", "collection_name='state'", "epsilon=1e-6"]
    text = f"{body.submodule(inner)}{body.draw.arguments(choices)}"
    outer = body.submodule(Unit("nn.SpectralNorm", text, (), ()), held=True)
    body.say(f"x = {outer}(x, update_stats={body.draw.pick(True, False)})")
    body.shape = given


def embed(body: Body) -> None:
    features = body.draw.size()
    unit = Unit("nn.Embed", f"4, {features}", body.shape, ())
    name = body.submodule(unit, held=True)
    body.say(f"x = {name}(jnp.int32(jnp.abs(x[..., 0])) % 4)")
    body.shape = (*body.shape[:-1], features)
    if body.draw.chance(0.3):
        body.say(f"x = {name}.attend(x)")
        body.shape = (*body.shape[:-1], 4)


def constructor(body: Body) -> None:
    """A function that makes modules, called several times."""
    text = "functools.partial(nn.Dense, use_bias=False)"
    if body.draw.chance(0.3):
        text = "functools.partial(nn.LayerNorm, epsilon=1e-3)"
        made = "make(), make(use_bias=False)"
    else:
        made = f"make({body.shape[-1]}), make(features={body.shape[-1]})"
    if body.style == "setup":
        body.before.append(f"make = {text}")
        name = body.book.fresh("b")
        body.before.append(f"self.{name} = [{made}]")
        source = f"self.{name}"
    else:
        body.say(f"make = {text}")
        source = f"[{made}]"
    body.say(Block(f"for layer in {source}:", ["x = layer(x)"]))


def repeated(body: Body) -> None:
    """A loop that makes a module in each round."""
    unit = body.unit(cell=True)
    if body.style == "setup":
        name = body.hold(f"[{unit.make()} for _ in range(2)]")
        body.say(Block(f"for layer in {name}:", ["x = layer(x)"]))
    else:
        body.say(Block("for _ in range(2):", [f"x = {unit.make()}(x)"]))


def copied(body: Body) -> None:
    """A clone or copy of a submodule."""
    unit = body.unit(cell=True)
    if unit.cls == "functools.partial":
        return
    name = body.submodule(unit, held=True)
    more = body.book.fresh("c")
    how = body.draw.pick("clone()", "copy()", "copy()",
                         f"copy(name={more!r})", f"clone(name={more!r})")  # fmt: skip
    other = body.hold(f"{name}.{how}")
    body.say(f"x = {name}(x)", f"x = {other}(x)")


def intercepted(body: Body) -> None:
    from tests.compat.programs.parts import interceptor

    unit = body.unit()
    name = body.submodule(unit, held=body.style == "setup")
    filters = [f"nn.intercept_methods({interceptor(body.book)})"]
    if body.draw.chance(0.3):
        filters.append(f"nn.intercept_methods({interceptor(body.book)})")
    body.say(Block(f"with {', '.join(filters)}:", [f"x = {name}(x)"]))
    body.shape = unit.given


def scope_shared(body: Body) -> None:
    """The variables of a submodule are those of the module."""
    unit = body.unit()
    if unit.cls == "functools.partial":
        return
    name = body.hold(unit.make())
    line = f"nn.share_scope(self, {name})"
    body.before.append(line) if body.style == "setup" else body.say(line)
    body.say(f"x = {name}(x)")
    body.shape = unit.given


def boundless(body: Body) -> None:
    """A module that is used inside without being a part: its own variables."""
    unit = body.unit()
    made = unit.make("parent=None") if unit.cls != "functools.partial" else ""
    if not made or body.depth < 1:
        return
    body.say(f"other = {made}")
    keys = "{'params': jax.random.key(1), 'noise': jax.random.key(2), 'dropout': jax"
    body.say(f"x, held = other.init_with_output({keys}.random.key(3)}}, x)")
    body.say("seen.append(jax.tree.map(jnp.shape, held))")
    body.shape = unit.given


Maker = Callable[[Body], None]
STATEMENTS: tuple[tuple[Maker, int], ...] = (
    (call, 10),
    (share, 3),
    (several, 3),
    (passed, 3),
    (parameter, 5),
    (variable, 5),
    (put, 1),
    (sow, 4),
    (perturb, 1),
    (noise, 2),
    (cell, 1),
    (spectral, 1),
    (embed, 1),
    (constructor, 1),
    (repeated, 2),
    (copied, 1),
    (intercepted, 1),
    (scope_shared, 1),
    (boundless, 1),
    (activation, 3),
    (fact, 3),
    *LIFTS,
    *SEQUENCES,
    *PASSING,
)


def statement(body: Body) -> None:
    """Adds one more statement, or a few that belong together."""
    makers, weights = zip(*STATEMENTS, strict=True)
    (maker,) = body.draw.choices(makers, weights)
    maker(body)
    body.calm()
