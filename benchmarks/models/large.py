"""ResNet-50 and a transformer, as users of each rival would write them.

Every function returns a program of XLA, or `None` for PyTorch, and a call that computes
and waits. It raises ImportError where the rival is not installed. Rivals are named
"linsey", "linsey save_memory", "flax" and "torch". PyTorch takes images channels last,
and its own automatic mixed precision in place of a dtype of the layers.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.models import convolutional as models

Measured = tuple[Any, Callable[[], Any]]
RIVALS = ("linsey", "linsey save_memory", "flax", "torch")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the models are."""

    batch: int = 64
    side: int = 224
    stages: tuple[int, ...] = (3, 4, 6, 3)
    classes: int = 1000
    depth: int = 12
    width: int = 768
    heads: int = 12
    length: int = 512
    sequences: int = 8
    words: int = 32000


SMALL = Sizes(2, 16, (1,), 5, 1, 8, 2, 4, 2, 11)


def linen(rival: str) -> tuple[Any, bool]:
    """Return a rival's layers, and whether they save memory."""
    library, _, option = rival.partition(" ")
    return importlib.import_module(f"{library}.linen"), bool(option)


def resnet(rival: str, sizes: Sizes, dtype: Any, axis_name: str | None = None) -> Any:
    """Return a Linen module: bottleneck blocks, the stride in the 3x3 convolution.

    `axis_name` is that of its batch norms.
    """
    nn, saves = linen(rival)

    def normalize(x, train, activation=True):
        options = {"use_running_average": not train, "dtype": dtype}
        options |= {"axis_name": axis_name}
        if saves and activation and train:
            options |= {"activation": "relu", "save_memory": True}
            return nn.BatchNorm(**options)(x)
        y = nn.BatchNorm(**options)(x)
        return nn.relu(y) if activation else y

    def convolve(x, features, size, stride=1):
        strides = (stride, stride)
        return nn.Conv(features, (size, size), strides, use_bias=False, dtype=dtype)(x)

    class Block(nn.Module):
        features: int
        stride: int

        @nn.compact
        def __call__(self, x, train):
            y = normalize(convolve(x, self.features, 1), train)
            y = normalize(convolve(y, self.features, 3, self.stride), train)
            y = normalize(convolve(y, 4 * self.features, 1), train, False)
            if x.shape != y.shape:
                x = convolve(x, 4 * self.features, 1, self.stride)
                x = normalize(x, train, False)
            return nn.relu(x + y)

    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x, train=True):
            x = normalize(convolve(x, 64, 7, 2), train)
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
            for stage, count in enumerate(sizes.stages):
                for block in range(count):
                    stride = 2 if stage and not block else 1
                    x = Block(64 * 2**stage, stride)(x, train)
            return nn.Dense(sizes.classes, dtype=dtype)(x.mean((1, 2)))

    return ResNet()


def transformer(rival: str, sizes: Sizes, dtype: Any) -> Any:
    """Return a Linen module: causal attention and an mlp, each after a layer norm."""
    nn, _ = linen(rival)

    class Transformer(nn.Module):
        @nn.compact
        def __call__(self, words, train=True):
            mask = nn.make_causal_mask(words)
            x = nn.Embed(sizes.words, sizes.width, dtype=dtype)(words)
            for _ in range(sizes.depth):
                y = nn.LayerNorm(dtype=dtype)(x)
                attention = nn.MultiHeadDotProductAttention(sizes.heads, dtype=dtype)
                x = x + attention(y, mask=mask)
                y = nn.Dense(4 * sizes.width, dtype=dtype)(nn.LayerNorm(dtype=dtype)(x))
                x = x + nn.Dense(sizes.width, dtype=dtype)(nn.gelu(y))
            return nn.Dense(sizes.words, dtype=dtype)(x)

    return Transformer()


def mlp(rival: str, sizes: Sizes, dtype: Any) -> Any:
    """Return a Linen module: dense layers with relu on the flat input."""
    nn, _ = linen(rival)

    class Mlp(nn.Module):
        @nn.compact
        def __call__(self, x, train=True):
            x = x.reshape(len(x), -1)
            for _ in range(sizes.depth):
                x = nn.relu(nn.Dense(sizes.width, dtype=dtype)(x))
            return nn.Dense(sizes.classes, dtype=dtype)(x)

    return Mlp()


