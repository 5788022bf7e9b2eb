"""Classes of modules: their fields, `setup`, and methods."""

from __future__ import annotations

from collections.abc import Callable

from tests.compat.programs.bodies import Body, Book
from tests.compat.programs.layers import Unit
from tests.compat.programs.lifts import plain
from tests.compat.programs.statements import statement
from tests.compat.programs.syntax import Block, Class, Function, Shape


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
    unit = Unit(owner.name, given, shape, body.shape, methods)
    book.modules.append(unit)
    return unit


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


def inherit(body: Body) -> None:
    """Moves fields or everything into a base class, perhaps."""
    draw, owner, program = body.draw, body.owner, body.book.program
    kind = draw.pick(*["none"] * 8, "fields", "all", "abstract", "generic", "kw")
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


# Fields: each declares one, uses it in the body, and returns the argument to pass.
Field = Callable[[Body], str]


def declare(body: Body, name: str, annotation: str, default: str | None) -> str:
    """Declares a field; returns its name for the body."""
    text = f"{name}: {annotation}"
    if default is not None:
        body.owner.fields.append(f"{text} = {default}")
    else:  # those without a default come first
        body.owner.fields.insert(0, text)
    return f"self.{name}"


def width(body: Body) -> str:
    name, size = body.book.fresh("width"), body.draw.size()
    required = body.draw.chance(0.5)
    value = declare(body, name, "int", None if required else str(size))
    unit = Unit("nn.Dense", value, body.shape, (*body.shape[:-1], size))
    body.say(f"x = {body.submodule(unit)}(x)")
    body.shape = unit.given
    return f"{name}={size}" if required or body.draw.chance(0.3) else ""


def widths(body: Body) -> str:
    sizes = tuple(body.draw.size() for _ in range(body.draw.pick(1, 2)))
    kind = body.draw.pick("tuple", "list")
    name = body.book.fresh("widths")
    if kind == "tuple":
        value = declare(body, name, "tuple[int, ...]", repr(sizes))
        given = ""
    else:
        value = declare(body, name, "Any", None)
        given = f"{name}={list(sizes)}"
    body.say(f"seen.append(type({value}).__name__)")
    if body.style == "setup":
        layers = body.hold(f"[nn.Dense(n) for n in {value}]")
        body.say(Block(f"for layer in {layers}:", ["x = layer(x)"]))
    else:
        body.say(Block(f"for n in {value}:", ["x = nn.Dense(n)(x)"]))
    body.shape = (*body.shape[:-1], sizes[-1])
    return given


def function(body: Body) -> str:
    default = body.draw.pick("nn.relu", "jnp.tanh", "nn.gelu", "lambda x: x * 2")
    name = body.book.fresh("act")
    value = declare(body, name, "Callable", default)
    body.say(f"x = {value}(x)")
    return body.draw.pick("", "", f"{name}=nn.silu")


def dtype(body: Body) -> str:
    name = body.book.fresh("dtype")
    value = declare(body, name, "Any", body.draw.pick("jnp.float32", "jnp.bfloat16"))
    unit = body.submodule(Unit("nn.Dense", f"3, dtype={value}", (), ()))
    body.say(f"x = {unit}(x)")
    body.shape = (*body.shape[:-1], 3)
    return body.draw.pick("", f"{name}=jnp.float16")


def options(body: Body) -> str:
    name = body.book.fresh("options")
    default = "dataclasses.field(default_factory=lambda: {'use_bias': False})"
    value = declare(body, name, "Any", default)
    body.say(f"seen.append(type({value}).__name__)")
    unit = body.submodule(Unit("nn.Dense", f"2, **{value}", (), ()))
    body.say(f"x = {unit}(x)")
    body.shape = (*body.shape[:-1], 2)
    return body.draw.pick("", f"{name}={{'use_bias': True, 'name': 'opted'}}")


