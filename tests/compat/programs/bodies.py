"""The body of a method as it is written, and the program around it."""

from __future__ import annotations

from tests.compat.programs.layers import Unit, fit, layer
from tests.compat.programs.syntax import (
    Block,
    Class,
    Draw,
    Function,
    Program,
    Shape,
    Statement,
)

STREAMS = ("params", "dropout", "noise")
COLLECTIONS = ("params", "state", "batch_stats", "intermediates", "perturbations")


class Book:
    """A program in the making."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.program = Program()
        self.modules: list[Unit] = []
        self.count = 0

    def fresh(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def define(self, name: str, parameters: str, *body: Statement) -> str:
        """A function of the program: `name` with a number."""
        name = self.fresh(name)
        self.program.definitions.append(Function(name, parameters, list(body)))
        return name


class Body:
    """Statements of a method that takes `x`, and the shape that `x` has by now.

    Attributes:
        style: `compact`, or `setup`, where submodules are made in `setup`.
        before: statements of the method `setup`.
        depth: how many levels of modules may still come below.
    """

    def __init__(
        self, book: Book, owner: Class, shape: Shape, style: str, depth: int
    ) -> None:
        self.book, self.draw, self.owner = book, book.draw, owner
        self.shape, self.style, self.depth = shape, style, depth
        self.lines: list[Statement] = []
        self.before: list[Statement] = []

    def say(self, *lines: Statement) -> None:
        self.lines.extend(lines)

    def hold(self, expression: str, prefix: str = "a") -> str:
        """The name of a value that is made once, in `setup` if there is one."""
        name = self.book.fresh(prefix)
        if self.style == "setup":
            self.before.append(f"self.{name} = {expression}")
            return f"self.{name}"
        self.say(f"{name} = {expression}")
        return name

    def unit(self, shape: Shape | None = None, cell: bool = False) -> Unit:
        """A layer, or a module of this program, for an array like `x`.

        Args:
            shape: shape of the array, if not that of `x`.
            cell: whether the result must have the shape of the array.
        """
        shape = shape or self.shape
        own = [u for u in self.book.modules if u.taken == shape]
        if self.depth > 0 and self.draw.chance(0.45):
            from tests.compat.programs.modules import module  # a module has bodies

            return module(self.book, shape, self.depth - 1, cell)
        if cell:
            own = [u for u in own if u.given == shape]
        if own and self.draw.chance(0.35):
            return self.draw.pick(*own)
        if cell:
            return Unit("nn.Dense", f"{shape[-1]}", shape, shape)
        return layer(self.draw, shape)

    def submodule(self, unit: Unit, held: bool = False) -> str:
        """An expression for a submodule; `held`, a name that may be used again."""
        names = [f"name={self.book.fresh('n')!r}"] if self.draw.chance(0.15) else []
        if unit.cls == "functools.partial" or self.style == "setup":
            names = []
        if self.style == "setup" or held:
            return self.hold(unit.make(*names))
        return unit.make(*names)

    def reshape(self, shape: Shape) -> None:
        """Brings `x` to a shape."""
        if shape != self.shape:
            self.say(f"x = jnp.resize(x, {shape})")
            self.shape = shape

    def calm(self) -> None:
        """Keeps `x` small."""
        if len(self.shape) > 3 or any(n > 4 for n in self.shape):
            self.reshape(fit(self.shape))

    def when(self, condition: str, *body: Statement) -> None:
        self.say(Block(f"if {condition}:", list(body)))
