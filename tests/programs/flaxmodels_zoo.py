"""Models of `flaxmodels`: residual networks, VGG, GPT-2 and the parts of StyleGAN2."""

from types import SimpleNamespace

import flaxmodels as fm
import jax
import jax.numpy as jnp
import report
from flaxmodels import few_shot_gan_adaption as few_shot
from flaxmodels.gpt2 import gpt2
from flaxmodels.stylegan2 import discriminator, generator

key = jax.random.PRNGKey(0)
found = report.found
x = jax.random.uniform(key, (2, 32, 32, 3))
plain = {"output": "logits", "pretrained": None, "normalize": False}
report.model("resnet", fm.ResNet18(num_classes=5, **plain), x, train=True, grads=False)
report.model(
    "bottleneck", fm.ResNet50(num_classes=5, **plain), x, train=False, grads=False
)
vgg = fm.VGG16(include_head=False, **plain)
report.model("vgg", vgg, x, train=False, grads=False)

z = jax.random.normal(key, (2, 16))
mapping = generator.MappingNetwork(z_dim=16, w_dim=16, layer_features=16, num_layers=2)
report.model("mapping", mapping, z, grads=False)
small = dict(fmap_base=64, fmap_max=8)
gan = dict(resolution=8, z_dim=16, w_dim=16, mapping_layer_features=16, num_ws=4)
for name, module in [("stylegan2", generator), ("few_shot", few_shot.generator)]:
    model = module.Generator(num_mapping_layers=2, **gan, **small)
    report.model(name, model, z, rng=key, grads=False, noise_mode="const")
image = jax.random.normal(key, (4, 8, 8, 3))
model = discriminator.Discriminator(resolution=8, **small)
report.model("discriminator", model, image, None)

config = SimpleNamespace(
    vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16, n_inner=None,
    max_pos_emb=16, embd_pdrop=0.1, attn_pdrop=0.1, resid_pdrop=0.1, num_layers=1,
    embed_dim=8, num_heads=2, embd_dropout=0.1, attn_dropout=0.1, resid_dropout=0.1,
    layer_norm_epsilon=1e-5, scale_attn_weights=True, activation_function="gelu_new",
    initializer_range=0.02,
)  # fmt: skip
report.model("gpt2", gpt2.GPT2LMHeadModel(config=config), jnp.ones((2, 5), int))
report.save()
