"""Models of `nanodl`, small: language, images, mixtures of experts, graphs."""

import jax
import jax.numpy as jnp
import nanodl
import report

key = jax.random.PRNGKey(1)
tokens = jnp.array([[3, 5, 7, 9, 2], [4, 1, 8, 6, 6]])
small = dict(
    num_layers=1, hidden_dim=8, num_heads=2, feedforward_dim=8, dropout=0.1,
    vocab_size=20, embed_dim=8, max_length=5, start_token=0, end_token=19,
)  # fmt: skip
for name in ("GPT3", "LaMDA"):
    report.model(name, getattr(nanodl, name)(**small), tokens, training=True)
report.model("GPT4", nanodl.GPT4(num_experts=2, top_k=1, **small), tokens, grads=False)
for name in ("Llama3", "Gemma"):
    if hasattr(nanodl, name):
        model = getattr(nanodl, name)(num_groups=2, **small)
        report.model(name, model, tokens, training=True, grads=False)
x = jax.random.normal(key, (4, 6))
graph = nanodl.GAT(nfeat=6, nhid=4, nclass=2, dropout_rate=0.1, alpha=0.2, nheads=2)
report.model("GAT", graph, x, jnp.ones((4, 4)), training=True, grads=False)
for name in ("KANLinear", "ChebyKANLinear", "FourierKANLinear"):
    if hasattr(nanodl, name):
        report.model(name, getattr(nanodl, name)(6, 3, 3), x)
report.save()
