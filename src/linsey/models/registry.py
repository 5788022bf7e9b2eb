"""The architectures by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from linsey.errors import OptionError
from linsey.models.architecture import Architecture
from linsey.models.densenet import densenet121, densenet169
from linsey.models.efficientnet import (
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
)
from linsey.models.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from linsey.models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from linsey.models.vit import vit_b_16, vit_s_16

_FUNCTIONS: list[Callable[..., Architecture]] = [
    resnet18, resnet34, resnet50, resnet101, resnet152,
    mobilenet_v3_small, mobilenet_v3_large,
    efficientnet_b0, efficientnet_b1, efficientnet_b2, efficientnet_b3,
    densenet121, densenet169,
    vit_s_16, vit_b_16,
]  # fmt: skip
MODELS: Mapping[str, Callable[..., Architecture]] = MappingProxyType(
    {function.__name__: function for function in _FUNCTIONS}
)
"""The functions that make the architectures, by name."""


def by_name(name: str, num_classes: int = 1000, **options: object) -> Architecture:
    """Make an architecture.

    Args:
        name: one of `MODELS`.
        num_classes: number of logits.
        **options: options of its function.

    Raises:
        OptionError: there is no architecture of that name.

    Example:
        >>> by_name("resnet18", 10) == resnet18(10)
        True
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1) or ["resnet18"]
        raise OptionError(
            f"An architecture {name!r} was asked for.",
            f"There are {', '.join(MODELS)}.",
            f"Write `by_name({near[0]!r})`.",
        )
    return MODELS[name](num_classes, **options)
