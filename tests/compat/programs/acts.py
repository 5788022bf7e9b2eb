"""What a program does with its modules from outside."""

from __future__ import annotations

from tests.compat.programs.bodies import Book
from tests.compat.programs.layers import Unit
from tests.compat.programs.parts import capture, interceptor, mutable
from tests.compat.programs.script import RNGS, Act, Script, begin, filled
from tests.compat.programs.syntax import Block
from tests.compat.programs.views import (
    lazily,
    perturbed,
    placed,
    rebound,
    state,
    symbolic,
    table,
)


def output(script: Script) -> None:
    extra = script.method()
    script.result(f"model.apply(variables, x{extra}, {script.rngs()}, mutable=True)")


def filtered(script: Script) -> None:
    filters = mutable(script.draw)
    script.result(f"model.apply(variables, x, {script.rngs()}, mutable={filters})")


def unchanged(script: Script) -> None:
    script.result(script.apply())


def captured(script: Script) -> None:
    filters = capture(script.book)
    script.result(
        f"model.apply(variables, x, {script.rngs()}, mutable=True, "
        f"capture_intermediates={filters})"
    )


def gradients(script: Script) -> None:
    rest = "{**variables, 'params': params}"
    call = script.changing(rest)
    function = f"lambda params: jnp.sum({call}.astype(jnp.float32))"
    kind = script.draw.pick("grad", "grad", "value_and_grad", "jit", "checkpoint")
    text = {
        "jit": f"jax.jit(jax.grad({function}))",
        "checkpoint": f"jax.grad(jax.checkpoint({function}))",
    }.get(kind, f"jax.{kind}({function})")
    script.result(f"{text}(variables.get('params', {{}}))", "grad")


def input_gradient(script: Script) -> None:
    call = script.changing()
    script.result(f"jax.grad(lambda x: jnp.sum({call}.astype(jnp.float32)))(x)", "grad")


def compiled(script: Script) -> None:
    call = script.draw.pick(script.changing("v"), script.apply("v"))
    if script.draw.chance(0.3):
        call = f"model.apply(v, x, {script.rngs()}, mutable=['state', 'batch_stats'])"
    script.result(f"jax.jit(lambda v, x: {call})(variables, x)")


def vectorized(script: Script) -> None:
    xs = "jnp.stack([x, x * 2])"
    call = script.changing("v")
    script.result(f"jax.vmap(lambda v, x: {call}, (None, 0))(variables, {xs})")
    if script.draw.chance(0.3):
        keys = "jax.random.split(key, 2)"
        script.result(f"jax.vmap(model.init, (0, None))({keys}, x)", "init")


def abstract(script: Script) -> None:
    script.result("jax.eval_shape(model.init, key, x)")


def bound(script: Script) -> None:
    draw = script.draw
    filters = draw.pick("True", "['state']", "False")
    rngs = script.rngs() if draw.chance(0.1) else RNGS
    script.say(f"bound = model.bind(variables, {rngs}, mutable={filters})")
    script.result("bound(x)")
    choices = ["seen.append(repr(bound))", "seen.append(bound.path)",
               "seen.append(bound.name)", "out['bound'] = bound.variables",
               "seen.append(repr(bound.unbind()[0]))", "out['u'] = bound.unbind()[1]",
               "seen.append(bound.is_initializing())"]  # fmt: skip
    script.say(*draw.some(choices, 0.4))


def inspected(script: Script) -> None:
    name = script.unit.cls
    choices = [
        "seen.append(repr(model))",
        "seen.append(str(model))",
        "seen.append(model == model.clone())",
        "seen.append(hash(model) == hash(model.clone()))",
        "seen.append(model.name)",
        "seen.append(model.parent)",
        "seen.append(model.scope)",
        "seen.append(repr(model.clone(name='other')))",
        "seen.append([f.name for f in dataclasses.fields(model)])",
        "seen.append(repr(model.copy()))",
        "seen.append(dataclasses.replace(model) == model)",
        f"seen.append({name}.__name__)",
        "seen.append([repr(v) for v in jax.tree.leaves(model)] != [])",
    ]
    script.say(*script.draw.some(choices, 0.25))


def partitions(script: Script) -> None:
    call = "nn.get_partition_spec(variables)"
    script.say(f"seen.append({call})")
    if script.draw.chance(0.5):
        rules = "(('in', 'x'), ('out', None), ('mlp', 'y'))"
        script.say(f"seen.append(nn.logical_to_mesh({call}, {rules}))")
    script.result("nn.unbox(variables)")


def twice(script: Script) -> None:
    """State from one call is given to the next."""
    filters = "['state', 'batch_stats', 'cache', 'losses', 'intermediates']"
    rest = f"x, {script.rngs()}, mutable={filters})"
    script.say(f"y, state = model.apply(variables, {rest}")
    script.result(f"model.apply({{**variables, **state}}, {rest}")


def intercepted(script: Script) -> None:
    name = interceptor(script.book)
    call = script.draw.pick(script.changing(), "model.init(key, x)")
    line = f"out[{script.book.fresh('y')!r}] = {call}"
    script.say(Block(f"with nn.intercept_methods({name}):", [line]))


def functional(script: Script) -> None:
    filters = mutable(script.draw)
    call = f"nn.apply(lambda m, x: m(x), model, mutable={filters})"
    script.result(f"{call}(variables, x, {script.rngs()})")


ACTS: tuple[tuple[Act, int], ...] = (
    (output, 6),
    (filtered, 4),
    (unchanged, 3),
    (captured, 3),
    (gradients, 4),
    (input_gradient, 1),
    (compiled, 2),
    (vectorized, 1),
    (abstract, 1),
    (bound, 2),
    (inspected, 3),
    (partitions, 1),
    (twice, 2),
    (intercepted, 2),
    (functional, 1),
    (state, 2),
    (table, 1),
    (symbolic, 1),
    (placed, 1),
    (perturbed, 1),
    (rebound, 2),
    (lazily, 1),
)


def script(book: Book, unit: Unit) -> None:
    """Writes the script of a program about one module."""
    one = Script(book, unit)
    made = unit.make(*book.draw.some(["name='top'"], 0.05))
    one.say(f"model = {made}")
    if book.draw.chance(0.2):
        inspected(one)
    begin(one)
    book.program.shape = unit.taken
    if "nn.jit" in book.program.source() or book.draw.chance(0.05):
        filled(one)
    acts, weights = zip(*ACTS, strict=True)
    for act in book.draw.choices(acts, weights, k=book.draw.pick(1, 2, 2, 3)):
        act(one)
    book.program.script = one.lines
