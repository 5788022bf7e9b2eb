"""`to_torch`: variables as a PyTorch state dict."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from linsey.checkpoint import flatten
from linsey.core import meta
from linsey.errors import MismatchError
from linsey.models import Architecture
from linsey.models.names import name_by_table
from linsey.weights.groups import is_counter
from linsey.weights.layers import ATTENTION, CELLS, Layer, abstract_variables, layers_of
from linsey.weights.matching import NameMapping
from linsey.weights.plan import loaded, plan_for
from linsey.weights.reparametrized import joined, separated
from linsey.weights.translation import LEAVES, links_of

_FUSED = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias",
          "q_norm.weight", "k_norm.weight")  # fmt: skip
JOINED = {*ATTENTION, *CELLS}
_RECURRENT = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_INDEX = re.compile(r"_(?=\d+(?:_|/|$))")


def to_torch(
    module: Any,
    variables: Mapping[str, Any],
    *inputs: Any,
    like: Mapping[str, Any] | None = None,
    mapping: NameMapping | None = None,
    library: str = "torchvision",
    **kwargs: Any,
) -> dict[str, np.ndarray]:
    """Convert variables to a PyTorch state dict: the inverse of `load`.

    Args:
        module: a Linen module.
        variables: its variables.
        *inputs: inputs of a call; shapes and dtypes are enough.
        like: a state dict, such as the one that was loaded, whose names, shapes,
            dtypes, order and counters are used. Arrays that were loaded and not changed
            are returned bit by bit. If `None`, names are derived from our paths.
        mapping: as for `load`, if `like` is given.
        library: the library whose names are used for an architecture of `linsey.models`
            without `like`: `torchvision` or `timm`.
        **kwargs: keyword arguments of the call.

    Returns:
        Arrays by name. Counters in the collection `batch_counts` become
        `num_batches_tracked`. Without `like`, batch norms that are not counted there
        have one of 0.

    Raises:
        MismatchError: an array has no name, as it is not in `like`, or PyTorch has no
            such layer.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> x = jnp.ones((1, 3))
        >>> model = nn.Sequential([nn.Dense(4)])
        >>> variables = model.init(jax.random.key(0), x)
        >>> {name: a.shape for name, a in to_torch(model, variables, x).items()}
        {'layers.0.bias': (4,), 'layers.0.weight': (4, 3)}
    """
    flat = {path: np.asarray(a) for path, a in flatten(meta.unbox(variables)).items()}
    _, seen = abstract_variables(module, inputs, kwargs)
    shapes = {path: array.shape for path, array in flat.items()}
    if like is None:
        return _written(module, flat, layers_of(loaded(shapes), seen, JOINED), library)
    given = joined({name: np.asarray(array) for name, array in like.items()})
    plan = plan_for(module, shapes, seen, given, mapping)
    nameless = [rest for rest in plan.leftovers if rest.is_ours]
    if nameless:
        lines = "\n".join(f"  {rest}" for rest in nameless)
        raise MismatchError(
            f"Arrays without a counterpart in `like`: {len(nameless)}.\n{lines}",
            "They would be missing in the state dict.",
            "Say which they are by `mapping`, or leave out `like`.",
        )
    back = dict(given)
    for link in plan.links:
        before = [given[name] for name in link.theirs]
        arrays = link.turn.to_theirs([flat[path] for path in link.ours], before)
        for name, array, old in zip(link.theirs, arrays, before, strict=True):
            back[name] = array.reshape(old.shape).astype(old.dtype)
    back |= {name: back[other] for name, other in plan.tied.items()}
    return separated(back, {name: np.asarray(array) for name, array in like.items()})


def _written(
    module: object,
    flat: Mapping[str, np.ndarray],
    layers: Sequence[Layer],
    library: str,
) -> dict[str, np.ndarray]:
    """Convert arrays, with names that are derived from our paths."""
    is_known = isinstance(module, Architecture)
    names = module.torch_names(library) if is_known else None
    written: dict[str, np.ndarray] = {}
    for layer in layers:
        links = links_of(layer, _names(layer, names), same_layout=False)
        pairs = [
            pair
            for link in links
            for pair in zip(
                link.theirs,
                link.turn.to_theirs([flat[path] for path in link.ours], None),
                strict=True,
            )
        ]
        arrays = dict(pairs)
        lost = {*layer.arrays.values()} - {path for link in links for path in link.ours}
        if lost or len(arrays) < len(pairs) or arrays.keys() & written.keys():
            raise MismatchError(
                f"The arrays of `{layer.path}` have no names in PyTorch of their own: "
                f"{', '.join(layer.arrays)}.",
                "There is no layer with the same arrays.",
                "Give a state dict that has them as `like`, and a `mapping`.",
            )
        written |= arrays
    written |= {
        name: array.astype(np.int64)
        for name, array in written.items()
        if is_counter(name)
    }
    counters = [
        f"{name.removesuffix('running_mean')}num_batches_tracked"
        for name in written
        if name.endswith("running_mean")
    ]
    return {**dict.fromkeys(counters, np.zeros((), np.int64)), **written}


def _names(layer: Layer, names: Mapping[str, str] | None) -> dict[str, str]:
    """Return PyTorch names for the arrays of a layer, by the part within the layer."""
    if names is not None:
        return {
            LEAVES.get(local, local): name_by_table(names, path)
            for local, path in layer.arrays.items()
        }
    above = _INDEX.sub(".", layer.path).replace("/", ".")
    parts: Iterable[str] = (LEAVES.get(local, local) for local in layer.arrays)
    if layer.kind in ATTENTION:
        parts = _FUSED
    elif layer.kind in CELLS:
        parts = _RECURRENT
    return {local: ".".join(filter(None, (above, local))) for local in parts}
