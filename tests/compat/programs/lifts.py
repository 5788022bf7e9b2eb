"""Statements with lifted transforms, as classes and as functions."""

from __future__ import annotations

from collections.abc import Callable

from tests.compat.programs.bodies import Body
from tests.compat.programs.layers import Unit
from tests.compat.programs.parts import axes, scanned, splits
from tests.compat.programs.syntax import Shape

POLICIES = ("everything_saveable", "nothing_saveable", "dots_saveable")
META = "metadata_params={nn.PARTITION_NAME: 'layers'}"


def without(shape: Shape, axis: int) -> Shape:
    return tuple(n for i, n in enumerate(shape) if i != axis % len(shape))


def with_axis(shape: Shape, axis: int, size: int) -> Shape:
    position = axis if axis >= 0 else len(shape) + 1 + axis
    return (*shape[:position], size, *shape[position:])


def plain(body: Body, inside: bool = True) -> str:
    """A transform that changes neither shapes nor the signature.

    Args:
        body: where it is used.
        inside: whether in a method, where there is `self`.
    """
    draw = body.draw
    kind = draw.pick("remat", "checkpoint", "jit", "jit", "fold_rngs", "map", "axis")
    if kind in ("remat", "checkpoint"):
        policy = f"policy=jax.checkpoint_policies.{draw.pick(*POLICIES)}"
        choices = [policy, "prevent_cse=False", "rngs=['params', 'noise', 'dropout']"]
        choices += ["variables=['params', 'state', 'batch_stats', 'intermediates']"]
        return f"nn.{kind}({{0}}{draw.arguments(choices)})"
    if kind == "jit":
        choices = ["variables=['params', 'state', 'batch_stats', 'intermediates']"]
        choices += ["rngs=['params', 'noise', 'dropout']"]
        return f"nn.jit({{0}}{draw.arguments(choices, 0.1)})"
    if kind == "axis":
        given = f"variable_axes={{{{'params': {draw.pick(0, 1, -1)}}}}}, "
        given += META.replace("{", "{{").replace("}", "}}")
        return f"nn.add_metadata_axis({{0}}, {given})"
    if kind == "map":
        there = draw.pick("x * 2", "x + 1", "-x", "x", "x.T")
        back = {"x * 2": "x / 2", "x + 1": "x - 1"}.get(there, there)
        collections = draw.pick("'params'", "'params'", "['params']", "'state'")
        text = (
            f"nn.map_variables({{0}}, mapped_collections={collections}, "
            f"trans_in_fn=lambda vs: jax.tree.map(lambda x: {there}, vs)"
        )
        if draw.chance(0.8):
            text += f", trans_out_fn=lambda vs: jax.tree.map(lambda x: {back}, vs)"
        init = "self.is_initializing()" if inside and draw.chance(0.8) else "True"
        return f"{text}{draw.arguments(['mutable=True'], 0.3)}, init={init})"
    return "nn.fold_rngs({0})"


def target(body: Body, shape: Shape, cell: bool = False) -> Unit:
    """A module that can be lifted as a class."""
    while True:
        unit = body.unit(shape, cell)
        if unit.cls != "functools.partial":
            return unit


def as_class(body: Body) -> None:
    unit = target(body, body.shape)
    lift = plain(body)
    methods = [repr(m) for m in ("__call__", *unit.methods)]
    if unit.methods and body.draw.chance(0.4) and "nn.axis" not in lift:
        lift = f"{lift[:-1]}, methods=[{', '.join(methods)}])"
        if "add_metadata" in lift or "fold_rngs" in lift:
            lift = "nn.remat({0})"
    lifted = Unit(lift.format(unit.cls), unit.args, unit.taken, unit.given)
    if body.draw.chance(0.15):
        lifted = Unit(plain(body).format(lifted.cls), unit.args, (), ())
    name = body.submodule(lifted, held=body.draw.chance(0.4))
    body.say(f"x = {name}(x)")
    body.shape = unit.given


def function(body: Body, unit: Unit) -> tuple[str, str]:
    """A function of a module and `x`, and the module it is called with."""
    draw = body.draw
    if unit.cls == "functools.partial":
        unit = Unit("nn.Dense", f"{unit.given[-1]}", unit.taken, unit.given)
    if body.style == "compact" and draw.chance(0.3):
        made = unit.make(*(["parent=m"] if draw.chance(0.2) else []))
        return f"lambda m, x: {made}(x)", "self"
    name = body.submodule(unit, held=True)
    if draw.chance(0.05):
        return f"lambda m, x: {name}(x)", "self"
    if unit.methods and draw.chance(0.4):
        return f"lambda m, x: m.{draw.pick(*unit.methods)}(x)", name
    return "lambda m, x: m(x)", name


