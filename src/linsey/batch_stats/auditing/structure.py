"""Checks of the places and names of arrays, in the variables and the optimizer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from linsey.batch_stats.auditing.evidence import Evidence
from linsey.batch_stats.auditing.numbers import place
from linsey.batch_stats.report import Finding
from linsey.batch_stats.statistics import Path, at
from linsey.batch_stats.subject import nodes, shape_of

_BATCH_NORM = re.compile(r"batch_?norm|(^|_)bn(_?\d+)?$", re.IGNORECASE)
# An average of weights rightly contains statistics as well.
_AVERAGE = re.compile(r"ema|average|avg|swa|shadow", re.IGNORECASE)
_TORCH = {"running_mean", "running_var", "num_batches_tracked"}
_LARGEST_WINDOW = 11


def in_optimizer(evidence: Evidence) -> Iterator[Finding]:
    """Find statistics that an optimizer updates, or that have gradients."""
    trees = {"opt_state": evidence.subject.opt_state, "grads": evidence.grads}
    for layer in evidence.layers:
        found = [
            (owner + jax.tree_util.keystr(path), bool(np.any(np.asarray(leaf) != 0)))
            for owner, tree in trees.items()
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
            if _belongs_to(tuple(map(_key, path)), layer.path)
        ]
        # Report a nonzero one if possible: it has already had an effect.
        for where, moves in sorted(found, key=lambda one: not one[1])[:1]:
            yield Finding(
                layer.name, "in_optimizer", "error" if moves else "warning",
                f"`{where}` belongs to a running statistic: the optimizer takes it for "
                "a parameter, and moves it by gradients or by weight decay.",
                {},
                "opt_state = tx.init(variables['params'])  # and gradients by params",
            )  # fmt: skip
    stats = {one.path for one in evidence.layers}
    for path, leaves in nodes(evidence.subject.arrays.get("params", {})).items():
        if not {"mean", "var"} <= {*leaves} or path in stats:
            continue
        if shape_of(leaves["mean"]) == shape_of(leaves["var"]):
            yield Finding(
                "/".join(path), "in_optimizer", "warning",
                "`params` holds a mean and a variance: there the optimizer moves them.",
                {},
                "self.variable('batch_stats', 'mean', ...)  # in place of self.param",
            )  # fmt: skip


def _belongs_to(keys: Path, layer: Path) -> bool:
    """Tell whether a leaf belongs to a layer's statistics and not to an average."""
    keys = keys[:-1] if keys[-1:] == ("value",) else keys  # in a box
    owner = keys[:-1]
    is_its = owner[len(owner) - len(layer) :] == layer
    is_stated = bool(layer) or "batch_stats" in keys
    is_average = any(map(_AVERAGE.search, keys))
    return (
        keys[-1:] in (("mean",), ("var",)) and is_its and is_stated and not is_average
    )


def missing_statistics(evidence: Evidence) -> Iterator[Finding]:
    """Find batch norms whose running statistics are missing."""
    arrays = evidence.subject.arrays
    stats = nodes(arrays.get("batch_stats", {}))
    for path, leaves in stats.items():
        if len(half := {"mean", "var"} & {*leaves}) == 1:
            yield _missing("statistics", path, {"mean", "var"} - half)
    if evidence.expected is not None:
        for path, leaves in nodes(evidence.expected.get("batch_stats", {})).items():
            if path not in stats:
                yield _missing("statistics", path, leaves)
        return
    stems = {_stem(one.path) for one in evidence.layers}
    for path, leaves in nodes(arrays.get("params", {})).items():
        if not {*leaves} <= {"scale", "bias"} or not path or path in stats:
            continue
        is_named = bool(_BATCH_NORM.search(path[-1]))
        if is_named or ("scale" in leaves and _stem(path) in stems - {""}):
            severity = "error" if is_named else "warning"
            yield _missing("statistics", path, ("mean", "var"), severity)


