"""The same architecture in torchvision or timm, if one of them is installed."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

OF_TIMM = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "resnet152": "resnet152",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "efficientnet_b0": "efficientnet_b0",
    "efficientnet_b1": "efficientnet_b1",
    "efficientnet_b2": "efficientnet_b2",
    "efficientnet_b3": "efficientnet_b3",
    "densenet121": "densenet121",
    "densenet169": "densenet169",
    "vit_s_16": "vit_small_patch16_224",
    "vit_b_16": "vit_base_patch16_224",
}
"""Names of the architectures of `linsey.models` in timm."""


def installed_model(
    name: str, arrays: Mapping[str, np.ndarray], classes: int, shape: Sequence[int]
) -> Any:
    """Make the model that a state dict belongs to.

    Args:
        name: the name of the architecture in `linsey.models`.
        arrays: the state dict.
        classes: number of classes.
        shape: the shape of a batch, channels last.

    Returns:
        A `torch.nn.Module` with these weights; `None` if neither library is installed,
        or the names and shapes fit neither.
    """
    if name not in OF_TIMM or (name.startswith("vit") and shape[1] != shape[2]):
        return None
    expected = {key: array.shape for key, array in arrays.items()}
    for library, make in (("torchvision", _of_torchvision), ("timm", _of_timm)):
        if importlib.util.find_spec(library) is None:
            continue
        try:
            torch = importlib.import_module("torch")
            importlib.import_module(library)
        except (ImportError, RuntimeError):  # built for another version of torch
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about optional parts of the library
            model = make(name, classes, shape)
        if model is None:
            continue
        found = {key: tuple(array.shape) for key, array in model.state_dict().items()}
        if found == expected:
            # NumPy has no bfloat16 that PyTorch accepts, and its scalars are no arrays.
            wide = {key: np.asarray(a, np.float64) for key, a in arrays.items()}
            model.load_state_dict({key: torch.from_numpy(a) for key, a in wide.items()})
            return model
    return None


def _of_torchvision(name: str, classes: int, shape: Sequence[int]) -> Any:
    models = importlib.import_module("torchvision.models")
    make = getattr(models, name, None)
    options = {"image_size": shape[1]} if name.startswith("vit") else {}
    return make and make(num_classes=classes, **options)


def _of_timm(name: str, classes: int, shape: Sequence[int]) -> Any:
    timm = importlib.import_module("timm")
    options = {"img_size": shape[1]} if name.startswith("vit") else {}
    return timm.create_model(OF_TIMM[name], num_classes=classes, **options)
