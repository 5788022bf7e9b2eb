"""Models of `nanodl`, small: language, images, mixtures of experts, graphs."""

import jax
import jax.numpy as jnp
import nanodl
import report

key = jax.random.PRNGKey(1)
tokens = jnp.array([[3, 5, 7, 9, 2], [4, 1, 8, 6, 6]])
block = dict(num_layers=1, hidden_dim=8, num_heads=2, feedforward_dim=8, dropout=0.1)
small = dict(
    vocab_size=20, embed_dim=8, max_length=5, start_token=0, end_token=19, **block
)  # fmt: skip
for name in ("GPT3", "LaMDA"):
    report.model(name, getattr(nanodl, name)(**small), tokens, training=True)
report.model("GPT4", nanodl.GPT4(**small), tokens, grads=False)
for name in ("Llama3", "Gemma"):
    model = getattr(nanodl, name)(num_groups=2, **small)
    report.model(name, model, tokens, training=True, grads=False)
for name in ("Mistral", "Mixtral"):
    model = getattr(nanodl, name)(num_groups=2, window_size=5, shift_size=1, **small)
    report.model(name, model, tokens, training=True, grads=False)
for name in ("T5", "Transformer", "Whisper"):
    seen = jax.random.normal(key, (2, 5, 8)) if name == "Whisper" else tokens
    report.model(name, getattr(nanodl, name)(**small), seen, tokens, training=True)
image = jax.random.normal(key, (2, 8, 8, 3))
for name in ("ViT", "Mixer"):
    model = getattr(nanodl, name)(patch_size=(4, 4), n_outputs=3, **block)
    report.model(name, model, image, training=True)
unet = nanodl.UNet((8, 8), [4, 8], 1, 4, 1.0, 10.0)
report.model("UNet", unet, image, jnp.full((2, 1, 1, 1), 0.5))
x = jax.random.normal(key, (4, 4))
graph = nanodl.GAT(nfeat=4, nhid=4, nclass=2, dropout_rate=0.1, alpha=0.2, nheads=2)
report.model("GAT", graph, x, jnp.ones((4, 4)), training=True, grads=False)
for name in ("", "Cheby", "Fourier", "Hermite", "Legendre", "Monomial"):
    name += "KANLinear"
    report.model(name, getattr(nanodl, name)(4, 3, 3), x)
report.save()
