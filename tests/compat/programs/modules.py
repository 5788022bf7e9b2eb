"""Classes of modules: their fields, `setup`, and methods."""

from __future__ import annotations

import re

from tests.compat.programs.bodies import Body, Book
from tests.compat.programs.fields import FIELDS
from tests.compat.programs.layers import Unit
from tests.compat.programs.lifts import plain
from tests.compat.programs.statements import statement
from tests.compat.programs.syntax import Class, Draw, Function, Shape, Statement


def module(
    book: Book, shape: Shape, depth: int, cell: bool = False, top: bool = False
) -> Unit:
    """A new class of modules that take one array of this shape.

    Args:
        book: the program around it.
        shape: shape of the array.
        depth: levels of modules of the program that may be below.
        cell: whether the result has the shape of the array.
        top: whether it is the module that the script is about.
    """
    draw = book.draw
    owner = Class(book.fresh("M"))
    style = draw.pick("compact", "compact", "setup")
    body = Body(book, owner, shape, style, depth)
    args = [field(body) for field in draw.choices(FIELDS, k=draw.pick(0, 0, 1, 1, 2))]
    for _ in range(draw.pick(1, 2, 2, 3, 4)):
        statement(body)
    if cell or draw.chance(0.2):
        body.reshape(shape)
        body.say("x = x.astype(jnp.float32)")
    methods = finish(body, top)
    inherit(body)
    book.program.definitions.append(owner)
    given = ", ".join(filter(None, args))
    unit = Unit(owner.name, given, shape, body.shape, methods, parts(body, args))
    book.modules.append(unit)
    return unit


def parts(body: Body, args: list[str]) -> tuple[str, ...]:
    """Names of attributes that hold one module."""
    made = re.findall(
        r"self\.(a\d+) = (?:nn\.[A-Z]|M)", "\n".join(map(str, body.before))
    )
    given = re.findall(r"^(inner\d+)=", "\n".join(filter(None, args)), re.MULTILINE)
    return (*made, *given)


def finish(body: Body, top: bool) -> tuple[str, ...]:
    """Makes methods of the statements; returns names of more than `__call__`."""
    draw, owner = body.draw, body.owner
    methods: tuple[str, ...] = ()
    decorators = ["nn.compact"] if body.style == "compact" else []
    if body.style == "setup" and body.before:
        owner.methods.append(Function("setup", "self", body.before))
    if draw.chance(0.12):
        name, _, rest = plain(body, inside=False).format("")[:-1].partition("(")
        rest = rest.removeprefix(", ")
        decorators.insert(0, f"functools.partial({name}, {rest})" if rest else name)
    lines = [*body.lines, "return x"]
    kind = draw.pick("plain", "plain", "plain", "helper", "named", "nowrap", "super")
    if kind == "helper" and body.style == "setup":
        name = draw.pick("helper", "run")
        owner.methods.append(Function(name, "self, x", lines, decorators))
        lines, decorators, methods = [f"return self.{name}(x)"], [], (name,)
    elif kind == "helper":
        name = draw.pick("helper", "run")
        owner.methods.append(Function("__call__", "self, x", lines, decorators))
        owner.methods.append(Function(name, "self, x", ["return self(x)"]))
        return (name,)
    elif kind == "named" and body.style == "compact" and (top or draw.chance(0.02)):
        inner = ["return nn.Dense(x.shape[-1])(x)"]
        mark = ["nn.compact_name_scope"]
        owner.methods.append(Function("part", "self, x", inner, mark))
        lines.insert(0, "x = self.part(x)")
        if draw.chance(0.2):
            lines.insert(0, "x = self.part(x)")
    elif kind == "nowrap":
        mark = ["nn.nowrap"] if draw.chance(0.7) else []
        inner = ["seen.append(self.name)", "return x + 1"]
        owner.methods.append(Function("shift", "self, x", inner, mark))
        lines.insert(0, "x = self.shift(x)")
    owner.methods.append(Function("__call__", "self, x", lines, decorators))
    return methods


