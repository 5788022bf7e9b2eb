"""What arrays are called in PyTorch's libraries.

Our names are those of torchvision with an underscore before an index, so that most
follow by a rule; what differs is in the table of its architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from linsey.models.architecture import Architecture

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
_INDEX = re.compile(r"_(?=\d+(?:_|/|$))")


def torch_name(model: Architecture, path: str, library: str = "torchvision") -> str:
    """Return the name of an array in a state dict of PyTorch.

    Without the collection, slashes become dots, and so do underscores before an index;
    `kernel` and `scale` become `weight`, `mean` and `var` running statistics. Names
    that `model.torch_names` gives for a part of the path come first.

    Args:
        model: what the array belongs to.
        path: collection and names, joined by slashes.
        library: `torchvision` or `timm`.

    Raises:
        OptionError: the library is another one.

    Example:
        >>> from linsey import models
        >>> model = models.efficientnet_b0()
        >>> path = "params/features_1_0/block_0_1/scale"
        >>> models.torch_name(model, path)
        'features.1.0.block.0.1.weight'
        >>> models.torch_name(model, path, "timm")
        'blocks.0.0.bn1.weight'
    """
    return name_by_table(model.torch_names(library), path)


def name_by_table(names: Mapping[str, str], path: str) -> str:
    """Return the name of an array.

    Args:
        names: what `Architecture.torch_names` returns, for many calls made once.
        path: collection and names, joined by slashes.
    """
    parts = path.split("/")[1:]
    # The longest part that has a name of its own.
    for size in range(len(parts), 0, -1):
        known = names.get("/".join(parts[:size]))
        if known is not None:
            return ".".join([known, *_by_rule(parts[size:])])
    return ".".join(_by_rule(parts))


def _by_rule(parts: list[str]) -> list[str]:
    *modules, leaf = parts or [""]
    named = [_INDEX.sub(".", module) for module in modules]
    return [*named, _LEAVES.get(leaf, leaf)] if leaf else named