def inner(body: Body) -> str:
    unit = body.unit()
    if unit.cls == "functools.partial":
        return ""
    name = body.book.fresh("inner")
    value = declare(body, name, body.draw.pick("nn.Module", "Any"), None)
    body.say(f"x = {value}(x)")
    body.shape = unit.given
    given = unit.make(*body.draw.some(["name='given'"], 0.15))
    return f"{name}={given}"


def parts(body: Body) -> str:
    units = [body.unit(cell=True) for _ in range(body.draw.pick(1, 2))]
    name = body.book.fresh("parts")
    value = declare(body, name, "Any", None)
    made = [u.make() for u in units]
    if body.draw.chance(0.5):
        body.say(Block(f"for layer in {value}:", ["x = layer(x)"]))
        return f"{name}={body.draw.pick('[{}]', '({},)').format(', '.join(made))}"
    body.say(Block(f"for k in {value}:", [f"x = {value}[k](x)"]))
    pairs = ", ".join(f"{k!r}: {m}" for k, m in zip("zy", made, strict=False))
    return f"{name}={{{pairs}}}"


def made(body: Body) -> str:
    name = body.book.fresh("made")
    default = "functools.partial(nn.Dense, use_bias=False)"
    value = declare(body, name, "Any", default)
    unit = body.submodule(Unit(value, "3", (), ()))
    body.say(f"x = {unit}(x)")
    body.shape = (*body.shape[:-1], 3)
    return body.draw.pick("", f"{name}=nn.Dense", f"{name}=nn.remat(nn.Dense)")


def late(body: Body) -> str:
    if body.style != "setup":
        return ""
    unit = body.unit()
    name = body.book.fresh("late")
    declare(body, name, "Any", "dataclasses.field(init=False)")
    body.before.append(f"self.{name} = {unit.make()}")
    body.say(f"x = self.{name}(x)")
    body.shape = unit.given
    return ""


def init_only(body: Body) -> str:
    name = body.book.fresh("only")
    declare(body, name, "dataclasses.InitVar[float]", "2.0")
    lines = [f"seen.append({name})", "super().__post_init__()"]
    body.owner.methods.append(Function("__post_init__", f"self, {name}", list(lines)))
    return body.draw.pick("", f"{name}=3.0")


def constant(body: Body) -> str:
    name = body.book.fresh("KIND")
    declare(body, name, "ClassVar[float]", "3.0")
    body.say(f"x = x * self.{name}")
    return ""


def flag(body: Body) -> str:
    field, given = body.draw.pick(("None", "True"), ("True", "None"), ("True", "None"))
    if body.draw.chance(0.05):
        given = "None"
    name = body.book.fresh("train")
    declare(body, name, "bool | None", field)
    body.say(f"seen.append(nn.merge_param({name!r}, self.{name}, {given}))")
    return f"{name}=False" if given == "None" and body.draw.chance(0.5) else ""


def maybe(body: Body) -> str:
    name = body.book.fresh("maybe")
    value = declare(body, name, "nn.Module | None", "None")
    body.when(f"{value} is not None", f"x = {value}(x)")
    body.shape = (*body.shape[:-1], 2)
    body.say(f"x = jnp.resize(x, {body.shape})")
    return body.draw.pick("", f"{name}=nn.Dense(2)")


def by_default(body: Body) -> str:
    """A module as the default of a field: shared by all instances of the class."""
    name = body.book.fresh("default")
    size = body.shape[-1]
    factory = f"dataclasses.field(default_factory=lambda: nn.Dense({size}))"
    value = declare(
        body, name, "nn.Module", body.draw.pick(f"nn.Dense({size})", factory)
    )
    body.say(f"x = {value}(x)")
    return ""


COMMON: tuple[Field, ...] = (
    width,
    width,
    widths,
    function,
    dtype,
    options,
    inner,
    inner,
    parts,
    made,
    constant,
    flag,
    maybe,
    by_default,
)
FIELDS = (*COMMON, *COMMON, *COMMON, init_only, late)
