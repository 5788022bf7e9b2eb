"""Mistakes, planted into programs that are otherwise as they should be."""

from __future__ import annotations

from collections.abc import Iterator

from tests.compat.programs.syntax import (
    Block,
    Class,
    Draw,
    Function,
    Program,
    Statement,
)

# Statements that are wrong in most places.
IN_METHODS = (
    "self.new_attribute = 3",
    "self.name = 'b'",
    "nn.Dense(2, name='twin')(x); nn.Dense(2, name='twin')(x)",
    "self.param('twin', nn.initializers.ones, (2,)); nn.Dense(2, name='twin')(x)",
    "self.param('twin', nn.initializers.ones, (2,)); "
    "self.param('twin', nn.initializers.ones, (2,))",
    "self.variable('state', 'twin', jnp.zeros, ()); "
    "self.variable('state', 'twin', jnp.zeros, ())",
    "self.variable('state', 'twin', jnp.zeros, ()); "
    "self.variable('cache', 'twin', jnp.zeros, ())",
    "self.variable('state', 'twin', jnp.zeros, ()); nn.Dense(2, name='twin')(x)",
    "nn.Dense(2, name='twin')(x); self.sow('intermediates', 'twin', x)",
    "self.sow('intermediates', 'twin', x); nn.Dense(2, name='twin')(x)",
    "self.param('lost')",
    "self.variable('state', 'lost')",
    "self.variable('state', 'lost').value",
    "self.get_variable('state', 'lost') + 1",
    "self.put_variable('state', 'put', x)",
    "self.put_variable('params', 'put', x)",
    "self.make_rng('lost')",
    "self.make_rng()",
    "x = nn.Dense(2).apply({}, x)",
    "x = nn.Dense(2, parent=None)(x)",
    "x = nn.Dense()(x)",
    "x = nn.Dense(2)(x, x)",
    "x = nn.Dense(2, wrong=True)(x)",
    "x = nn.Dense(features='a')(x)",
    "x = nn.Dense(2)(None)",
    "x = x @ jnp.ones((7, 7))",
    "x = self.missing(x)",
    "nn.Dense(2, name='a/b')(x)",
    "nn.Dense(2, name=3)(x)",
    "nn.Dense(2, name='')(x)",
    "self.param('a/b', nn.initializers.ones, ())",
    "self.param(3, nn.initializers.ones, ())",
    "self.param('w', nn.initializers.ones, (2,)) + self.width",
    "raise ValueError('stop')",
    "nn.BatchNorm()(x)",
    "nn.BatchNorm(use_running_average=True)(x, use_running_average=True)",
    "nn.Dropout(0.5)(x)",
    "nn.Dropout(0.5, deterministic=False, rng_collection='lost')(x)",
    "self.setup()",
    "nn.share_scope(self, nn.Dense(2))",
    "nn.share_scope(nn.Dense(2, parent=None), self)",
    "nn.GroupNorm(num_groups=5)(x)",
    "nn.Conv(2, kernel_size=3)(x)",
    "nn.MultiHeadDotProductAttention(num_heads=3, qkv_features=4)(x)",
    "nn.Einsum((2, 2))(x)",
    "self.perturb('twin', x); self.perturb('twin', x)",
    "self.perturb('shape', x[..., :1] if self.is_initializing() else x)",
    "self.init(jax.random.key(0), x)",
    "self.bind({})",
    "x = jax.vmap(nn.Dense(2))(x)",
    "x = jax.jit(nn.Dense(2))(x)",
    "x = jax.lax.cond(True, nn.Dense(2), lambda x: x[..., :2], x)",
    "jax.jit(lambda x: self.sow('intermediates', 'leak', x))(x)",
    "jax.grad(lambda x: jnp.sum(nn.Dense(2)(x)))(x)",
    "self.module_paths()",
    "self.unbind()",
    "type(self)()(x)",
    "del self.name",
    "super().__setattr__('other', 1)",
    "nn.vmap(nn.Dense)(2)(x)",
    "nn.vmap(nn.Dense, variable_axes={'params': 0})(2)(x)",
    "nn.vmap(nn.Dense, variable_axes={'params': 0}, axis_size=7, "
    "split_rngs={'params': True})(2)(x)",
    "nn.vmap(lambda x: x)(self, x)",
    "nn.scan(nn.Dense, variable_axes={'params': 0}, split_rngs={'params': True}, "
    "length=2)(2)(x, None)",
    "nn.scan(lambda m, c, x: (m(c)[..., :1], None), variable_broadcast='params', "
    "split_rngs={}, length=2)(nn.Dense(2), x, None)",
    "nn.scan(lambda m, c, x: c)(self, x, x)",
    "nn.remat(nn.Dense)(2)(x, x)",
    "nn.jit(lambda x: x)(x)",
    "nn.vjp(lambda x: x, x)",
    "nn.grad(lambda m, x: m(x), nn.Dense(2), x)",
    "nn.while_loop(lambda m, c: True, lambda m, c: m(c), nn.Dense(2), x)",
    "nn.cond(True, lambda m, x: m(x), lambda m, x: x, nn.Dense(7), x)",
    "nn.map_variables(nn.Dense, 'params', lambda v: {})(2)(x)",
    "nn.map_variables(nn.Dense, 'params')(2)(x)",
    "nn.remat_scan(nn.Dense, lengths=(2,))(7)(x)",
    "nn.Sequential(nn.Dense(2))(x)",
    "nn.Sequential([])(x)",
    "nn.Sequential([nn.Dense(2), 3])(x)",
    "nn.RNN(nn.Dense(2))(x)",
    "nn.RNN(nn.LSTMCell(2))(x[0])",
    "nn.with_partitioning(nn.initializers.ones, ('a', 'b'))(jax.random.key(0), (2,))",
    "self.param('boxed', nn.with_partitioning(nn.initializers.ones, ('a',)), (2, 3))",
    "nn.merge_param('flag', None, None)",
    "nn.merge_param('flag', True, True)",
    "nn.WeightNorm(nn.Dense)(x)",
    "nn.SpectralNorm(nn.Dense(2))(x)",
    "nn.LSTMCell(2)(x)",
    "nn.LSTMCell(2)(x, x)",
    "nn.Embed(2, 3)(x)",
    "nn.Module()(x)",
    "self.scope.variable('state', 'raw', jnp.zeros, ())",
    "self.scope.param('raw', nn.initializers.ones, (2,))",
    "self.scope.push('raw')",
)

