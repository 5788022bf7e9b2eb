"""Vision transformers and networks of `jax-models`, small, in training mode."""

import jax
import report
from jax_models.models.conv_mixer import ConvMixer
from jax_models.models.convnext import ConvNeXt
from jax_models.models.pvit import PyramidViT
from jax_models.models.segformer import SegFormer
from jax_models.models.swin_transformer import SwinTransformer
from jax_models.models.van import VAN

models = {
    "convmixer": ConvMixer(features=8, patch_size=4, num_mixer_layers=2,
                           filter_size=3, attach_head=True, num_classes=3),
    "convnext": ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 8, 8, 8), drop_path=0.2,
                         attach_head=True, num_classes=3),
    "pvit": PyramidViT(embed_dims=(4, 8, 8, 8), num_heads=(1, 2, 2, 2), drop=0.1,
                       depths=(1, 1, 1, 1), sr_ratios=(2, 1, 1, 1), num_classes=3),
    "segformer": SegFormer(emb_dims=(4, 8, 8, 8), num_heads=(1, 2, 2, 2), drop=0.1,
                           depths=(1, 1, 1, 1), num_classes=3, decoder_emb=8),
    "swin": SwinTransformer(emb_dim=6, depths=(2, 2), num_heads=(1, 2), window_size=4,
                            num_classes=3),
    "van": VAN(embed_dims=(4, 8, 8, 8), depths=(1, 1, 1, 1), num_classes=3),
}  # fmt: skip

found = {}
x = jax.random.normal(jax.random.PRNGKey(1), (2, 32, 32, 3))
for name, model in models.items():
    rngs = {s: jax.random.PRNGKey(i) for i, s in enumerate(["dropout", "drop_path"])}
    variables = model.init({"params": jax.random.PRNGKey(0), **rngs}, x, True)
    found[name + "_variables"] = variables
    found[name] = model.apply(variables, x, False, rngs=rngs, mutable=["batch_stats"])
report.save(**found)
