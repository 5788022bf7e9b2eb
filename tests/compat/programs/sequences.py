"""Statements with layers that take more than one array: sequences, masks, tables."""

from __future__ import annotations

from collections.abc import Callable

from tests.compat.programs.bodies import Body
from tests.compat.programs.layers import DTYPES, Unit, cell


def recurrent(body: Body) -> None:
    """`RNN` with lengths, carries and other orders of axes."""
    draw, shape = body.draw, body.shape
    if len(shape) < 2:
        return
    features = draw.size()
    choices = ["reverse=True", "keep_order=True", "unroll=2", "return_carry=True"]
    text = f"{cell(draw, features)}{draw.arguments(choices, 0.15)}"
    time_major = len(shape) == 3 and draw.chance(0.2)
    batch = (shape[1],) if time_major else shape[:-2]
    time = shape[0] if time_major else shape[-2]
    lengths = f"jnp.arange({time}, {time} + {batch[0] if batch else 1}) % {time} + 1"
    lengths = lengths if batch else f"({lengths})[0]"
    calls = [f"seq_lengths={lengths}", "reverse=True", "return_carry=True"]
    call = draw.arguments(calls, 0.4)
    if time_major:
        call += ", time_major=True"
    name = body.submodule(Unit("nn.RNN", text, (), ()), held=True)
    if draw.chance(0.25):
        carry = body.book.fresh("carry")
        key = draw.pick("jax.random.key(0)", "self.make_rng('params')")
        body.say(
            f"{carry} = {name}.cell.initialize_carry({key}, {(*batch, shape[-1])})"
        )
        call += f", initial_carry={carry}"
    if "return_carry" in text + call:
        body.say(f"carry, x = {name}(x{call})")
        body.say("seen.append(jax.tree.map(jnp.shape, carry))")
    else:
        body.say(f"x = {name}(x{call})")
    body.shape = (*shape[:-1], features)


def both_ways(body: Body) -> None:
    draw, shape = body.draw, body.shape
    if len(shape) != 3:
        return
    features = draw.size()
    one, other = (f"nn.RNN({cell(draw, features)})" for _ in range(2))
    options = draw.arguments(["merge_fn=lambda a, b: a * b", "return_carry=True"], 0.3)
    name = body.submodule(
        Unit("nn.Bidirectional", f"{one}, {other}{options}", (), ()), held=True
    )
    lengths = f"seq_lengths=jnp.arange({shape[0]}) % {shape[1]} + 1"
    call = draw.arguments([lengths], 0.6)
    carry = "return_carry" in options
    body.say(f"{'carry, ' if carry else ''}x = {name}(x{call})")
    body.shape = (*shape[:-1], features * (1 if "merge" in options else 2))


def masks(body: Body, queries: int, keys: int, causal: bool) -> str:
    """A mask for attention over this many queries and keys."""
    row, column = f"jnp.arange({queries})", f"jnp.arange({keys})"
    choices = [
        f"nn.make_attention_mask({row} >= 0, {column} < {max(keys - 1, 1)})",
        f"nn.make_attention_mask({row}, {column}, pairwise_fn=jnp.greater_equal)",
        f"jnp.ones((1, {queries}, {keys}), bool)",
        "None",
    ]
    if causal:
        choices.append(f"nn.make_causal_mask(jnp.ones({queries}))")
        choices.append(f"nn.combine_masks({choices[0]}, {choices[-1]})")
    return body.draw.pick(*choices)


