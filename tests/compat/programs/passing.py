"""Statements that pass modules, variables and flags to lifted functions."""

from __future__ import annotations

from collections.abc import Callable

from tests.compat.programs.bodies import Body
from tests.compat.programs.layers import Unit, initializer
from tests.compat.programs.lifts import META, plain, target
from tests.compat.programs.parts import axes, splits
from tests.compat.programs.syntax import Block, Class, Function, Statement


def helper(
    body: Body,
    parameters: str,
    *lines: Statement,
    fields: tuple[str, ...] = (),
    compact: bool = True,
) -> str:
    """A class of modules with one method; its name."""
    owner = Class(body.book.fresh("M"), fields=list(fields))
    mark = ["nn.compact"] if compact else []
    owner.methods = [Function("__call__", f"self, {parameters}", list(lines), mark)]
    body.book.program.definitions.append(owner)
    return owner.name


def transform(body: Body) -> str:
    """A transform that changes no shapes; most often compiles."""
    return body.draw.pick("nn.jit({0})", "nn.jit({0})", "nn.remat({0})", plain(body))


def held(body: Body, name: str = "") -> tuple[str, Unit]:
    """A submodule that is used again, and what it is."""
    unit = target(body, body.shape, cell=True)
    return body.hold(unit.make(*([f"name={name!r}"] if name else []))), unit


def module_argument(body: Body) -> None:
    """A module is an argument of a lifted function, next to the first."""
    draw = body.draw
    first, _ = held(body)
    other, _ = held(body)
    if draw.chance(0.3):
        body.say(f"x = {other}(x)")
    call = draw.pick(
        f"{transform(body).format('lambda m, o, x: o(m(x))')}({first}, {other}, x)",
        f"{transform(body).format('lambda m, o, x: m(x) + o[0](x)')}"
        f"({first}, [{other}], x)",
        f"{transform(body).format('lambda m, x: m[1](m[0](x))')}"
        f"(({first}, {other}), x)",
    )
    body.say(f"x = {call}")


def module_to_class(body: Body) -> None:
    """A module is an argument of a call of a lifted class, perhaps nested."""
    draw = body.draw
    other, _ = held(body)
    own = f"nn.Dense({body.shape[-1]})"
    name = helper(body, "x, other", f"return {own}(other(x))")
    if draw.chance(0.4):
        inner = transform(body).format(name)
        name = helper(body, "x, other", f"return {inner}()(x, other)")
    lifted = body.submodule(Unit(transform(body).format(name), "", (), ()), held=True)
    body.say(f"x = {lifted}(x, {other})")
    if draw.chance(0.3):
        body.say(f"x = {lifted}(x, {other})")


def variable_argument(body: Body) -> None:
    """A variable is an argument of a lifted function or of a compiled module."""
    draw = body.draw
    name = body.book.fresh("v")
    variable = body.hold(f"self.variable('state', {name!r}, jnp.zeros, ())", "v")
    change = draw.pick("v.value = v.value + 1", "seen.append(v.value.shape)")
    guard = Block("if not self.is_initializing():", [change])
    lines = [guard, f"return nn.Dense({body.shape[-1]})(x) + v.value"]
    owner = helper(body, "x, v", *lines)
    if draw.chance(0.4):
        inner = transform(body).format(owner)
        owner = helper(body, "x, v", f"return {inner}()(x, v)")
    lifted = body.submodule(Unit(transform(body).format(owner), "", (), ()))
    if draw.chance(0.6):
        body.say(f"x = {lifted}(x, {variable})")
    else:
        function = transform(body).format("lambda m, v, x: x + v.value")
        body.say(f"x = {function}(self, {variable}, x)")


def flags(body: Body) -> None:
    """Arguments that stay Python values: `static_argnums`."""
    draw = body.draw
    width = body.shape[-1]
    lines: list[Statement] = [
        Block("if train:", [f"x = nn.Dense({width})(x)"]),
        f"x = nn.Dropout(0.5, deterministic=not train)(nn.Dense({width})(x))",
        "seen.append((type(train).__name__, train, scale))",
        "return x * scale",
    ]
    default = draw.pick("train, scale=1", "train=False, scale=1")
    owner = helper(body, f"x, {default}", *lines)
    kind = draw.pick("jit", "remat", "checkpoint")
    numbers = draw.pick(
        "(2,)", "2", "(1,)", "(2, 3)", "(2, 3)", "(-1,)", "(1, 2)", "()"
    )
    if kind == "jit" and draw.chance(0.3):
        options = "static_argnames=('train',)"
    else:
        options = f"static_argnums={numbers}"
    call = draw.pick("True", "True", "False", "True, 2", "train=True", "True, scale=3")
    name = body.submodule(Unit(f"nn.{kind}({owner}, {options})", "", (), ()), held=True)
    body.say(f"x = {name}(x, {call})")
    if draw.chance(0.3):
        body.say(f"x = {name}(x, {call.replace('True', 'False')})")