MODELS = {"resnet": resnet, "transformer": transformer, "mlp": mlp}


def inputs(name: str, sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Fixed inputs of a model and their labels."""
    if name in ("resnet", "mlp"):
        x = models.numbers(sizes.batch, sizes.side, sizes.side, 3)
        return x, np.arange(sizes.batch) % sizes.classes
    words = np.arange(sizes.sequences * sizes.length) * 7 % sizes.words
    words = words.reshape(sizes.sequences, sizes.length).astype(np.int32)
    return words, np.roll(words, -1, 1)


def step(name: str, rival: str, sizes: Sizes, dtype: Any) -> Measured:
    """Return a step of gradient descent on the cross entropy."""
    x, labels = inputs(name, sizes)
    if rival == "torch":
        return None, _torch_step(name, sizes, dtype, x, labels)
    model = MODELS[name](rival, sizes, dtype)
    state = jax.jit(model.init)(jax.random.key(0), x)
    params = state.pop("params")
    return models.compiled(update(model), params, state, x, labels)


def update(model: Any) -> Callable[..., tuple[Any, Any]]:
    """Take a step of gradient descent: parameters and statistics from a batch."""

    def update(params, state, x, labels):
        def loss(params):
            y, updated = model.apply(
                {"params": params, **state}, x, mutable=["batch_stats"]
            )
            scores = jax.nn.log_softmax(y.astype(jnp.float32))
            return -jnp.take_along_axis(scores, labels[..., None], -1).mean(), updated

        gradients, updated = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), updated

    return update


def evaluation(rival: str, sizes: Sizes, dtype: Any) -> Measured:
    """Return the ResNet applied with its running statistics.

    "linsey folded", "flax folded" and "torch folded" have these in the convolutions.
    """
    library, is_folded = rival.removesuffix(" folded"), rival.endswith(" folded")
    x, _ = inputs("resnet", sizes)
    if library == "torch":
        return None, _torch_evaluation(sizes, dtype, x, is_folded)
    model = resnet(library, sizes, dtype)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    if is_folded:
        from linsey.batch_stats import fold

        apply, variables, _ = fold(model, variables, x[:1])
        return models.compiled(apply, variables, x)
    return models.compiled(
        lambda variables, x: model.apply(variables, x, train=False), variables, x
    )


# PyTorch.


def _torch_resnet(torch: Any, sizes: Sizes) -> Any:
    nn = torch.nn

    def convolve(channels, features, size, stride=1):
        padding = size // 2
        return nn.Conv2d(channels, features, size, stride, padding, bias=False)

    class Block(nn.Module):
        def __init__(self, channels, features, stride):
            super().__init__()
            self.body = nn.Sequential(
                convolve(channels, features, 1),
                nn.BatchNorm2d(features),
                nn.ReLU(inplace=True),
                convolve(features, features, 3, stride),
                nn.BatchNorm2d(features),
                nn.ReLU(inplace=True),
                convolve(features, 4 * features, 1),
                nn.BatchNorm2d(4 * features),
            )
            self.shortcut = nn.Identity()
            if stride != 1 or channels != 4 * features:
                projection = convolve(channels, 4 * features, 1, stride)
                norm = nn.BatchNorm2d(4 * features)
                self.shortcut = nn.Sequential(projection, norm)

        def forward(self, x):
            return torch.relu(self.shortcut(x) + self.body(x))

    layers = [convolve(3, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    channels = 64
    for stage, count in enumerate(sizes.stages):
        for block in range(count):
            stride = 2 if stage and not block else 1
            layers.append(Block(channels, 64 * 2**stage, stride))
            channels = 4 * 64 * 2**stage
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(channels, sizes.classes))


def _torch_transformer(torch: Any, sizes: Sizes) -> Any:
    nn = torch.nn
    mask = nn.Transformer.generate_square_subsequent_mask(sizes.length)

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(sizes.words, sizes.width)
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    sizes.width,
                    sizes.heads,
                    4 * sizes.width,
                    dropout=0.0,
                    activation="gelu",
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(sizes.depth)
            )
            self.out = nn.Linear(sizes.width, sizes.words)

        def forward(self, words):
            x = self.embed(words)
            for block in self.blocks:
                x = block(x, src_mask=mask.to(x.device), is_causal=True)
            return self.out(x)

    return Transformer()


def torch_device(torch: Any) -> str:
    """Return where PyTorch computes: on the GPU if jax does."""
    on_gpu = jax.default_backend() != "cpu" and torch.cuda.is_available()
    return "cuda" if on_gpu else "cpu"


def _torch_call(torch: Any, dtype: Any, run: Callable[[], Any]) -> Callable[[], Any]:
    """Return a call that waits, with mixed precision if the dtype is half."""
    device = torch_device(torch)
    half = dtype == jnp.bfloat16

    def call():
        with torch.autocast(device, torch.bfloat16, enabled=half):
            run()
        if device == "cuda":
            torch.cuda.synchronize()

    return call


def _torch_images(torch: Any, x: np.ndarray) -> Any:
    return torch.from_numpy(x).permute(0, 3, 1, 2).to(torch_device(torch))


def _torch_mlp(torch: Any, sizes: Sizes, entries: int) -> Any:
    nn, layers = torch.nn, []
    for i in range(sizes.depth):
        layers += [nn.Linear(sizes.width if i else entries, sizes.width), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes.width, sizes.classes))


def _torch_step(name: str, sizes: Sizes, dtype: Any, x: Any, labels: Any) -> Any:
    torch = models.import_torch()
    device, labels = torch_device(torch), torch.from_numpy(np.int64(labels))
    if name == "resnet":
        model = _torch_resnet(torch, sizes).to(memory_format=torch.channels_last)
        x = _torch_images(torch, x)
    elif name == "mlp":
        model, x = _torch_mlp(torch, sizes, x[0].size), torch.from_numpy(x)
    else:
        model, x = _torch_transformer(torch, sizes), torch.from_numpy(np.int64(x))
    model, x, labels = model.to(device), x.to(device), labels.to(device).flatten()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def run():
        optimizer.zero_grad()
        scores = model(x)
        scores = scores.reshape(-1, scores.shape[-1])
        torch.nn.functional.cross_entropy(scores, labels).backward()
        optimizer.step()

    return _torch_call(torch, dtype, run)


def _torch_evaluation(
    sizes: Sizes, dtype: Any, x: np.ndarray, folded: bool
) -> Callable[[], Any]:
    torch = models.import_torch()
    model = _torch_resnet(torch, sizes).to(memory_format=torch.channels_last)
    model, x = model.to(torch_device(torch)).eval(), _torch_images(torch, x)
    if folded:  # every pair of layers by `fuse_conv_bn_eval`
        optimization = importlib.import_module("torch.fx.experimental.optimization")
        model = optimization.fuse(model)

    def run():
        with torch.no_grad():
            model(x)

    return _torch_call(torch, dtype, run)


def norm(rival: str, shape: tuple[int, ...], dtype: Any) -> Measured:
    """Forward and backward pass of one batch normalization in training."""
    x, cotangent = (models.numbers(*shape, loc=loc) for loc in (1.0, 0.0))
    if rival == "torch":
        return None, _torch_norm(dtype, x, cotangent)
    nn, saves = linen(rival)
    options = {"activation": "relu", "save_memory": True} if saves else {}
    layer = nn.BatchNorm(False, dtype=dtype, **options)
    state = layer.init(jax.random.key(0), jnp.ones(shape))
    params = state.pop("params")

    def both(params, state, x, cotangent):
        def apply(params, x):
            variables = {"params": params, **state}
            y, updated = layer.apply(variables, x, mutable=["batch_stats"])
            return jnp.asarray(y), updated

        y, pull, updated = jax.vjp(apply, params, x, has_aux=True)
        return y, updated, pull(cotangent)

    return models.compiled(
        both, params, state, jnp.asarray(x, dtype), jnp.asarray(cotangent, dtype)
    )


def _torch_norm(dtype: Any, x: np.ndarray, cotangent: np.ndarray) -> Callable[[], Any]:
    torch = models.import_torch()
    kind = torch.bfloat16 if dtype == jnp.bfloat16 else torch.float32
    x, cotangent = (_torch_images(torch, v).to(kind) for v in (x, cotangent))
    x.requires_grad_()
    layer = torch.nn.BatchNorm2d(x.shape[1]).to(torch_device(torch))

    def run():
        x.grad = None
        layer(x).backward(cotangent)

    return _torch_call(torch, jnp.float32, run)