def attention(body: Body) -> None:
    """Attention over other keys and values, with masks."""
    draw, shape = body.draw, body.shape
    if len(shape) < 2:
        return
    heads, features = draw.pick(1, 2), draw.pick(2, 4)
    choices = ["qkv_features=4", "normalize_qk=True", "use_bias=False",
               "dropout_rate=0.5", "broadcast_dropout=False",
               f"dtype={draw.pick(*DTYPES)}", f"param_dtype={draw.pick(*DTYPES)}",
               "attention_fn=nn.dot_product_attention", "force_fp32_for_softmax=True",
               "out_kernel_init=nn.initializers.ones", "decode=False",
               "kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), "
               "('in', 'heads', 'kv'))"]  # fmt: skip
    more = draw.arguments(choices, 0.12)
    if "qkv_features" not in more and (shape[-1] % heads or draw.chance(0.9)):
        more += ", qkv_features=4"
    text = f"num_heads={heads}, out_features={features}{more}"
    if "dropout" not in more or draw.chance(0.7):
        text += f", deterministic={draw.pick('True', 'True', 'False')}"
    kind = draw.pick("MultiHeadDotProductAttention", "MultiHeadAttention")
    name = body.submodule(Unit(f"nn.{kind}", text, (), ()), held=True)
    other = draw.pick(0, 0, 3)
    keys = other or shape[-2]
    call = ""
    if other:
        source = f"jnp.resize(x, {(*shape[:-2], other, shape[-1])})"
        call = draw.pick(f", {source}", f", {source}, {source} * 2")
        call = draw.pick(call, f", inputs_k={source}, inputs_v={source}")
    if draw.chance(0.6):
        call += f", mask={masks(body, shape[-2], keys, not other)}"
    more = ["sow_weights=True", "dropout_rng=jax.random.key(3)", "deterministic=True"]
    body.say(f"x = {name}(x{call}{draw.arguments(more, 0.15)})")
    body.shape = (*shape[:-1], features)


def attend(body: Body) -> None:
    """The functions that attention is made of."""
    if len(body.shape) < 2:
        return
    draw = body.draw
    options = ["deterministic=True", "broadcast_dropout=False", "dtype=jnp.bfloat16"]
    if draw.chance(0.5):
        options.append(f"mask={masks(body, body.shape[-2], body.shape[-2], True)}")
    else:
        options.append(f"bias=jnp.ones((1, {body.shape[-2]}, {body.shape[-2]}))")
    if draw.chance(0.2):
        options.append("dropout_rng=self.make_rng('dropout'), dropout_rate=0.5")
    call = draw.arguments(options, 0.4)
    body.say("q = x[..., None, :]")
    if draw.chance(0.3):
        body.say(f"seen.append(nn.dot_product_attention_weights(q, q{call}).shape)")
    body.say(f"x = nn.dot_product_attention(q, q, q{call})[..., 0, :]")
    if "bfloat16" in call:
        body.say("x = x.astype(jnp.float32)")


def convolutional(body: Body) -> None:
    """A convolutional cell, for one step."""
    if len(body.shape) < 2:
        return
    features = body.draw.size()
    options = body.draw.arguments(["strides=1", "padding='SAME'", "use_bias=False"])
    text = f"{features}, (2,){options}"
    name = body.submodule(Unit("nn.ConvLSTMCell", text, (), ()), held=True)
    body.say(f"carry = {name}.initialize_carry(jax.random.key(0), x.shape)")
    body.say(f"carry, x = {name}(carry, x)")
    body.shape = (*body.shape[:-1], features)


def masked(body: Body) -> None:
    """Normalization of what a mask keeps."""
    draw = body.draw
    kind = draw.pick("LayerNorm", "RMSNorm", "BatchNorm", "GroupNorm")
    args = {"BatchNorm": "use_running_average=False", "GroupNorm": "num_groups=1"}
    mask = draw.pick("jnp.arange(x.shape[-1]) < 1", "x > -0.5")
    if kind == "BatchNorm":
        mask = draw.pick("(jnp.arange(x.shape[0]) < 1).reshape((-1,) + (1,) * "
                         "(x.ndim - 1))", "x > -0.5")  # fmt: skip
    unit = Unit(f"nn.{kind}", args.get(kind, ""), body.shape, body.shape)
    body.say(f"x = {body.submodule(unit)}(x, mask={mask})")


