"""The batch norms of Haiku and Equinox among variables, under the names of Linen.

`linsey.interop` keeps the state of other libraries under the names that they give it:

* Haiku: `norm/~/mean_ema` and `norm/~/var_ema`, each with `average`, which evaluation
  uses, `hidden`, from which training continues, and `counter`;
* Equinox: `0` and `1` in `norm/ema_state_index` or `norm/batch_state_index`, with a
  flag or a counter next to it.

Both debias: evaluation divides a sum by `1 - momentum^counter`, and the momentum is not
among the arrays. `as_linen` gives such norms `mean` and `var`, and `as_foreign` is the
way back. It sets the counters so high that nothing is left to debias: the values that
are stored are then those that evaluation uses, and the next update is

    new = momentum * stored + (1 - momentum) * batch,

as in Linen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from linsey.batch_stats.calls import Call
from linsey.batch_stats.objects import Variables
from linsey.batch_stats.statistics import Path, at, nodes

MOMENTS = ("mean", "var")
STATS, COUNTS = "batch_stats", "batch_counts"
MANY = 2**30  # updates: momentum^MANY is 0 for any momentum up to 1 - 1e-7
_EMAS = {"/~/mean_ema": "mean", "/~/var_ema": "var"}


@dataclass(frozen=True)
class ForeignNorm:
    """A batch norm of another library.

    Attributes:
        path: path of the layer, which its parameters share.
        library: name of the library.
        arrays: paths of all its arrays in `batch_stats`, each with its role: `mean` or
            `var` for those that evaluation uses, `hidden mean` or `hidden var` for
            their copies, `counter`, or `first` for a flag that no update was made yet.
        scale: name of its scale in `params`.
        bias: name of its bias in `params`.
        debiases: whether its first update replaces the initial values entirely.
    """

    path: Path
    library: str
    arrays: Mapping[Path, str]
    scale: str
    bias: str
    debiases: bool = True

    @property
    def layer(self) -> str:
        """The path as a string."""
        return "/".join(self.path)

    def is_new(self, variables: Variables) -> bool:
        """Tell whether it has had no update yet."""
        found = [(role, at(variables[STATS], p)) for p, role in self.arrays.items()]
        counters = [np.all(value <= 0) for role, value in found if role == "counter"]
        return any([*counters, *(np.all(v) for role, v in found if role == "first")])


def find_foreign(variables: Variables) -> list[ForeignNorm]:
    """Return the batch norms of Haiku and Equinox in the collection `batch_stats`.

    Example:
        >>> ema = {"average": 0.5, "hidden": 0.25, "counter": 1}
        >>> stats = {"norm/~/mean_ema": ema, "norm/~/var_ema": ema}
        >>> [(one.layer, one.library) for one in find_foreign({"batch_stats": stats})]
        [('norm', 'Haiku')]
    """
    return [
        norm
        for path, node in nodes(variables.get(STATS, {}))
        for norm in (*_of_haiku(path, node), *_of_equinox(path, node))
    ]


def _of_haiku(path: Path, node: Mapping[str, Any]) -> Iterator[ForeignNorm]:
    for key in node:
        layer = str(key).removesuffix("/~/mean_ema")
        parts = [f"{layer}{end}" for end in _EMAS]
        if layer == str(key) or not all(_is_average(node.get(name)) for name in parts):
            continue
        arrays: dict[Path, str] = {}
        for name, moment in zip(parts, _EMAS.values(), strict=True):
            arrays[*path, name, "average"] = moment
            arrays[*path, name, "hidden"] = f"hidden {moment}"
            arrays[*path, name, "counter"] = "counter"
        yield ForeignNorm((*path, layer), "Haiku", arrays, "scale", "offset")


def _is_average(node: object) -> bool:
    return isinstance(node, Mapping) and {"average", "hidden", "counter"} == {*node}


def _of_equinox(path: Path, node: Mapping[str, Any]) -> Iterator[ForeignNorm]:
    kinds = {"ema": ("first_time_index", "first"), "batch": ("counter", "counter")}
    for mode, (name, role) in kinds.items():
        pair, other = f"{mode}_state_index", f"{mode}_{name}"
        if other in node and {*getattr(node.get(pair), "keys", set)()} == {"0", "1"}:
            arrays: dict[Path, str] = {
                (*path, pair, "0"): "mean",
                (*path, pair, "1"): "var",
                (*path, other): role,
            }
            yield ForeignNorm(path, "Equinox", arrays, "weight", "bias", mode == "ema")


def as_linen(variables: Variables) -> dict[str, Any]:
    """Rename the statistics and parameters of foreign norms to those of Linen.

    Counters become `updates` in `batch_counts`. All other entries stay.

    Example:
        >>> state = {"0": 0.5, "1": 2.0}
        >>> stats = {"norm": {"batch_state_index": state, "batch_counter": 3}}
        >>> as_linen({"batch_stats": stats})["batch_stats"]
        {'norm': {'mean': 0.5, 'var': 2.0}}
    """
    renamed = dict(variables)
    for norm in find_foreign(variables):
        for path, role in norm.arrays.items():
            value = at(variables[STATS], path)
            renamed = _without(renamed, (STATS, *path))
            if role in MOMENTS:
                renamed = _with(renamed, (STATS, *norm.path, role), value)
            elif role == "counter":
                renamed = _with(renamed, (COUNTS, *norm.path, "updates"), value)
        for theirs, ours in ((norm.scale, "scale"), (norm.bias, "bias")):
            value = at(renamed.get("params", {}), (*norm.path, theirs))
            if value is not None:
                renamed = _without(renamed, ("params", *norm.path, theirs))
                renamed = _with(renamed, ("params", *norm.path, ours), value)
    return renamed


def as_foreign(variables: Variables, like: Variables) -> dict[str, Any]:
    """Undo `as_linen`, and set counters so that the statistics are used as they are.

    Args:
        variables: with the names of Linen.
        like: the original variables, which give the other names, and dtypes.
    """
    renamed = dict(variables)
    for norm in find_foreign(like):
        found = {m: at(variables[STATS], (*norm.path, m)) for m in MOMENTS}
        for moment in found:
            renamed = _without(renamed, (STATS, *norm.path, moment))
        renamed = _without(renamed, (COUNTS, *norm.path, "updates"))
        for path, role in norm.arrays.items():
            old = at(like[STATS], path)
            value = found.get(role.removeprefix("hidden "))
            if value is None:
                value = _filled(old, 0 if role == "first" else MANY)
            renamed = _with(renamed, (STATS, *path), value)
        for theirs, ours in ((norm.scale, "scale"), (norm.bias, "bias")):
            value = at(renamed.get("params", {}), (*norm.path, ours))
            if value is not None:
                renamed = _without(renamed, ("params", *norm.path, ours))
                renamed = _with(renamed, ("params", *norm.path, theirs), value)
    return renamed


def call_as_linen(call: Call, like: Variables) -> Call:
    """Return a call of a model with the names of Linen.

    Its layers cannot be intercepted.

    Args:
        call: a call with the names of other libraries.
        like: variables with these names.
    """

    def run(
        variables: Variables,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        train: bool,
        mutable: Sequence[str],
        rngs: Mapping[str, Any],
    ) -> tuple[object, Variables]:
        renamed = as_foreign(variables, like)
        y, updates = call.run(renamed, args, kwargs, train, mutable, rngs)
        return y, as_linen({**renamed, **updates}) if updates else updates

    return dataclasses.replace(call, model=run, module=None, run=run)


def _filled(like: Any, value: int) -> Any:
    xp = np if isinstance(like, np.ndarray | np.generic | int) else jnp
    return xp.full_like(like, value)


def _with(tree: Any, path: Path, value: Any) -> dict[str, Any]:
    """Return nested mappings with a value at a path."""
    if not path:
        return value
    inner = tree.get(path[0], {})
    return {**tree, path[0]: _with(inner, path[1:], value)}


def _without(tree: Any, path: Path) -> dict[str, Any]:
    """Return nested mappings without a path, and without what is empty then."""
    name, *rest = path
    if not isinstance(tree, Mapping) or name not in tree:
        return tree
    inner = _without(tree[name], tuple(rest)) if rest else {}
    others = {key: value for key, value in tree.items() if key != name}
    return {**tree, name: inner} if inner else others