def partial_target(body: Body) -> None:
    """A partial class or function is what is lifted."""
    draw = body.draw
    unit = target(body, body.shape, cell=True)
    made = f"functools.partial({', '.join(filter(None, (unit.cls, unit.args)))})"
    kind = draw.pick("class", "class", "function", "method")
    if kind == "class":
        lift = transform(body)
        if len(body.shape) > 1 and draw.chance(0.4):
            lift = f"nn.vmap({{0}}, variable_axes={axes(draw)}, split_rngs="
            lift += f"{splits(draw)}, axis_size={body.shape[0]})"
            lift = lift.replace("{", "{{").replace("}", "}}").replace("{{0}}", "{0}", 1)
            unit = target(body, body.shape[1:], cell=True)
            made = (
                f"functools.partial({', '.join(filter(None, (unit.cls, unit.args)))})"
            )
        body.say(f"x = {lift.format(made)}()(x)")
    elif kind == "function":
        name = body.hold(unit.make())
        function = body.book.define("step", "m, x, scale", "return m(x) * scale")
        function = f"functools.partial({function}, scale=2)"
        body.say(f"x = {transform(body).format(function)}({name}, x)")
    else:
        name = body.hold(unit.make())
        method = f"{unit.cls}.__call__"
        if "(" not in unit.cls:
            body.say(f"x = {transform(body).format(method)}({name}, x)")


def names(body: Body) -> None:
    """Names are taken outside and inside of a lifted body."""
    if body.style == "setup":
        return
    draw, width = body.draw, body.shape[-1]
    name = body.book.fresh("n")
    given = draw.pick(f", name={name!r}", "")
    made = f"nn.Dense({width}{given})"
    other = f"nn.Dense({width}{draw.pick(given, '')})"
    lines: list[Statement] = [
        f"x = {transform(body).format(f'lambda m, x: {made}(x)')}(self, x)"
    ]
    again = transform(body).format("nn.Dense")
    lines.append(draw.pick(f"x = {other}(x)", f"self.sow('state', {name!r}, x)",
                           f"p = self.param({name!r}, nn.initializers.ones, ())",
                           f"x = {again}({width})(x)"))  # fmt: skip
    draw.shuffle(lines)
    body.say(*lines)


def outside(body: Body) -> None:
    """A module of the scope outside is called in a lifted body."""
    other, _ = held(body)
    body.say(f"x = {other}(x)")
    inner = body.draw.pick(f"{other}(x)", f"m(x) + {other}(x)")
    first, _ = held(body)
    kind = body.draw.pick("transform", "transform", "vmap", "scan", "cond")
    function = f"lambda m, x: {inner}"
    if kind == "vmap":
        lift = "nn.vmap({0}, variable_axes={{'params': None}}, split_rngs={{}})"
        body.say(f"x = {lift.format(function)}({first}, x[None])[0]")
    elif kind == "scan":
        body.say(
            f"x, _ = nn.scan(lambda m, x, _: (({function})(m, x), None), "
            f"variable_broadcast='params', split_rngs={{'params': False}}, length=2)"
            f"({first}, x, None)"
        )
    elif kind == "cond":
        body.say(f"x = nn.cond(True, {function}, lambda m, x: x, {first}, x)")
    else:
        body.say(f"x = {transform(body).format(function)}({first}, x)")