# Statements at the end of the script.
IN_SCRIPTS = (
    "model(x)",
    "model.init(key)",
    "model.init(x, x)",
    "model.init('a', x)",
    "model.init({'params': 'a'}, x)",
    "model.init({'noise': key}, x)",
    "model.init(key, x, x)",
    "model.init(key, x, method='missing')",
    "model.init(key, x, method=3)",
    "model.init(key, x, mutable=3)",
    "model.apply(x, x)",
    "model.apply({}, x)",
    "model.apply({'params': {}}, x)",
    "model.apply({'params': variables}, x)",
    "model.apply(variables['params'], x)",
    "model.apply(variables, x[..., :1])",
    "model.apply(variables, jnp.ones((5, 5)))",
    "model.apply(variables, None)",
    "model.apply(variables)",
    "model.apply(variables, x, rngs={})",
    "model.apply(variables, x, rngs={'noise': 3})",
    "model.apply(variables, x, rngs=3)",
    "model.apply(variables, x, rngs=x)",
    "model.apply(variables, x, method='missing')",
    "model.apply(variables, x, method=lambda m, x: m.missing(x))",
    "model.apply(variables, x, method=lambda x: x)",
    "model.apply(variables, x, mutable='missing')",
    "model.apply(variables, x, mutable=3)",
    "model.apply(variables, x, mutable=True)[0].missing",
    "model.apply(jax.tree.map(lambda v: v[None], variables), x)",
    "model.apply(jax.tree.map(lambda v: v.astype(jnp.bfloat16), variables), x)",
    "model.apply(jax.tree.map(jnp.shape, variables), x)",
    "model.apply({k: dict(v) for k, v in variables.items() if k != 'state'}, x)",
    "model.bind(variables).param('w', nn.initializers.ones, (2,))",
    "model.bind(variables).variable('state', 'w', jnp.zeros, ())",
    "model.bind({}, rngs={})(x)",
    "model.param('w', nn.initializers.ones, (2,))",
    "model.variable('state', 'w', jnp.zeros, ())",
    "model.make_rng('params')",
    "model.has_rng('params')",
    "model.sow('a', 'b', x)",
    "model.perturb('a', x)",
    "model.put_variable('a', 'b', x)",
    "model.get_variable('a', 'b')",
    "model.has_variable('a', 'b')",
    "model.is_mutable_collection('a')",
    "model.is_initializing()",
    "model.variables",
    "model.path",
    "model.unbind()",
    "model.setup()",
    "model.missing",
    "setattr(model, 'new', 3)",
    "setattr(model, 'name', 'b')",
    "delattr(model, 'name')",
    "model.clone(missing=3)",
    "model.copy(missing=3)",
    "model.lazy_init(key, x[..., :1])",
    "model.lazy_init(key, 3)",
    "nn.share_scope(model, model)",
    "nn.apply(model, model)(variables, x)",
    "nn.get_partition_spec(model)",
    "nn.Module().init(key)",
    "type(model)(1, 2, 3, 4, 5)",
    "type(model)(missing=3)",
    "nn.jit(model)",
    "nn.vmap(model)(x)",
    "nn.vmap(3)",
    "nn.scan(None)",
    "nn.remat(3)(model, x)",
    "nn.intercept_methods(3).__enter__()",
    "nn.Dense(2, parent=model)",
    "nn.Dense(2, parent=3)",
    "model.apply(variables, x, capture_intermediates=3)",
)