def as_function(body: Body) -> None:
    unit = body.unit()
    text, module = function(body, unit)
    body.say(f"x = {plain(body).format(text)}({module}, x)")
    body.shape = unit.given


def mapped(body: Body, choices: list[str]) -> tuple[str, Shape, int, int]:
    """Options of `vmap`, the shape inside, the size and the axis outside."""
    draw = body.draw
    axis = draw.pick(0, 0, 0, -1, 1)
    out = draw.pick(0, 0, 0, -1, 1)
    size = body.shape[axis]
    own = axes(draw, False)
    split = splits(draw, "'params': None" not in own)
    text = f"variable_axes={own}, split_rngs={split}"
    where = f", in_axes={axis}, out_axes={out}" if (axis, out) != (0, 0) else ""
    more = [f"axis_size={size}", "axis_name='batch'", META, *choices]
    text += f"{where}{draw.arguments(more, 0.12)}"
    return text, without(body.shape, axis), size, out


def vmap_class(body: Body) -> None:
    if len(body.shape) < 2:
        return
    text, shape, size, out = mapped(body, [])
    unit = target(body, shape)
    lifted = Unit(f"nn.vmap({unit.cls}, {text})", unit.args, (), ())
    name = body.submodule(lifted, held=body.draw.chance(0.4))
    body.say(f"x = {name}(x)")
    if body.draw.chance(0.2):
        body.reshape(with_axis(unit.given, out, size))
    body.shape = with_axis(unit.given, out, size)


def vmap_function(body: Body) -> None:
    if len(body.shape) < 2:
        return
    text, shape, size, out = mapped(body, [])
    unit = body.unit(shape)
    inner, module = function(body, unit)
    body.say(f"x = nn.vmap({inner}, {text})({module}, x)")
    body.shape = with_axis(unit.given, out, size)


def scan_function(body: Body) -> None:
    """Layers one after the other, or steps over an axis of `x`."""
    draw = body.draw
    over = len(body.shape) > 1 and draw.chance(0.4)
    shape = body.shape[1:] if over else body.shape
    unit = body.unit(shape, cell=True)
    choices = ["reverse=True", "unroll=2", META, "check_constancy_invariants=False"]
    text = f"{scanned(draw)}{draw.arguments(choices, 0.12)}"
    inner, module = function(body, unit)
    made = f"({inner})(m, c{' + x' if over else ''})"
    give = draw.pick("None", "jnp.sum(c)", "{'c': c}")
    step = f"lambda m, c, x: ({made}.astype(c.dtype), {give})"
    if over:
        body.say(f"x, ys = nn.scan({step}, {text})({module}, x[0], x)")
        body.shape = shape
    else:
        length = draw.size()
        body.say(f"x, ys = nn.scan({step}, {text}, length={length})({module}, x, None)")
    body.say("seen.append(jax.tree.map(jnp.shape, ys))")


def scan_class(body: Body) -> None:
    """A module with a carry, scanned over an axis of `x`."""
    from tests.compat.programs.modules import step

    if body.depth < 1 or len(body.shape) < 2:
        return
    shape = body.shape[1:]
    unit = step(body.book, shape, body.depth - 1)
    draw = body.draw
    choices = ["in_axes=0", "out_axes=0", "out_axes=-1", "reverse=True", META]
    choices += [f"length={body.shape[0]}", "methods=['__call__']"]
    text = f"{scanned(draw)}{draw.arguments(choices[:1] + choices[2:], 0.12)}"
    name = body.submodule(Unit(f"nn.scan({unit.cls}, {text})", unit.args, (), ()))
    keep = draw.pick("x, ys", "ys, x")
    body.say(f"{keep} = {name}(jnp.zeros_like(x[0]), x)")
    body.say("seen.append(jnp.shape(ys))", f"x = jnp.resize(x, {shape})")
    body.shape = shape


def remat_scan(body: Body) -> None:
    draw = body.draw
    unit = target(body, body.shape, cell=True)
    lengths = draw.pick("(2, 2)", "(2,)", "(2, 3)", "(1, 2)")
    text = f"nn.remat_scan({unit.cls}, lengths={lengths}"
    if draw.chance(0.5):
        text += f", {scanned(draw)}"
    name = body.submodule(Unit(f"{text})", unit.args, (), ()))
    body.say(f"x = {name}(x)")


