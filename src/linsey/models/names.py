"""The names of arrays in PyTorch's libraries.

Our names are those of torchvision with an underscore before an index, so most follow
from a rule. Names that differ are in the table of their architecture.
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
    "updates": "num_batches_tracked",
}
_INDEX = re.compile(r"_(?=\d+(?:_|/|$))")


def torch_name(model: Architecture, path: str, library: str = "torchvision") -> str:
    """Return the name of an array in a state dict of PyTorch.

    The collection is dropped; slashes, and underscores before an index, become dots;
    `kernel` and `scale` become `weight`, and `mean` and `var` become running
    statistics. Names that `model.torch_names` gives for a part of the path take
    precedence.

    Args:
        model: the model that the array belongs to.
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
    """Return the name of an array, given the names of its architecture.

    Args:
        names: the result of `Architecture.torch_names`, computed once for many calls.
        path: collection and names, joined by slashes.
    """
    parts = path.split("/")[1:]
    # The longest part of the path that has its own name in the table.
    for size in range(len(parts), 0, -1):
        known = names.get("/".join(parts[:size]))
        if known is not None:
            return ".".join([known, *_by_rule(parts[size:])])
    return ".".join(_by_rule(parts))


def _by_rule(parts: list[str]) -> list[str]:
    *modules, leaf = parts or [""]
    named = [_INDEX.sub(".", module) for module in modules]
    return [*named, _LEAVES.get(leaf, leaf)] if leaf else named