def methods(program: Program) -> list[Function]:
    classes = [one for one in program.definitions if isinstance(one, Class)]
    return [m for one in classes for m in one.methods if m.name != "__post_init__"]


def bodies(statements: list[Statement]) -> Iterator[list[Statement]]:
    """This list of statements and those inside of it."""
    yield statements
    for one in statements:
        if isinstance(one, Block):
            yield from bodies(one.body)


def plant(draw: Draw, program: Program) -> None:
    """Makes one mistake."""
    found = methods(program)
    kind = draw.pick("method", "method", "script", "delete", "repeat", "mark", "field")
    if kind == "script" or not found:
        text = draw.pick(*IN_SCRIPTS)
        program.script.append(f"out['mistake'] = {text}")
        return
    one = draw.pick(*found)
    if kind == "method":
        one.body.insert(draw.randrange(len(one.body) + 1), draw.pick(*IN_METHODS))
    elif kind == "mark":
        mark = draw.pick("compact", "compact", "nowrap", "compact_name_scope", "remove")
        if mark == "remove":
            one.decorators.clear()
        else:
            one.decorators.append(f"nn.{mark}")
    elif kind == "field":
        classes = [c for c in program.definitions if isinstance(c, Class)]
        text = draw.pick("bad: list = []", "name: str = 'a'", "parent: int = 1",
                         "missing: int", "scope: Any = None", "init: int = 3",
                         "setup: int = 3", "bad: dict = {}", "x: int = 1")  # fmt: skip
        draw.pick(*classes).fields.append(text)
    else:
        places = [body for body in bodies(draw.pick(one.body, program.script)) if body]
        if places:
            body = draw.pick(*places)
            index = draw.randrange(len(body))
            if kind == "delete":
                del body[index]
            else:
                body.insert(index, body[index])
