"""The links between two sets of arrays, used by `load`, `to_torch` and `prove`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from linsey.models import Architecture
from linsey.models.names import name_by_table
from linsey.weights.groups import (
    groups_of,
    is_counter,
    is_linen_tree,
    is_ordered,
    joined_kinds,
)
from linsey.weights.layers import Layer, Seen, layers_of
from linsey.weights.linen_names import linen_tables
from linsey.weights.matching import Match, Matcher, NameMapping, natural
from linsey.weights.report import Leftover, leftovers_of
from linsey.weights.translation import ArrayLink

WEIGHTS = ("params", "batch_stats")
"""The collections whose arrays must have a counterpart."""
LOADED = (*WEIGHTS, "batch_counts")
"""The collections that files may contain. Others keep their initial values."""
LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True)
class Plan:
    """The correspondence between our arrays and theirs.

    Attributes:
        layers: all our layers.
        matches: the matches of layers.
        links: the links between arrays whose shapes fit.
        leftovers: arrays of both sides without a counterpart.
        tied: names of theirs that hold the same array as another name.
        counters: names of counters of updates for which the module has no variable.
        counts: names of those counters, by the path in `batch_counts` of the batch norm
            that they belong to.
        dropped: names that the mapping leaves out.
        initial: paths of arrays that files do not contain.
    """

    layers: tuple[Layer, ...]
    matches: tuple[Match, ...]
    links: tuple[ArrayLink, ...]
    leftovers: tuple[Leftover, ...]
    tied: Mapping[str, str]
    counters: tuple[str, ...]
    counts: Mapping[str, str]
    dropped: tuple[str, ...]
    initial: tuple[str, ...]


def plan_for(
    module: object,
    shapes: Mapping[str, tuple[int, ...]],
    seen: Mapping[str, Seen],
    arrays: Mapping[str, Any],
    mapping: NameMapping | None,
) -> Plan:
    """Match the variables of a module with the arrays of a file.

    Args:
        module: our module.
        shapes: shapes of its variables by path.
        seen: the result of `watching`.
        arrays: their arrays by name.
        mapping: as for `load`.
    """
    kinds = {each.kind for each in seen.values()}
    same_layout = is_linen_tree(arrays)
    joined = set() if same_layout else joined_kinds(arrays, kinds)
    layers = layers_of(loaded(shapes), seen, joined)
    groups = groups_of(arrays, joined)
    their_shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    ordered = is_ordered(arrays)
    if not ordered:
        groups.sort(key=lambda group: natural(group.path))
    matcher = Matcher(layers, groups, their_shapes, same_layout, ordered)
    tables = linen_tables(module) if same_layout else _tables(module)
    matcher.run(mapping or {}, tables)

    links = [link for match in matcher.matches for link in match.links]
    links = [link for link in links if link.fits(their_shapes)]
    used = {name for link in links for name in link.theirs}
    dropped = [name for g in matcher.dropped for name in g.arrays.values()]
    free = [name for name in arrays if name not in {*used, *dropped}]
    counters = [name for name in free if is_counter(name)]
    tied = _tied([name for name in free if name not in counters], used, arrays)
    handled = {*dropped, *counters, *tied}
    filled = {path for link in links for path in link.ours}
    free_paths = [path for path in shapes if path not in filled]
    initial = [path for path in free_paths if path.partition("/")[0] not in WEIGHTS]
    leftovers = leftovers_of(layers, matcher.matches, their_shapes, handled)
    return Plan(
        tuple(layers),
        tuple(matcher.matches),
        tuple(links),
        tuple(rest for rest in leftovers if rest.name not in initial),
        tied,
        tuple(counters),
        _counts(matcher.matches, counters, their_shapes),
        tuple(dropped),
        tuple(initial),
    )


def loaded(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the part of the variables that files may contain."""
    return {path: s for path, s in shapes.items() if path.partition("/")[0] in LOADED}


def _tables(module: object) -> list[Callable[[str], str]]:
    if not isinstance(module, Architecture):
        return []
    return [partial(name_by_table, module.torch_names(each)) for each in LIBRARIES]


def _counts(
    matches: list[Match], counters: list[str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Find the batch norms that counters without a variable belong to."""
    return {
        "/".join(filter(None, ("batch_counts", match.layer.path, "updates"))): name
        for match in matches
        for name in match.group.arrays.values()
        if name in counters and "mean" in match.layer.arrays and not shapes[name]
    }


def _tied(free: list[str], used: set[str], arrays: Mapping[str, Any]) -> dict[str, str]:
    """Find unused names whose arrays equal that of a used name."""
    tied = {}
    for name in free:
        array = arrays[name]
        if array.size < 2 or np.all(array == array.flat[0]):  # constants prove nothing
            continue
        for other in used:
            same = arrays[other].shape == array.shape
            if same and arrays[other].tobytes() == array.tobytes():
                tied[name] = other
                break
    return tied
