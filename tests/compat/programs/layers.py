"""Layers of the library that take one array, by the shapes that they accept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tests.compat.programs.syntax import SIZES, Draw, Shape

AXES = ('"in"', '"out"', '"heads"', '"mlp"', "None")
DTYPES = ("jnp.float32", "jnp.bfloat16", "jnp.float16")
RARE_DTYPES = ("'bfloat16'", "jnp.float64", "np.float32", "jnp.dtype('float16')")
ACTIVATIONS = (
    "relu gelu silu tanh sigmoid softmax log_softmax elu leaky_relu softplus swish "
    "hard_tanh relu6 celu selu glu soft_sign standardize normalize hard_silu"
).split()
INITIALIZERS = (
    "lecun_normal() he_uniform() xavier_normal() normal(0.5) uniform() "
    "orthogonal() ones zeros truncated_normal() constant(0.5) "
    "variance_scaling(2.0, 'fan_in', 'normal')"
).split(" ")


@dataclass(frozen=True)
class Unit:
    """A class of modules, the arguments of its constructor, and a call with one array.

    Attributes:
        cls: text of the class.
        args: text of the arguments.
        taken: shape of the array.
        given: shape of the result.
        methods: further methods that take and give the same shapes.
        parts: names of submodules that are attributes.
    """

    cls: str
    args: str
    taken: Shape
    given: Shape
    methods: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    def make(self, *more: str) -> str:
        return f"{self.cls}({', '.join(filter(None, (self.args, *more)))})"


def initializer(draw: Draw, rank: int, fancy: float = 0.15) -> str:
    """An initializer for arrays of a rank, perhaps one that boxes its value."""
    plain = draw.pick("normal(0.5)", "ones", "zeros", "constant(0.5)", "uniform()")
    if rank >= 2:
        plain = draw.pick("lecun_normal()", "he_uniform()", "orthogonal()", plain)
    text = f"nn.initializers.{plain}"
    if not draw.chance(fancy):
        return text
    names = ", ".join(draw.pick(*AXES) for _ in range(rank))
    kind = draw.pick("partitioning", "partitioning", "logical_partitioning")
    return f"nn.with_{kind}({text}, ({names}{',' if rank == 1 else ''}))"


def options(draw: Draw, kernel: int = 0, bias: bool = True) -> str:
    """Keyword arguments that most layers with weights take."""
    kinds = (*DTYPES, *DTYPES, draw.pick(*RARE_DTYPES))
    choices = [f"dtype={draw.pick(*kinds)}", f"param_dtype={draw.pick(*kinds)}"]
    if kernel:
        choices.append(f"kernel_init={initializer(draw, kernel, 0.4)}")
    if bias:
        choices.append("use_bias=False")
        choices.append(f"bias_init={initializer(draw, 1, 0.4)}")
    return draw.arguments(choices, 0.12)


def divisor(draw: Draw, number: int) -> int:
    return draw.pick(*(d for d in range(1, number + 1) if number % d == 0))


Layer = Callable[[Draw, Shape], Unit | None]


def dense(draw: Draw, shape: Shape) -> Unit:
    features = draw.size()
    text = f"{features}{options(draw, 2)}"
    return Unit("nn.Dense", text, shape, (*shape[:-1], features))


def dense_general(draw: Draw, shape: Shape) -> Unit:
    features = draw.pick(str(draw.size()), f"({draw.size()}, {draw.size()})", "(3,)")
    axis = draw.pick((-1,), (-1,), (-2, -1), (0,)) if len(shape) > 1 else (-1,)
    kept = [i for i in range(len(shape)) if i not in {a % len(shape) for a in axis}]
    text = features.strip("()").rstrip(",")
    given = tuple(shape[i] for i in kept) + tuple(int(n) for n in text.split(","))
    text = f"{features}{'' if axis == (-1,) else f', axis={axis}'}{options(draw)}"
    return Unit("nn.DenseGeneral", text, shape, given)


def einsum(draw: Draw, shape: Shape) -> Unit:
    features = draw.size()
    letters = "abcd"[: len(shape) - 1]
    text = f"({shape[-1]}, {features}), '{letters}i,io->{letters}o'{options(draw, 2)}"
    return Unit("nn.Einsum", text, shape, (*shape[:-1], features))


def conv(draw: Draw, shape: Shape) -> Unit | None:
    if len(shape) < 2:
        return None
    dims = draw.pick(1, 1, 2) if len(shape) > 2 else 1
    size = draw.pick(1, 2, 3)
    groups = divisor(draw, shape[-1])
    features = groups * draw.pick(1, 2)
    kinds = ["Conv", "Conv", "ConvTranspose", "ConvLocal"]
    kind = draw.pick(*kinds)
    choices = ["padding='CIRCULAR'" if kind != "ConvLocal" else "padding='SAME'"]
    if kind != "ConvTranspose":
        choices += [f"feature_group_count={groups}"]
        choices += [f"kernel_dilation={draw.pick(1, 2)}"]
    kernel = (*[size] * dims, shape[-1], features)
    if kind != "ConvLocal":
        choices += [f"mask=jnp.arange({math.prod(kernel)}).reshape({kernel}) % 2"]
    if kind == "ConvTranspose":
        choices += ["transpose_kernel=True"]
    elif draw.chance(0.3):
        choices += [f"strides={draw.pick('1', '(1,)', '2')}"]
    window = f"({', '.join([str(size)] * dims)}{',' if dims == 1 else ''})"
    text = f"{features}, {window}{draw.arguments(choices)}{options(draw, dims + 2)}"
    return Unit(f"nn.{kind}", text, shape, (*shape[:-1], features))


def pooling(draw: Draw, shape: Shape) -> Unit | None:
    if len(shape) < 2:
        return None
    kind = draw.pick("max_pool", "avg_pool")
    padding = draw.pick('"SAME"', "((1, 0),)")
    text = f"nn.{kind}, window_shape=(2,), padding={padding}"
    return Unit("functools.partial", text, shape, shape)


def norm(draw: Draw, shape: Shape) -> Unit:
    kind = draw.pick("LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm", "BatchNorm")
    choices = ["use_scale=False", f"scale_init={initializer(draw, 1, 0.5)}"]
    if kind == "GroupNorm":
        first = f"num_groups={divisor(draw, shape[-1])}"
    elif kind == "BatchNorm":
        first = f"use_running_average={draw.pick(True, False)}"
        choices += ["momentum=0.9", "axis_name=None"]
    else:
        first = f"epsilon={draw.pick('1e-6', '1e-3')}"
    if kind == "InstanceNorm" and len(shape) < 3:
        kind = "LayerNorm"
    text = f"{first}{draw.arguments(choices)}{options(draw, bias=kind != 'RMSNorm')}"
    return Unit(f"nn.{kind}", text, shape, shape)


def dropout(draw: Draw, shape: Shape) -> Unit:
    axes = draw.arguments(["broadcast_dims=(0,)", "rng_collection='noise'"])
    text = f"{draw.pick(0.0, 0.5)}, deterministic={draw.pick(True, False)}{axes}"
    return Unit("nn.Dropout", text, shape, shape)


def prelu(draw: Draw, shape: Shape) -> Unit:
    return Unit("nn.PReLU", draw.pick("", "param_dtype=jnp.float16"), shape, shape)


def attention(draw: Draw, shape: Shape) -> Unit | None:
    if len(shape) < 2:
        return None
    heads = draw.pick(1, 2)
    features = draw.pick(2, 4)
    choices = [f"qkv_features={2 * features}", "normalize_qk=True", "use_bias=False"]
    choices += ["decode=True", "dropout_rate=0.5", "dtype=jnp.bfloat16"]
    text = f"num_heads={heads}, out_features={features}, qkv_features=4"
    text += draw.arguments(choices[1:], 0.15) + ", deterministic=True"
    kind = draw.pick("MultiHeadDotProductAttention", "SelfAttention")
    return Unit(f"nn.{kind}", text, shape, (*shape[:-1], features))


CELLS = ("LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell", "MGUCell")


def cell(draw: Draw, features: int) -> str:
    """A recurrent cell."""
    kind = draw.pick(*CELLS)
    choices = ["name='cell'", f"dtype={draw.pick(*DTYPES)}", "activation_fn=nn.relu",
               f"param_dtype={draw.pick(*DTYPES)}",
               f"kernel_init={initializer(draw, 2, 0.4)}",
               f"recurrent_kernel_init={initializer(draw, 2, 0.4)}",
               "carry_init=nn.initializers.ones"]  # fmt: skip
    if kind == "SimpleCell":
        choices.append("residual=True")
    elif kind == "MGUCell":
        choices.append("reset_gate=False")
    else:
        choices.append("gate_fn=nn.hard_sigmoid")
    return f"nn.{kind}({features}{draw.arguments(choices, 0.08)})"


def rnn(draw: Draw, shape: Shape) -> Unit | None:
    if len(shape) < 2:
        return None
    features = draw.size()

    def one() -> str:
        choices = ["reverse=True", "keep_order=True", "unroll=2", "name='inside'"]
        return f"nn.RNN({cell(draw, features)}{draw.arguments(choices)})"

    if draw.chance(0.3):
        given = (*shape[:-1], 2 * features)
        merge = ""
        if draw.chance(0.3):
            merge, given = ", merge_fn=lambda a, b: a + b", (*shape[:-1], features)
        return Unit("nn.Bidirectional", f"{one()}, {one()}{merge}", shape, given)
    return Unit("nn.RNN", one()[7:-1], shape, (*shape[:-1], features))


def weight_norm(draw: Draw, shape: Shape) -> Unit:
    inner = draw.pick(dense, dense, einsum)(draw, shape)
    choices = ["use_scale=False", "epsilon=1e-6", "feature_axes=None", "feature_axes=0"]
    choices += ["variable_filter={'bias'}", "variable_filter=None"]
    text = inner.make() + draw.arguments(draw.some(choices, 0.3)[:2], 0.5)
    return Unit("nn.WeightNorm", text, shape, inner.given)


def sequential(draw: Draw, shape: Shape) -> Unit:
    parts, given = [], shape
    for _ in range(draw.pick(1, 2, 3)):
        if draw.chance(0.3):
            parts.append(draw.pick("nn.relu", "jnp.tanh", "lambda x: x * 2"))
        else:
            unit = layer(draw, given, deep=False)
            parts.append(unit.make())
            given = unit.given
    return Unit("nn.Sequential", f"[{', '.join(parts)}]", shape, given)


PLAIN: tuple[Layer, ...] = (dense, dense, dense, dense_general, einsum, conv, norm)
PLAIN = (*PLAIN, norm, dropout, prelu)
LAYERS = (*PLAIN, *PLAIN, attention, rnn, weight_norm, sequential, pooling)


def layer(draw: Draw, shape: Shape, deep: bool = True) -> Unit:
    """A layer of the library that takes an array of this shape."""
    while True:
        unit = draw.pick(*(LAYERS if deep else PLAIN))(draw, shape)
        if unit and 1 <= len(unit.given) <= 3 and math.prod(unit.given) <= 200:
            return unit


def fit(shape: Shape) -> Shape:
    """The shape that arrays are brought to before they grow too large."""
    return tuple(min(n, SIZES[-1]) for n in shape[-2:])
