"""Fields of modules, and what else dataclasses can do."""

from __future__ import annotations

from collections.abc import Callable

from tests.compat.programs.bodies import Body
from tests.compat.programs.layers import Unit
from tests.compat.programs.syntax import Block, Class, Function

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
    if has(body, "__post_init__"):
        return ""
    name = body.book.fresh("only")
    declare(body, name, "dataclasses.InitVar[float]", "2.0")
    lines = [f"seen.append({name})", "super().__post_init__()"]
    body.owner.methods.append(Function("__post_init__", f"self, {name}", list(lines)))
    return body.draw.pick("", f"{name}=3.0")


def has(body: Body, method: str) -> bool:
    return any(one.name == method for one in body.owner.methods)


def derived(body: Body) -> str:
    """A field that `__post_init__` computes from another."""
    if has(body, "__post_init__"):
        return ""
    name, other = body.book.fresh("n"), body.book.fresh("twice")
    kind = body.draw.pick("field", "field", "replaced")
    value = declare(body, name, "Any", "2")
    if kind == "field":
        options = body.draw.pick("", ", repr=False", ", compare=False", ", default=0")
        declare(body, other, "int", f"dataclasses.field(init=False{options})")
        lines = [f"self.{other} = 2 * {value}", "super().__post_init__()"]
    else:
        other = name
        lines = [f"if {value} is None:", f"    {value} = 3", "super().__post_init__()"]
    body.owner.methods.append(Function("__post_init__", "self", list(lines)))
    unit = Unit("nn.Dense", f"int(self.{other})", (), ())
    body.say(f"x = {body.submodule(unit)}(x)")
    given = body.draw.pick("", f"{name}=1", f"{name}=None" if other == name else "")
    number = {"": 2, f"{name}=1": 1}.get(given, 3)
    body.shape = (*body.shape[:-1], number if other == name else 2 * number)
    return given


def keyword_only(body: Body) -> str:
    name = body.book.fresh("only")
    default = body.draw.pick(", default=2", ", default=2", "")
    value = declare(body, name, "int", f"dataclasses.field(kw_only=True{default})")
    body.say(f"x = x * {value}")
    return f"{name}=3" if not default or body.draw.chance(0.3) else ""


def unseen(body: Body) -> str:
    """A field that is no part of the text, of comparisons or of the hash."""
    name = body.book.fresh("aside")
    options = body.draw.some(
        ["repr=False", "compare=False", "hash=False", "metadata={'a': 1}"], 0.5
    )
    text = f"dataclasses.field({', '.join(['default=1', *options])})"
    value = declare(body, name, "Any", text)
    body.say(f"x = x + {value}")
    return body.draw.pick("", f"{name}=2", f"{name}=2.5")


def mutable_default(body: Body) -> str:
    name = body.book.fresh("factory")
    kind = body.draw.pick("list", "dict", "lambda: [1, 2]", "lambda: {'b': 1, 'a': 2}")
    value = declare(body, name, "Any", f"dataclasses.field(default_factory={kind})")
    body.say(f"seen.append((type({value}).__name__, sorted({value})))")
    given = "{'d': 3, 'c': 4}" if "dict" in kind or "{" in kind else "[3]"
    return body.draw.pick("", f"{name}={given}")


def configuration(body: Body) -> str:
    """A dataclass of options as the value of a field."""
    book = body.book
    cls = Class(book.fresh("Config"), "", ["width: int = 2", "scale: float = 0.5"])
    frozen = body.draw.pick("struct.dataclass", "dataclasses.dataclass(frozen=True)",
                            "dataclasses.dataclass")  # fmt: skip
    cls.decorators = [frozen]
    book.program.definitions.append(cls)
    name = book.fresh("config")
    value = declare(body, name, cls.name, None)
    body.say(f"x = {body.submodule(Unit('nn.Dense', f'{value}.width', (), ()))}(x)")
    body.say(f"x = x * {value}.scale")
    width = body.draw.pick(2, 3)
    body.shape = (*body.shape[:-1], width)
    return f"{name}={cls.name}({'' if width == 2 else 'width=3'})"


def computed(body: Body) -> str:
    """A property, a class method or a static method."""
    name = body.book.fresh("made")
    kind = body.draw.pick("property", "staticmethod", "classmethod", "cached")
    if kind == "property":
        method = Function(name, "self", ["return 2.0"], ["property"])
        use = f"self.{name}"
    elif kind == "cached":
        mark = ["functools.cached_property"]
        method = Function(name, "self", ["return 3.0"], mark)
        use = f"self.{name}"
    elif kind == "staticmethod":
        method = Function(name, "x", ["return x + 1"], ["staticmethod"])
        use = f"self.{name}(1)"
    else:
        method = Function(name, "cls", ["return len(cls.__name__)"], ["classmethod"])
        use = f"self.{name}()"
    body.owner.methods.append(method)
    body.say(f"x = x * {use}")
    return ""


def number(body: Body) -> str:
    """An array as the value of a field."""
    name = body.book.fresh("array")
    value = declare(body, name, "Any", None)
    body.say(f"x = x * {value}")
    return f"{name}={body.draw.pick('jnp.float32(2.0)', 'np.float32(2.0)', '2.0')}"


def optional_name(body: Body) -> str:
    """A submodule whose name is a field."""
    name = body.book.fresh("label")
    value = declare(body, name, "str | None", "None")
    if body.style == "setup":
        body.say(f"seen.append({value})")
        return f"{name}='b'"
    body.say(f"x = nn.Dense(2, name={value})(x)")
    body.shape = (*body.shape[:-1], 2)
    return body.draw.pick("", f"{name}='Dense_0'", f"{name}='b'")


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
RARE: tuple[Field, ...] = (
    derived,
    keyword_only,
    unseen,
    mutable_default,
    configuration,
    computed,
    number,
    optional_name,
)
FIELDS = (*COMMON, *COMMON, *COMMON, *RARE, *RARE, init_only, late)
