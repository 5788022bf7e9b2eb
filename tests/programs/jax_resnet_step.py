"""A training step of a residual network of `jax-resnet`."""

from functools import partial

import jax
import jax.numpy as jnp
import report
from jax_resnet import ResNet, ResNetBottleneckBlock, ResNetDStem
from jax_resnet.common import ConvBlock

model = ResNet(
    block_cls=ResNetBottleneckBlock,
    stage_sizes=[1, 1],
    n_classes=5,
    stem_cls=ResNetDStem,
    hidden_sizes=(8, 16),
    conv_block_cls=partial(ConvBlock),
)
x = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
labels = jnp.arange(4)
variables = model.init(jax.random.key(0), x)


@jax.jit
def step(variables):
    def loss(params):
        logits, updated = model.apply(
            {**variables, "params": params}, x, mutable=["batch_stats"]
        )
        chosen = jax.nn.log_softmax(logits)[jnp.arange(4), labels]
        return -chosen.mean(), (logits, updated)

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


(loss, (logits, updated)), grads = step(variables)
report.save(init=variables, loss=loss, logits=logits, updated=updated, grads=grads)