def made_in_scan(body: Body) -> None:
    """State that is first made inside a scan that carries it."""
    draw = body.draw
    lines = [
        "n = self.variable('state', 'n', lambda: jnp.zeros(()))",
        Block("if not self.is_initializing():", ["n.value = n.value + 1"]),
        f"c = nn.Dense({body.shape[-1]})(c) + n.value",
        "self.sow('intermediates', 'c', c)",
        "return c, n.value",
    ]
    owner = helper(body, "c, x", *lines)
    params = draw.pick("variable_broadcast='params'", "variable_axes={'params': 0}",
                       "variable_axes={'params': 0, 'intermediates': 0}")  # fmt: skip
    split = f"split_rngs={{'params': {draw.chance(0.6)}}}"
    options = draw.arguments(["reverse=True", "unroll=2"], 0.1)
    text = (
        f"nn.scan({owner}, {params}, variable_carry='state', {split}, "
        f"length={draw.pick(1, 2, 3)}{options})"
    )
    name = body.submodule(Unit(text, "", (), ()))
    body.say(f"x, ns = {name}(x, None)", "seen.append(ns.shape)")


def partitioned_stack(body: Body) -> None:
    """Layers with named axes, stacked: axes get names and lose them again."""
    draw, width = body.draw, body.shape[-1]
    init = initializer(draw, 2, 1.0)
    bias = initializer(draw, 1, 0.7)
    dense = f"nn.Dense({width}, kernel_init={init}, bias_init={bias})"
    kind = draw.pick("remat_scan", "remat_scan", "scan", "vmap", "scan_vmap")
    if kind == "remat_scan":
        owner = helper(body, "x", f"return {dense}(x)")
        options = draw.pick(
            "",
            ", variable_axes={'params': 0}, split_rngs={'params': True}",
            ", variable_axes={'params': 1}, split_rngs={'params': True}",
            ", variable_broadcast='params', split_rngs={'params': False}",
        )
        text = f"nn.remat_scan({owner}, lengths={draw.pick('(2,)', '(2, 2)')}{options})"
        body.say(f"x = {body.submodule(Unit(text, '', (), ()))}(x)")
        return
    position = draw.pick(0, 0, 1)
    name = draw.pick("'layers'", "'layers'", "None")
    meta = f"metadata_params={{nn.PARTITION_NAME: {name}}}"
    given = f"variable_axes={{'params': {position}}}, split_rngs={{'params': True}}"
    if kind == "vmap":
        owner = helper(body, "x", f"return {dense}(x)")
        text = f"nn.vmap({owner}, {given}, {meta}, in_axes=None, axis_size=2)"
        body.say(f"x = {body.submodule(Unit(text, '', (), ()))}(x)[0]")
        return
    owner = helper(body, "c, _", f"return {dense}(c), None")
    text = f"nn.scan({owner}, {given}, {meta}, length=2)"
    if kind == "scan":
        body.say(f"x, _ = {body.submodule(Unit(text, '', (), ()))}(x, None)")
        return
    text = f"nn.vmap({text}, {given}, {META}, in_axes=None, axis_size=2)"
    body.say(f"x, _ = {body.submodule(Unit(text, '', (), ()))}(x, None)", "x = x[0]")


def changed_rank(body: Body) -> None:
    """A box whose value has another rank inside than outside."""
    draw, width = body.draw, body.shape[-1]
    init = f"nn.with_partitioning(nn.initializers.ones, ('in',)), ({width},)"
    name = body.book.fresh("w")
    owner = helper(body, "x", f"return x * self.param({name!r}, {init})")
    there = draw.pick("v[0]", "jnp.mean(v, 0)", "v.reshape(-1)")
    back = draw.pick("v[None]", "jnp.stack([v, v])") if there != "v.reshape(-1)" else (
        "v.reshape(1, -1)")  # fmt: skip
    text = (
        f"nn.map_variables({owner}, 'params', "
        f"lambda vs: jax.tree.map(lambda v: {there}, vs), "
        f"lambda vs: jax.tree.map(lambda v: {back}, vs), "
        "init=self.is_initializing())"
    )
    body.say(f"x = {body.submodule(Unit(text, '', (), ()))}(x)")


def equal_blocks(body: Body) -> None:
    """Compiled blocks that are equal but for their names."""
    draw = body.draw
    unit = target(body, body.shape, cell=True)
    options = draw.arguments(["variables=True"], 0.1)
    lifted = Unit(f"nn.jit({unit.cls}{options})", unit.args, (), ())
    count = draw.pick(2, 3)
    if draw.chance(0.3):
        lifted = unit
        function = "nn.jit(lambda m, x: m(x))"
    else:
        function = "(lambda m, x: m(x))"
    blocks = body.hold(f"[{', '.join([lifted.make()] * count)}]")
    if draw.chance(0.3):
        body.say(f"block = {function}")
        function = "block"
    body.say(Block(f"for layer in {blocks}:", [f"x = {function}(layer, x)"]))


