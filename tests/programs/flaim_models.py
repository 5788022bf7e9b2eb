"""Image models of `flaim`, small, in training mode."""

import importlib

import jax
import old_jax
import report

assert old_jax  # gives back `jax.random.KeyArray`

MODELS = {
    "cait.Cait": dict(depth=1, token_dim=8, n_heads=2, patch_size=8, depth_class=1),
    "convmixer.ConvMixer": dict(depth=1, dim=8, patch_size=4, kernel_size=3),
    "convnext.ConvNeXt": dict(depths=(1, 1, 1, 1), out_dims=(4, 8, 8, 8), grn=True),
    "hornet.HorNet": dict(depths=(1, 1, 1, 1), out_dim_first_stage=16),
    "nest.NesT": dict(depths=(1, 1), token_dims=(8, 16), n_heads=(1, 2)),
    "pvtv2.PVTV2": dict(
        depths=(1, 1, 1, 1), token_dims=(8, 8, 8, 8), n_heads=(1, 1, 2, 2)
    ),
    "resnet.ResNet": dict(depths=(1, 1)),
    "swin.Swin": dict(depths=(2,), token_dim=8, n_heads=(2,), window_size=4),
    "van.VAN": dict(depths=(1, 1, 1, 1), out_dims=(4, 8, 8, 8)),
    "vgg.VGG": dict(out_dims=((4,), (4,), (4,), (4,), (4,)), bn=True),
    "vit.ViT": dict(depth=1, token_dim=8, n_heads=2, patch_size=8),
    "xcit.XCiT": dict(depth=1, token_dim=8, n_heads=2, patch_size=8, depth_class=1),
    "maxvit.MaxViT": dict(
        depths=(1,), out_dims=(8,), stem_out_dim=8, partition_size_factor=8, head_dim=4
    ),
    "gcvit.GCViT": dict(
        depths=(1,), token_dim=8, n_heads=(2,), window_size_factors=(8,)
    ),
}
# Batch norms at one position divide by what few examples differ in: eight, not two.
x = jax.random.normal(jax.random.PRNGKey(1), (8, 32, 32, 3))
for path, options in MODELS.items():
    file, name = path.split(".")
    model = getattr(importlib.import_module(f"flaim.models.{file}"), name)(
        n_classes=3, **options
    )
    training = "training" in model.__call__.__code__.co_varnames
    report.model(name, model, x, *[True] * training, grads=name == "ViT")
report.save()
