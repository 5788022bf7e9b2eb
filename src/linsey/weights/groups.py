"""Their side: names of arrays, grouped by the layers that they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from linsey.weights.layers import ATTENTION, CELLS

COLLECTIONS = ("params", "batch_stats", "batch_counts")
_OF_LINEN = {"kernel", "scale", "embedding"}
_OF_TORCH = {"weight", "running_mean", "running_var", "num_batches_tracked"}
_LEAVES = {"bias", *_OF_TORCH}
_RECURRENT = re.compile(r"(?:weight|bias)_[ih]h(?P<index>_l\d+)?(?P<back>_reverse)?")
_FUSED = re.compile(r"(in|q|k|v)_proj_(weight|bias)")
# Names in timm that differ from those in `torch.nn.MultiheadAttention`.
_ATTENTION_OF_TIMM = {
    "qkv.weight": "in_proj_weight",
    "qkv.bias": "in_proj_bias",
    "proj.weight": "out_proj.weight",
    "proj.bias": "out_proj.bias",
}
_INSIDE_ATTENTION = {"out_proj", "qkv", "proj", "q_norm", "k_norm"}


@dataclass(frozen=True)
class Group:
    """The arrays of one of their layers.

    Attributes:
        path: the common beginning of their names, or the name of a single array.
        arrays: names of the arrays, by the part within the layer.
    """

    path: str
    arrays: Mapping[str, str]


def is_linen_tree(names: Iterable[str]) -> bool:
    """Tell whether names are those of a Linen tree.

    Example:
        >>> is_linen_tree(["params/Dense_0/kernel", "params/Dense_0/bias"])
        True
    """
    names = list(names)
    if any(name.startswith("params/") for name in names):
        return True
    leaves = {re.split(r"[./]", name)[-1] for name in names}
    return bool(leaves & _OF_LINEN) and not leaves & _OF_TORCH


def is_counter(name: str) -> bool:
    """Tell whether an array counts updates of running statistics.

    Example:
        >>> is_counter("bn.num_batches_tracked"), is_counter("batch_counts/bn/updates")
        (True, True)
    """
    is_ours = name.startswith("batch_counts/") and name.endswith("updates")
    return is_ours or name.endswith("num_batches_tracked")


def is_ordered(names: Iterable[str]) -> bool:
    """Tell whether the order of names is not alphabetical, and so carries meaning."""
    parts = [re.split(r"[./]", name) for name in names if not is_counter(name)]
    return parts != sorted(parts)


def joined_kinds(names: Iterable[str], kinds: Iterable[str]) -> set[str]:
    """Return the kinds of layers whose inner arrays are fused on their side.

    Args:
        names: their names.
        kinds: the kinds of our layers.
    """
    leaves = [name.split(".") for name in names]
    fused = any(
        _FUSED.fullmatch(parts[-1]) or "qkv" in parts[-2:-1] for parts in leaves
    )
    recurrent = any(_RECURRENT.fullmatch(parts[-1]) for parts in leaves)
    joined = {*(ATTENTION if fused else ()), *(CELLS if recurrent else ())}
    return joined & set(kinds)


def groups_of(names: Iterable[str], joined: set[str]) -> list[Group]:
    """Group names into layers.

    Args:
        names: their names.
        joined: the kinds from `joined_kinds`.

    Returns:
        The layers in the order of the names.
    """
    # Some files list counters, which have another dtype, before all other arrays.
    names = sorted(names, key=is_counter)
    members: dict[str, dict[str, str]] = {}
    if is_linen_tree(names):
        for name in names:
            path = name.split("/" if "/" in name else ".")
            path = path[1:] if path[0] in COLLECTIONS else path
            alone = path[-1] not in {*_OF_LINEN, "bias", "mean", "var", "updates"}
            owner, local = (path, "") if alone else (path[:-1], path[-1])
            members.setdefault("/".join(owner), {})[local] = name
    else:
        attentions = _attentions(names) if {*ATTENTION} & joined else set()
        for name in names:
            owner, local = _place(name, attentions, bool({*CELLS} & joined))
            members.setdefault(owner, {})[local] = name
    return [Group(path, arrays) for path, arrays in members.items()]


def _attentions(names: Iterable[str]) -> set[str]:
    """Return the common beginnings of the names of each attention layer."""
    found = set()
    for name in names:
        owner, _, leaf = name.rpartition(".")
        if _FUSED.fullmatch(leaf):
            found.add(owner)
        elif owner.rpartition(".")[2] == "qkv":
            found.add(owner.rpartition(".")[0])
    return found


def _place(name: str, attentions: set[str], recurrent: bool) -> tuple[str, str]:
    """Split a name into the path of its group and the part within the group."""
    owner, _, leaf = name.rpartition(".")
    if owner in attentions:
        return owner, leaf
    above, _, inner = owner.rpartition(".")
    if above in attentions and inner in _INSIDE_ATTENTION:
        local = f"{inner}.{leaf}"
        return above, _ATTENTION_OF_TIMM.get(local, local)
    found = _RECURRENT.fullmatch(leaf)
    if found and recurrent:
        if found["index"] is None:  # a single cell
            return owner, leaf
        # Use numbers, so that layers and directions have an order.
        place = f"{found['index'][2:]}.{int(bool(found['back']))}"
        return f"{owner}.{place}" if owner else place, leaf[: found.start("index")]
    if _FUSED.fullmatch(leaf):  # each projection is one of our layers
        inner, _, leaf = leaf.rpartition("_")
        return f"{owner}.{inner}" if owner else inner, leaf
    return (owner, leaf) if leaf in _LEAVES else (name, "")