def many_axes(body: Body) -> None:
    """Axes of trees of arguments, and axes that stay out."""
    draw = body.draw
    if len(body.shape) < 2:
        return
    width = body.shape[-1]
    lines = [f"y = nn.Dense({width})(a['x'] + b)", "return {'y': y, 'b': b}"]
    owner = helper(body, "a, b", *lines)
    axis = draw.pick("({'x': 0}, None)", "({'x': 0, 'n': None}, None)", "(0, None)")
    given = "{'x': x, 'n': 2}" if "'n'" in axis else "{'x': x}"
    out = draw.pick("0", "{'y': 0, 'b': None}", "{'y': 1, 'b': 0}")
    kind = draw.pick("vmap", "vmap", "scan")
    own = f"variable_axes={axes(draw, False)}, split_rngs={splits(draw, False)}"
    if kind == "vmap":
        text = f"nn.vmap({owner}, {own}, in_axes={axis}, out_axes={out})"
        body.say(f"x = {body.submodule(Unit(text, '', (), ()))}({given}, 1.0)['y']")
    else:
        lines = [f"c = nn.Dense({width})(c + a['x'] + b)", "return c, {'c': c}"]
        owner = helper(body, "c, a, b", *lines)
        out = draw.pick("0", "{'c': 0}", "-1")
        b = draw.pick("nn.broadcast", "nn.broadcast", "None")
        text = f"nn.scan({owner}, variable_broadcast='params', "
        text += "split_rngs={'params': False}, "
        text += f"in_axes=({draw.pick('0', dict_axis(axis))}, {b}), out_axes={out})"
        call = f"(x[0], {{'x': x}}, {'None' if b == 'None' else '1.0'})"
        body.say(f"x, ys = {body.submodule(Unit(text, '', (), ()))}{call}")
        body.say("seen.append(jax.tree.map(jnp.shape, ys))")
    body.reshape(body.shape)
    body.say(f"x = jnp.resize(x, {body.shape})")


def dict_axis(axis: str) -> str:
    return "{'x': 0}" if "{" in axis else "0"


def compiled_init(body: Body) -> None:
    """Variables of a part are read and written in other ways than by its call."""
    draw = body.draw
    name, _ = held(body)
    body.say(f"x = {name}(x)")
    choices = [
        f"seen.append(jax.tree.map(jnp.shape, {name}.variables))",
        f"seen.append({name}.path)",
        f"seen.append({name}.name)",
        f"seen.append({name}.scope is not None)",
        f"seen.append({name}.has_variable('params', 'kernel'))",
        f"seen.append(repr({name}))",
        f"x = x + {name}.clone()(x)",
        f"x = {name}.unbind()[0].apply({name}.unbind()[1], x)",
        f"x = {name}.clone(parent=None).apply({name}.variables, x)",
        f"seen.append({name} == {name}.clone())",
        f"seen.append({name}.unbind()[0] == {name}.clone(parent=None))",
        f"seen.append(hash({name}) == hash({name}.clone()))",
        f"x = nn.apply(lambda m, x: m(x), {name}.clone(parent=None))"
        f"({name}.variables, x)",
        f"x = jax.lax.stop_gradient({name}(x))",
        f"x = jax.checkpoint(lambda x: {name}(x))(x)",
        f"x = jax.vmap(lambda x: {name}.clone(parent=None).apply({name}.variables, x))"
        "(x[None])[0]",
        f"type({name})",
        f"seen.append([f.name for f in dataclasses.fields({name})])",
        f"x = x + sum(jnp.sum(p) for p in jax.tree.leaves({name}.variables['params']))",
    ]
    body.say(*draw.some(choices, 0.12)[:3])


PASSING: tuple[tuple[Callable[[Body], None], int], ...] = (
    (module_argument, 2),
    (module_to_class, 2),
    (variable_argument, 2),
    (flags, 2),
    (partial_target, 2),
    (names, 1),
    (outside, 1),
    (made_in_scan, 1),
    (partitioned_stack, 2),
    (changed_rank, 1),
    (equal_blocks, 2),
    (many_axes, 2),
    (compiled_init, 2),
)
