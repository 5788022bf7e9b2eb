"""Models of `flaxmodels`: a residual network and the mapping of StyleGAN2."""

import flaxmodels as fm
import jax
import report
from flaxmodels.stylegan2 import generator

found = {}
key = jax.random.PRNGKey(0)

model = fm.ResNet18(output="logits", pretrained=None, normalize=False, num_classes=5)
x = jax.random.uniform(key, (4, 64, 64, 3))
variables = model.init(key, x)
found["resnet_variables"] = variables
found["resnet"] = model.apply(variables, x, train=True, mutable=["batch_stats"])

model = generator.MappingNetwork(num_layers=2)
z = jax.random.normal(key, (2, 512))
variables = model.init(key, z)
found["mapping_variables"] = variables
found["mapping"] = model.apply(variables, z, mutable=["moving_stats"])
report.save(**found)
