"""Models of `flax-gated-linear-rnn`: associative scans, carries, cross attention."""

import jax
import report
from flax_gated_linear_rnn import attention, gated_linear_rnn

x = jax.random.normal(jax.random.PRNGKey(1), (2, 5, 8))
for name, options in [
    ("parallel", {}),
    ("recurrent", {"use_true_recurrence": True}),
    ("gates", {"use_tied_gates": False}),
]:
    model = gated_linear_rnn.GatedLinearRNN(d_model=8, d_h=4, **options)
    report.model(name, model, x)
report.model(
    "attention",
    attention.MultiHeadSelfAttention(d_model=8, d_h=8, n_head=2, use_causal_mask=True),
    x,
    None,
)
report.save()