INHERITANCE = ("fields", "all", "abstract", "generic", "kw", "steps", "mixin", "setup")


def call_of(owner: Class) -> list[Statement]:
    """The body of `__call__`."""
    return next(m.body for m in owner.methods if m.name == "__call__")


def fields_of(draw: Draw, base: str) -> list[str]:
    """A field of a mixin, perhaps."""
    return draw.pick([], ["mixed: int = 1"] if base else ["mixed = 1"])


def inherit(body: Body) -> None:
    """Moves fields or everything into a base class, perhaps."""
    draw, owner, program = body.draw, body.owner, body.book.program
    kind = draw.pick(*["none"] * 10, *INHERITANCE)
    if kind == "kw":
        owner.bases = "nn.Module, kw_only=True"
    elif kind == "generic":
        owner.bases = "nn.Module, Generic[T]"
    elif kind == "fields":
        base = Class(body.book.fresh("Base"), "nn.Module", owner.fields)
        owner.bases, owner.fields = base.name, ["size: int = 2"]
        program.definitions.append(base)
    elif kind == "abstract":
        base = Class(body.book.fresh("Base"), "nn.Module, abc.ABC", ["tag: str = 'a'"])
        hollow = Function("__call__", "self, x", ["..."], ["abc.abstractmethod"])
        base.methods.append(hollow)
        owner.bases = base.name
        if any("=" not in text for text in owner.fields):
            owner.bases += ", kw_only=True"
        program.definitions.append(base)
    elif kind == "steps":
        last = Class(body.book.fresh("Base"), owner.bases, owner.fields)
        base = Class(body.book.fresh("Base"), last.name, ["size: int = 2"])
        owner.bases, owner.fields = base.name, ["size: int = 3", "extra: Any = None"]
        program.definitions += [last, base]
    elif kind == "mixin":
        mixed = ["def shifted(self, x):", "    return x + 1"]
        kind = draw.pick("", "", "nn.Module")
        base = Class(body.book.fresh("Mixin"), kind, [*mixed, *fields_of(draw, kind)])
        owner.bases = draw.pick(f"{base.name}, nn.Module", f"nn.Module, {base.name}")
        if kind:
            owner.bases = base.name
        call_of(owner).insert(0, "x = self.shifted(x)")
        program.definitions.append(base)
    elif kind == "setup":
        first = Function("setup", "self", ["self.basic = nn.Dense(2)"])
        base = Class(body.book.fresh("Base"), "nn.Module", [], [first])
        owner.bases = base.name
        more = [m for m in owner.methods if m.name == "setup"]
        for one in more:
            one.body.insert(0, "super().setup()")
        call_of(owner).insert(0, "seen.append(self.basic(x).shape)")
        program.definitions.append(base)
    elif kind == "all":
        base = Class(body.book.fresh("Base"), owner.bases, owner.fields, owner.methods)
        program.definitions.append(base)
        owner.bases, owner.fields = base.name, []
        call = "return super().__call__(x)"
        owner.methods = [Function("__call__", "self, x", [call])]


def step(book: Book, shape: Shape, depth: int) -> Unit:
    """A class of modules that take a carry and an array and return both."""
    owner = Class(book.fresh("Step"))
    style = book.draw.pick("compact", "compact", "setup")
    body = Body(book, owner, shape, style, depth)
    body.say("x = carry + x")
    for _ in range(book.draw.pick(1, 2, 3)):
        statement(body)
    last = f"jnp.resize(x, {shape}).astype(carry.dtype)"
    body.say(f"return {last}, x")
    if body.before:
        owner.methods.append(Function("setup", "self", body.before))
    mark = ["nn.compact"] if style == "compact" else []
    owner.methods.append(Function("__call__", "self, carry, x", body.lines, mark))
    book.program.definitions.append(owner)
    return Unit(owner.name, "", shape, shape)