def missing_parameters(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose parameters are missing."""
    params = nodes(evidence.subject.arrays.get("params", {}))
    if evidence.expected is not None:
        for path, leaves in nodes(evidence.expected.get("params", {})).items():
            if missing := {*leaves} - {*params.get(path, {})}:
                yield _missing("parameters", path, missing)
        return
    if evidence.layers and not params:
        names = ("params",)
        yield Finding(
            "", "missing_parameters", "error",
            "There are statistics and no parameters.", {},
            f"variables = {{{names[0]!r}: params, 'batch_stats': batch_stats}}",
        )  # fmt: skip
        return
    having = Counter(_stem(one.path) for one in evidence.layers if one.path in params)
    for layer in evidence.layers:
        if layer.path not in params and having[_stem(layer.path)]:
            yield _missing("parameters", layer.path, ("scale", "bias"))


def _missing(
    what: str, path: Path, names: Iterable[str], severity: str = "error"
) -> Finding:
    collection = {"statistics": "batch_stats", "parameters": "params"}[what]
    listed = " and ".join(f"`{name}`" for name in sorted(names))
    return Finding(
        "/".join(path), f"missing_{what}", severity,
        f"The collection `{collection}` has no {listed} for this layer, which "
        "evaluation needs.",
        {},
        f"{place(collection, path)} = ...  # from the checkpoint, or from model.init",
    )  # fmt: skip


def _stem(path: Path) -> str:
    """Return the name of a layer without its number."""
    return re.sub(r"[_\d]+$", "", path[-1]) if path else ""


# -- names and layouts of other libraries --------------------------------------------


def foreign_layout(evidence: Evidence) -> Iterator[Finding]:
    """Find PyTorch names and kernel layouts, and say what to write instead."""
    trees = nodes(_nested(evidence.subject.arrays))
    foreign = {path: one for path, one in trees.items() if _TORCH & {*one}}
    for path, leaves in foreign.items():
        yield _named_by_torch(path, leaves)
    has_kernels = any("kernel" in leaves for leaves in trees.values())
    for path, leaves in trees.items():
        if foreign and not has_kernels and path not in foreign and "weight" in leaves:
            yield _weight(path, leaves["weight"])
        if "kernel" in leaves:
            yield from _kernel(evidence, path, leaves)


def _named_by_torch(path: Path, leaves: Mapping[str, object]) -> Finding:
    layer, has = _layer(path), ", ".join(f"`{name}`" for name in leaves)
    lines = [
        f"{place('batch_stats', layer)} = {{'mean': running_mean, 'var': running_var}}"
    ]
    if "weight" in leaves:
        lines.append(f"{place('params', layer)} = {{'scale': weight, 'bias': bias}}")
    lines.append("BatchNorm(momentum=1 - m) where PyTorch has BatchNorm2d(momentum=m)")
    return Finding(
        "/".join(layer), "foreign_layout", "error",
        f"The layer has the names of PyTorch: {has}.", {}, "\n".join(lines),
    )  # fmt: skip


def _weight(path: Path, weight: object) -> Finding:
    layer, turn = _layer(path), _TURNS.get(len(shape_of(weight)), "")
    return Finding(
        "/".join(layer), "foreign_layout", "error",
        f"The layer has the names of PyTorch: `weight` of shape {shape_of(weight)}.",
        {},
        f"{place('params', layer, 'kernel')} = weight{turn}",
    )  # fmt: skip


_TURNS = {2: ".T", 3: ".transpose(2, 1, 0)", 4: ".transpose(2, 3, 1, 0)"}


def _kernel(
    evidence: Evidence, path: Path, leaves: Mapping[str, object]
) -> Iterator[Finding]:
    shape, layer = shape_of(leaves["kernel"]), _layer(path)
    if len(shape) not in _TURNS or path[:1] not in (("params",), ()):
        return
    wanted = at((evidence.expected or {}).get("params", {}), (*layer, "kernel"))
    turned = _turned(shape)
    if wanted is not None:
        is_foreign, is_sure = shape_of(wanted) == turned != shape, True
    else:
        bias = shape_of(leaves["bias"]) if "bias" in leaves else ()
        is_sure = bias == turned[-1:] != shape[-1:] and len(shape) > 2
        is_foreign = is_sure or (len(shape) == 4 and _has_window_last(shape))
    if is_foreign:
        turn = _TURNS[len(shape)]
        yield Finding(
            "/".join(layer), "foreign_layout", "error" if is_sure else "warning",
            f"The kernel has shape {shape}, outputs and inputs first as in PyTorch; "
            f"here they come last: {turned}.",
            {},
            f"{place('params', layer, 'kernel')} = kernel{turn}",
        )  # fmt: skip


def _turned(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[2:], shape[1], shape[0])


def _has_window_last(shape: tuple[int, ...]) -> bool:
    """Tell whether the last axes look like a window and the first ones do not."""
    outputs, inputs, *window = shape
    is_window = window[0] == window[1] <= _LARGEST_WINDOW
    is_no_window = outputs != inputs or outputs > _LARGEST_WINDOW
    return is_window and is_no_window and max(outputs, inputs) > window[0]


def _layer(path: Path) -> Path:
    """Return the path of a layer without its collection."""
    return path[1:] if path[:1] in (("params",), ("batch_stats",)) else path


def _nested(tree: Mapping[str, object]) -> dict[str, object]:
    """Nest a PyTorch state dict by splitting names such as `layer1.0.bn1.weight`."""
    nested: dict[str, Any] = {}
    for name, value in tree.items():
        inner = nested
        *parents, last = str(name).split(".")
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = _nested(value) if isinstance(value, Mapping) else value
    return nested


def _key(entry: object) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
