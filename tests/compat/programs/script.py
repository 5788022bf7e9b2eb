"""The script of a program in the making, and its first statements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.compat.programs.bodies import Book
from tests.compat.programs.layers import Unit
from tests.compat.programs.parts import capture, mutable
from tests.compat.programs.syntax import Draw, Statement

KEYS = (
    "{'params': key, 'dropout': jax.random.key(1), 'noise': jax.random.key(2), "
    "'unknown': jax.random.key(3)}"
)
RNGS = "rngs={'dropout': jax.random.key(4), 'noise': jax.random.key(5)}"


@dataclass
class Script:
    """The script in the making.

    Attributes:
        unit: the module that it is about.
        more: arguments that calls of `apply` take.
    """

    book: Book
    unit: Unit

    def __post_init__(self) -> None:
        self.draw: Draw = self.book.draw
        self.lines: list[Statement] = []

    def say(self, *lines: Statement) -> None:
        self.lines.extend(lines)

    def result(self, text: str, kind: str = "y") -> None:
        """Keeps a value for the comparison."""
        self.say(f"out[{self.book.fresh(kind)!r}] = {text}")

    def rngs(self) -> str:
        return self.draw.pick(RNGS, RNGS, RNGS, RNGS, RNGS, "rngs=key")

    def apply(self, first: str = "variables", keep: str = "") -> str:
        """A call of `apply` whose result is the output alone."""
        return f"model.apply({first}, x, {keep or self.rngs()})"

    def changing(self, first: str = "variables") -> str:
        """A call of `apply` whose result has updated collections too."""
        return f"model.apply({first}, x, {self.rngs()}, mutable=True)[0]"

    def method(self) -> str:
        """Arguments that choose another method, perhaps."""
        name = self.unit.cls
        ways = ["method='__call__'", f"method={name}.__call__"]
        ways += ["method=lambda m, x: m(x)", "method=lambda m, x: m(x) * 2"]
        ways += [f"method=functools.partial({name}.__call__)", "method=model.__call__"]
        ways += ["method=nn.nowrap(lambda m, x: m(x))", "method=lambda m, *a: m(*a)"]
        ways += [
            f"method=nn.remat({name}.__call__)",
            "method=nn.jit(lambda m, x: m(x))",
        ]
        ways += [f"method=lambda m, x: {name}.__call__(m, x)"]
        if self.unit.parts:
            ways += [f"method={self.draw.pick(*self.unit.parts)!r}"] * 2
            part = self.draw.pick(*self.unit.parts)
            ways += [f"method=lambda m, x: m.{part}(x)", f"method=lambda m: m.{part}"]
        for other in self.unit.methods:
            ways += [f"method={other!r}", f"method={name}.{other}"]
        return f", {self.draw.pick(*ways)}" if self.draw.chance(0.3) else ""


Act = Callable[[Script], None]


def begin(script: Script) -> None:
    """Makes variables."""
    draw = script.draw
    keys = draw.pick(KEYS, KEYS, KEYS, "key")
    extra = script.method() if draw.chance(0.2) else ""
    ways = [
        *[f"model.init({keys}, x{extra})"] * 8,
        f"jax.jit(model.init)({keys}, x)",
        f"model.init({keys}, x, mutable={draw.pick('True', mutable(draw))})",
        f"model.init({keys}, x, capture_intermediates={capture(script.book)})",
        f"model.lazy_init({keys}, jax.ShapeDtypeStruct(x.shape, x.dtype))",
        f"nn.init(lambda m, x: m(x), model)({keys}, x)",
        f"nn.init_with_output(lambda m, x: m(x), model)({keys}, x)[1]",
        f"model.init_with_output({keys}, x)[1]",
    ]
    script.say(f"variables = {draw.pick(*ways)}")
    script.result("variables", "init")
    if draw.chance(0.15):
        script.say("variables = nn.unbox(variables)")
    elif draw.chance(0.1):
        script.say("variables = nn.FrozenDict(variables)")


def filled(script: Script) -> None:
    """Other values for the variables, with which results are compared."""
    script.say(
        "variables = jax.tree.map("
        "lambda v: (jnp.cos(jnp.arange(jnp.size(v))).reshape(jnp.shape(v)) / 2)"
        ".astype(jnp.result_type(v)), "
        "variables)"
    )
