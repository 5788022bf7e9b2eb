"""Views of modules and variables: tables, state dicts, meshes, bound modules."""

from __future__ import annotations

from tests.compat.programs.script import KEYS, RNGS, Script
from tests.compat.programs.syntax import Block


def state(script: Script) -> None:
    """State dicts and back."""
    draw = script.draw
    script.say("plain = serialization.to_state_dict(variables)")
    script.result("plain", "state")
    if draw.chance(0.6):
        target = draw.pick("variables", "jax.tree.map(jnp.zeros_like, variables)",
                           "None", "nn.unbox(variables)")  # fmt: skip
        script.result(f"serialization.from_state_dict({target}, plain)", "state")
    if draw.chance(0.2):
        script.result("serialization.from_state_dict({}, plain)", "state")
    if draw.chance(0.3):
        script.result("core.unfreeze(core.freeze(core.unfreeze(variables)))", "state")


def table(script: Script) -> None:
    """A summary of the module."""
    draw = script.draw
    options = [f"depth={draw.pick(1, 2)}", "mutable=True"]
    options += ["exclude_methods=('helper',)", "method='__call__'"]
    plain = ", console_kwargs={'width': 999, 'force_terminal': False}"
    if draw.chance(0.5):
        more = draw.arguments(options[:2])
        call = f"nn.tabulate(model, jax.random.key(0){more}{plain})(x)"
    else:
        more = draw.arguments(options)
        call = f"model.tabulate(jax.random.key(0), x{more}{plain})"
    script.say(f"seen.append(cells({call}))")


def symbolic(script: Script) -> None:
    """Shapes and variables for a batch of any size."""
    if len(script.unit.taken) < 2:
        return
    lines = [
        "n, = jax.export.symbolic_shape('n')",
        "spec = jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype)",
        "sizes = jax.eval_shape(lambda: variables)",
        f"call = lambda v, x: model.apply(v, x, {script.rngs()}, mutable=True)",
    ]
    script.say(*lines)
    text = script.draw.pick(
        "call, sizes, spec", "call, sizes, spec", "model.init, key, spec"
    )
    script.say(
        f"seen.append(jax.tree.map(lambda v: str(v.shape), jax.eval_shape({text})))"
    )


def placed(script: Script) -> None:
    """Where variables live on a mesh of one device."""
    draw = script.draw
    script.say("mesh = jax.make_mesh((1, 1), ('x', 'y'))")
    rules = "(('in', 'x'), ('out', None), ('mlp', 'y'), ('layers', None))"
    kind = draw.pick("rules", "rules", "get", "logical", "context")
    if kind == "rules":
        line = f"out[{script.book.fresh('y')!r}] = {script.changing()}"
        body = [line, "seen.append(nn.get_logical_axis_rules())"]
        script.say(Block(f"with mesh, nn.logical_axis_rules({rules}):", list(body)))
    elif kind == "get":
        call = "nn.get_sharding(variables, mesh)"
        script.say(f"seen.append(jax.tree.map(lambda s: s.spec, {call}))")
    elif kind == "logical":
        call = "nn.logical_to_mesh_sharding(nn.get_partition_spec(variables), mesh, "
        script.say(f"seen.append(jax.tree.map(lambda s: s.spec, {call}{rules})))")
    else:
        line = f"out[{script.book.fresh('init')!r}] = model.init(key, x)"
        script.say(Block("with mesh:", [line]))


def perturbed(script: Script) -> None:
    """Gradients of what is inside."""
    rest = "{**variables, 'perturbations': p}"
    call = f"jnp.sum({script.changing(rest)}.astype(jnp.float32))"
    script.result(
        f"jax.grad(lambda p: {call})(variables.get('perturbations', {{}}))", "grad"
    )


def rebound(script: Script) -> None:
    """A bound module and its parts, as values."""
    draw = script.draw
    script.say(f"bound = model.bind(variables, {RNGS}, mutable=True)")
    choices = [
        "seen.append(bound.unbind()[0] == model)",
        "seen.append(bound.clone() == bound)",
        "seen.append(bound == model.bind(variables))",
        "seen.append(bound.clone(parent=None) == model)",
        "seen.append(bound.copy() == bound)",
        "seen.append(hash(bound.unbind()[0]) == hash(model))",
        "seen.append(model == model.copy())",
        "out['again'] = bound.unbind()[0].apply(bound.unbind()[1], x, mutable=True)",
        "out['cloned'] = bound.clone(parent=None).apply(variables, x, mutable=True)",
        "seen.append(jax.tree.map(jnp.shape, bound.variables))",
        "seen.append(bound.scope is None)",
        "seen.append(nn.FrozenDict(variables) == nn.FrozenDict(bound.variables))",
        "out['method'] = bound.__call__(x)",
        "out['applied'] = jax.jit(lambda x: model.bind(variables)(x))(x)",
    ]
    for part in script.unit.parts[:2]:
        choices += [f"out['part'] = bound.{part}(x)", f"seen.append(bound.{part}.name)",
                    f"out['part'] = bound.{part}.variables",
                    f"seen.append(bound.{part}.unbind()[0])",
                    f"out['part'] = model.{part}"]  # fmt: skip
    script.say(*draw.some(choices, 0.25))


def lazily(script: Script) -> None:
    """Variables made from shapes, some of them with values."""
    spec = "jax.ShapeDtypeStruct(x.shape, x.dtype)"
    keys = script.draw.pick("key", KEYS)
    text = script.draw.pick(f"model.lazy_init({keys}, {spec})",
                            f"model.lazy_init({keys}, x=x)",
                            f"jax.eval_shape(model.init, {keys}, {spec})")  # fmt: skip
    script.result(text, "init")