def vjp(body: Body) -> None:
    draw = body.draw
    unit = body.unit()
    text, module = function(body, unit)
    filters = ["vjp_variables='params'", "vjp_variables=['params', 'state']"]
    filters += ["vjp_variables=True", "vjp_variables=False"]
    more = draw.arguments([draw.pick(*filters), "variables=True"], 0.3)
    aux = draw.chance(0.2)
    if aux:
        text, more = f"lambda m, x: (({text})(m, x), 3.0)", f"{more}, has_aux=True"
    body.say(f"y, back{', aux' if aux else ''} = nn.vjp({text}, {module}, x{more})")
    body.say("grads, dx = back(jnp.ones_like(y))")
    body.say("seen.append(jax.tree.map(jnp.shape, grads))")
    body.say(f"x = {draw.pick('y', 'y + jnp.sum(dx)')}")
    body.shape = unit.given


def jvp(body: Body) -> None:
    unit = body.unit()
    text, module = function(body, unit)
    variables = f"jax.tree.map(jnp.ones_like, {module}.variables)"
    tangents = body.draw.pick("{}", "{}", "{'params': {}}", f"{variables}")
    body.say(
        f"y, dy = nn.jvp({text}, {module}, (x,), (jnp.ones_like(x),), "
        f"variable_tangents={tangents})",
        f"x = {body.draw.pick('y', 'dy', 'y + dy')}",
    )
    body.shape = unit.given


def gradient(body: Body) -> None:
    draw = body.draw
    unit = body.unit(cell=True)
    text, module = function(body, unit)
    scalar = f"lambda m, x: jnp.sum(({text})(m, x).astype(jnp.float32))"
    more = draw.arguments(["variables=['params', 'state']"], 0.1)
    kind = draw.pick("grad", "value_and_grad", "aux")
    if kind == "aux":
        scalar = f"lambda m, x: (({scalar})(m, x), x)"
        body.say(
            f"(y, x), g = nn.value_and_grad({scalar}, {module}, x, has_aux=True{more})"
        )
    else:
        left = "g" if kind == "grad" else "y, g"
        body.say(f"{left} = nn.{kind}({scalar}, {module}, x{more})")
    body.say("seen.append(jax.tree.map(jnp.shape, g))")
    body.say(f"x = x + {draw.pick('1.0', 'jax.tree.leaves(g)[0].sum()')}")


def custom_vjp(body: Body) -> None:
    unit = body.unit()
    text, module = function(body, unit)
    forward = body.draw.pick(f"nn.vjp({text}, m, x)", f"nn.vjp({text}, m, x)")
    backward = body.draw.pick(
        "lambda back, g: back(g)",
        "lambda back, g: jax.tree.map(jnp.sign, back(g))",
    )
    body.say(
        f"x = nn.custom_vjp({text}, lambda m, x: {forward}, {backward})({module}, x)"
    )
    body.shape = unit.given


def while_loop(body: Body) -> None:
    draw = body.draw
    unit = body.unit(cell=True)
    name = body.submodule(unit, held=True)
    if unit.cls == "functools.partial":
        return
    carry = draw.arguments(["carry_variables=['state', 'batch_stats', 'losses']"], 0.5)
    split = draw.arguments(["split_rngs={'noise': True, 'dropout': True}"], 0.4)
    loop = (
        "nn.while_loop(lambda m, c: c[0] < 2, "
        "lambda m, c: (c[0] + 1, m(c[1]).astype(c[1].dtype)), "
        f"{name}, (0, x){carry}{split})[1]"
    )
    body.say(f"x = {name}(x) if self.is_initializing() else {loop}")


def branches(body: Body) -> None:
    draw = body.draw
    unit = body.unit(cell=True)
    text, module = function(body, unit)
    if module != "self" and draw.chance(0.8):  # variables exist before the branches
        body.when("self.is_initializing()", f"({text})({module}, x)")
    own = f"lambda m, x: ({text})(m, x).astype(x.dtype)"
    other = draw.pick("lambda m, x: x", f"lambda m, x: -({own})(m, x)")
    more = draw.arguments(["variables=True", "rngs=['params', 'noise']"], 0.1)
    if draw.chance(0.5):
        condition = draw.pick("jnp.sum(x) > 0", "True", "self.is_initializing()")
        body.say(f"x = nn.cond({condition}, {own}, {other}, {module}, x{more})")
    else:
        index = draw.pick("0", "jnp.int32(jnp.sum(x))", "1")
        body.say(f"x = nn.switch({index}, [{own}, {other}, {own}], {module}, x{more})")


LIFTS: tuple[tuple[Callable[[Body], None], int], ...] = (
    (as_class, 5),
    (as_function, 4),
    (vmap_class, 3),
    (vmap_function, 2),
    (scan_function, 3),
    (scan_class, 2),
    (remat_scan, 1),
    (vjp, 2),
    (jvp, 1),
    (gradient, 2),
    (custom_vjp, 1),
    (while_loop, 1),
    (branches, 2),
)
