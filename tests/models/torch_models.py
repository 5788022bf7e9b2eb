"""The same architectures of torchvision and timm, and arrays to and fro.

The translation is as plain as can be: one array after the other, by its name.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linsey import models
from linsey.checkpoint import flatten

OF_TIMM = {
    "resnet50": "resnet50",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "efficientnet_b0": "efficientnet_b0",
    "efficientnet_b3": "efficientnet_b3",
    "densenet121": "densenet121",
    "vit_s_16": "vit_small_patch16_224",
    "vit_b_16": "vit_base_patch16_224",
}


def import_torchvision(torch: Any) -> Any:
    """Import torchvision, beside a PyTorch of another build too."""
    try:
        import torchvision
    except RuntimeError:
        # A wheel for another build of PyTorch has none of its own operators, which
        # these models do without; only that they are known is asked for.
        known = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            known.define(f"{name}(Tensor boxes, Tensor scores, float most) -> Tensor")
        import torchvision
    return torchvision


def torchvision_model(torch: Any, name: str, classes: int, side: int) -> Any:
    """Make one without dropout; images have as many pixels on each side."""
    options: dict[str, object] = {"image_size": side} if name == "vit_b_16" else {}
    make = getattr(import_torchvision(torch).models, name)
    model = make(num_classes=classes, **options)
    return comparable(torch, model)


def timm_model(torch: Any, name: str, classes: int, side: int) -> Any:
    """Make one without dropout; images have as many pixels on each side."""
    import_torchvision(torch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its optional parts
        import timm

        options = {"img_size": side} if name.startswith("vit") else {}
        model = timm.create_model(OF_TIMM[name], num_classes=classes, **options)
    return comparable(torch, model)


def comparable(torch: Any, model: Any) -> Any:
    """Leave out what is drawn, and what is inexact in double precision too."""

    class HardSigmoid(torch.nn.Module):
        """Its derivative is 1/6 in single precision in PyTorch, whatever the dtype."""

        def forward(self, x: Any) -> Any:
            return torch.nn.functional.relu6(x + 3) / 6

    for layer in list(model.modules()):
        if type(layer).__name__ in ("Dropout", "StochasticDepth"):
            layer.p = 0.0
        for name, inner in layer.named_children():
            if type(inner).__name__ == "Hardsigmoid":
                setattr(layer, name, HardSigmoid())
    return model


def randomize(torch: Any, model: Any, seed: int = 0) -> None:
    """Give a model parameters and statistics that are not those of a new one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(array: Any) -> Any:
        return torch.randn(array.shape, generator=generator, dtype=torch.float64)

    with torch.no_grad():
        for name, array in model.state_dict().items():
            if name.endswith("running_mean"):
                array.copy_(0.3 * normal(array))
            elif name.endswith("running_var"):
                array.copy_((0.4 * normal(array)).exp())
            elif name.endswith("num_batches_tracked"):
                array.fill_(7)
            elif array.ndim == 1:
                array.copy_(array + 0.1 * normal(array))
                if name.endswith(("bn3.weight", "block.3.1.weight")):
                    # Where branches are as large as what they are added to, rounding
                    # grows a hundredfold in each step of a network of 100 layers.
                    array.mul_(0.2)
            elif not array.any():
                array.copy_(0.05 * normal(array))


def shapes(model: models.Architecture, side: int) -> dict[str, Any]:
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def names(
    model: models.Architecture, variables: dict[str, Any], library: str
) -> Iterator[tuple[str, str, Any]]:
    """Path, name in the library, and array."""
    for path, array in flatten(variables).items():
        yield path, models.torch_name(model, path, library), array


def to_ours(
    model: models.Architecture,
    variables: dict[str, Any],
    state: dict[str, np.ndarray],
    library: str,
) -> dict[str, Any]:
    """Fill variables with the arrays of a state dict."""
    filled: dict[str, Any] = {}
    for path, name, array in names(model, variables, library):
        value = state[name]
        if path.endswith("kernel"):
            if array.ndim == 2 and value.ndim == 4:  # a convolution of 1 x 1
                value = value[:, :, 0, 0]
            value = value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0))
        assert value.shape == array.shape, (path, name)
        *parents, leaf = path.split("/")
        place = filled
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    return filled


def to_theirs(
    model: models.Architecture,
    variables: dict[str, Any],
    state: dict[str, np.ndarray],
    library: str,
) -> dict[str, np.ndarray]:
    """Write variables as a state dict of the shapes of another one."""
    written = {}
    for path, name, array in names(model, variables, library):
        value = np.asarray(array)
        if path.endswith("kernel"):
            value = value.transpose((3, 2, 0, 1) if value.ndim == 4 else (1, 0))
        written[name] = value.reshape(state[name].shape)
    return written


def arrays(model: Any) -> dict[str, np.ndarray]:
    """The state dict of a model but for counters, copied."""
    return {
        name: array.detach().numpy().copy()
        for name, array in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