def structured(body: Body) -> None:
    """A dataclass of arrays goes into a module and comes out."""
    from tests.compat.programs.syntax import Class, Function

    book = body.book
    pair = Class(book.fresh("Pair"), "", ["left: Any", "right: Any = None"])
    pair.fields.append("tag: str = struct.field(pytree_node=False, default='t')")
    pair.decorators = ["struct.dataclass"]
    if body.draw.chance(0.3):
        pair.bases, pair.decorators = "struct.PyTreeNode", []
    unit = body.unit(cell=True)
    owner = Class(book.fresh("M"))
    made = unit.make()
    lines = [f"y = {made}(pair.left)", "seen.append(pair.tag)",
             "self.sow('intermediates', 'pair', pair)",
             "return pair.replace(left=y, right=pair.left, tag='u')"]  # fmt: skip
    owner.methods = [Function("__call__", "self, pair", list(lines), ["nn.compact"])]
    book.program.definitions += [pair, owner]
    lift = body.draw.pick("{}", "{}", "nn.remat({})", "nn.jit({})", "nn.fold_rngs({})")
    module = body.submodule(Unit(lift.format(owner.name), "", (), ()))
    pairname = book.fresh("pair")
    body.say(f"{pairname} = {module}({pair.name}(x))")
    body.say(f"x = jnp.resize({pairname}.left, {body.shape}).astype(x.dtype)")


def constrained(body: Body) -> None:
    """A constraint on where the array is."""
    names = ", ".join(body.draw.pick("'in'", "'out'", "None") for _ in body.shape)
    comma = "," if len(body.shape) == 1 else ""
    body.say(f"x = nn.with_logical_constraint(x, ({names}{comma}))")


def reduced(body: Body) -> None:
    """Layers for more batch axes, and pooling of several kinds."""
    kind = body.draw.pick("batch", "pool", "one_hot", "apply")
    if kind == "one_hot":
        body.say("x = x + jnp.sum(nn.one_hot(jnp.int32(x) % 2, 2))")
    elif kind == "pool" and len(body.shape) == 3:
        more = body.draw.arguments(
            ["strides=(2,)", "padding='SAME'", "count_include_pad=False"], 0.3
        )
        body.say(f"x = nn.avg_pool(x, (2,){more})", f"x = jnp.resize(x, {body.shape})")
    elif kind == "apply" and len(body.shape) == 3:
        name = body.submodule(Unit("nn.Dense", f"{body.shape[-1]}", (), ()), held=True)
        body.say(f"x = nn.batch_apply.BatchApply({name}, num_dims=2)(x)")


def complex_numbers(body: Body) -> None:
    """Complex weights, statistics and constants."""
    draw, width = body.draw, body.shape[-1]
    layer = draw.pick(
        f"nn.Dense({width}, param_dtype=jnp.complex64)",
        f"nn.Dense({width}, dtype=jnp.complex64)",
        "nn.LayerNorm(dtype=jnp.complex64, param_dtype=jnp.complex64)",
        "nn.BatchNorm(use_running_average=False)",
        "nn.RMSNorm()",
        f"nn.DenseGeneral({width}, dtype=jnp.complex64, "
        "kernel_init=nn.initializers.lecun_normal(dtype=jnp.complex64))",
    )
    cls, _, args = layer.partition("(")
    name = body.submodule(Unit(cls, args[:-1], (), ()))
    body.say(f"x = jnp.abs({name}(x + 1j * x))")


def integers(body: Body) -> None:
    """Arrays of other kinds go into layers."""
    draw = body.draw
    cast = draw.pick("jnp.int32", "bool", "jnp.uint8", "jnp.float16", "jnp.bfloat16")
    layer = draw.pick(
        f"nn.Dense({body.shape[-1]})",
        f"nn.DenseGeneral({body.shape[-1]}, dtype=jnp.float32)",
        "nn.LayerNorm()",
        "nn.RMSNorm()",
        "nn.BatchNorm(use_running_average=True)",
    )
    cls, _, args = layer.partition("(")
    name = body.submodule(Unit(cls, args[:-1], (), ()))
    body.say(f"x = {name}(x.astype({cast}))")


SEQUENCES: tuple[tuple[Callable[[Body], None], int], ...] = (
    (recurrent, 2),
    (both_ways, 1),
    (attention, 2),
    (attend, 1),
    (convolutional, 1),
    (masked, 1),
    (structured, 1),
    (constrained, 1),
    (reduced, 1),
    (complex_numbers, 1),
    (integers, 1),
)
