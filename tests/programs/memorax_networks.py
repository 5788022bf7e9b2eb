"""Sequence models of `memorax`: recurrent cells, state spaces, attention, memory."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import report
from memorax.networks import sequence_models as sm
from memorax.networks.blocks import (
    FFN,
    GatedFFN,
    GatedResidual,
    PreNorm,
    Residual,
    Stack,
)

x = jax.random.normal(jax.random.PRNGKey(1), (2, 5, 8))
mask = jnp.zeros((2, 5)).at[0, 2].set(1)

MODELS = {
    "lstm": sm.RNN(cell=nn.OptimizedLSTMCell(8)),
    "gru": sm.RNN(cell=nn.GRUCell(8), unroll=2),
    "slstm": sm.RNN(cell=sm.sLSTMCell(features=8, hidden_dim=8, num_heads=2)),
    "shm": sm.RNN(cell=sm.SHMCell(features=4, output_features=8, num_thetas=4)),
    "ffm": sm.Memoroid(cell=sm.FFMCell(features=8, memory_size=4, context_size=2)),
    "lru": sm.Memoroid(cell=sm.LRUCell(features=8, hidden_dim=8)),
    "min_gru": sm.Memoroid(cell=sm.MinGRUCell(features=8)),
    "mlstm": sm.Memoroid(cell=sm.mLSTMCell(features=8, hidden_dim=8, num_heads=2)),
    "s5": sm.Memoroid(cell=sm.S5Cell(features=8, state_size=4)),
    "stack": Stack(
        blocks=(
            Residual(module=PreNorm(module=FFN(features=8))),
            GatedResidual(
                module=PreNorm(module=sm.RNN(cell=nn.SimpleCell(8)), norm=nn.RMSNorm)
            ),
            GatedFFN(features=8),
        )
    ),
}
for name, model in MODELS.items():
    keys = ("params", "dropout", "torso")
    report.model(name, model, x, mask, keys=keys, grads=name in ("lstm", "stack"))
report.save()
