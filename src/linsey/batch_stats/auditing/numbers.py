"""Checks of running statistics that need only their numbers, and no data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from linsey.batch_stats.auditing.effects import agrees
from linsey.batch_stats.auditing.evidence import Evidence, Layer
from linsey.batch_stats.report import Finding
from linsey.batch_stats.statistics import Path, find_statistics
from linsey.batch_stats.subject import nodes, shape_of

RECALIBRATE = "variables = batch_stats.recalibrate(model, variables, batches)"
# Fractions of the initial statistics that cause a note, and a warning.
_NOTED_SHARE, _LARGE_SHARE = 0.01, 0.05
# Rounding errors of `x - mean`, in standard deviations, that cause a note, a warning
# and an error.
_LOSSES = (1e-3, 1e-2, 1e-1)
# Relative change of parameters above which old statistics cannot fit the new ones.
_FAR = 1e-2


def place(collection: str, path: Path, *names: str) -> str:
    """Return the Python expression for an entry of the variables.

    Example:
        >>> place("batch_stats", ("block", "norm"), "mean")
        "variables['batch_stats']['block']['norm']['mean']"
    """
    return "variables" + "".join(f"[{n!r}]" for n in (collection, *path, *names))


def part(mask: np.ndarray | np.bool, what: str = "channel") -> str:
    """Say how often a mask is true, for example "3 of 8 channels"."""
    total = np.size(mask)
    return f"{int(np.sum(mask))} of {total} {what}{'s' if total != 1 else ''}"


def never_updated(evidence: Evidence) -> Iterator[Finding]:
    """Find statistics that still have their initial values."""
    for layer in evidence.layers:
        channels = (layer.mean.shape or (1,))[-1]
        initial = layer.is_initial.reshape(-1, channels).all(-1)
        if not initial.any():
            continue
        untrained = evidence.subject.step == 0 or layer.settings.frozen
        severity = "note" if untrained else "error" if initial.all() else "warning"
        where = "" if initial.all() else f" in {part(initial, 'row')}"
        yield Finding(
            layer.name, "never_updated", severity,
            f"Mean and variance are the initial 0 and 1{where}: no training step has "
            "updated them, or its updates were not kept.",
            {"rows": int(initial.sum())},
            "y, updates = model.apply(variables, x, mutable=['batch_stats'], ...)\n"
            "variables = {**variables, **updates}",
        )  # fmt: skip


def too_few_updates(evidence: Evidence) -> Iterator[Finding]:
    """Find statistics that, by their count, still hold much of the initial values."""
    for layer in evidence.layers:
        share = share_left(evidence, layer)
        if share is None or share < _NOTED_SHARE or layer.is_initial.all():
            continue
        count = _updates(evidence, layer) or 0
        when = f" after {count} updates"
        yield few_updates(layer, share, when, layer.settings.momentum, count)


def share_left(evidence: Evidence, layer: Layer) -> float | None:
    """Return the fraction of the initial values still present; `None` if unknown."""
    count, momentum = _updates(evidence, layer), layer.settings.momentum
    return None if count is None or momentum is None else momentum**count


def _updates(evidence: Evidence, layer: Layer) -> int | None:
    return evidence.subject.step if layer.count is None else layer.count


def few_updates(
    layer: Layer, share: float, when: str, momentum: float | None, count: float
) -> Finding:
    """Make the finding about a remaining fraction of the initial values."""
    severity = "warning" if share >= _LARGE_SHARE else "note"
    advice = ""
    if momentum is not None:
        decay = f"momentum {momentum:g} needs {_needed(momentum)} updates"
        advice = f"; {decay} to bring it below {_NOTED_SHARE:.0%}"
    return Finding(
        layer.name, "too_few_updates", severity,
        f"{share:.0%} of the statistics still come from the initial 0 and 1"
        f"{when}{advice}.",
        {"share": share, "count": count},
        f"{RECALIBRATE}  # or train longer, or with a lower momentum",
    )  # fmt: skip


def _needed(momentum: float) -> str:
    if momentum >= 1:
        return "endless"
    # With momentum 0, one update replaces the statistics entirely.
    count = np.log(_NOTED_SHARE) / np.log(momentum) if momentum > 0 else 1
    return f"{max(1, count):.0f}"


def stale(evidence: Evidence) -> Iterator[Finding]:
    """Find statistics equal to those of an earlier state with other parameters."""
    if evidence.previous is None:
        return
    now, before = evidence.subject.arrays, evidence.previous.arrays
    moved = _distance(now.get("params", {}), before.get("params", {}))
    earlier = {one.path: one for one in find_statistics(before)}
    for layer in evidence.layers:
        other = earlier.get(layer.path)
        if other is None or not moved or layer.is_initial.all():
            continue
        pairs = ((layer.mean, other.mean), (layer.var, other.var))
        if not all(np.array_equal(a, np.asarray(b, np.float64)) for a, b in pairs):
            continue
        severity = "error" if moved > _FAR else "warning"
        if layer.settings.frozen or agrees(layer):
            severity = "note"
        yield Finding(
            layer.name, "stale", severity,
            "The statistics are those of the previous state to the bit, while the "
            f"parameters moved by {moved:.2g} of their norm.",
            {"moved": moved},
            RECALIBRATE,
        )  # fmt: skip


def _distance(now: object, before: object) -> float:
    """Return the relative change of the parameters that both states have."""
    square, norm = 0.0, 0.0
    earlier = nodes(before)
    for path, leaves in nodes(now).items():
        for name, leaf in leaves.items():
            other = earlier.get(path, {}).get(name)
            if other is not None and shape_of(other) == shape_of(leaf):
                a, b = (np.asarray(value).astype(np.float64) for value in (leaf, other))
                square, norm = square + ((a - b) ** 2).sum(), norm + (b**2).sum()
    return float(np.sqrt(square / norm)) if norm else float(square > 0)


def nonfinite(evidence: Evidence) -> Iterator[Finding]:
    """Find statistics and parameters that are infinite or NaN."""
    arrays = evidence.subject.arrays
    for collection in ("batch_stats", "params"):
        for path, leaves in nodes(arrays.get(collection, {})).items():
            for name, leaf in leaves.items():
                if not _is_float(leaf):
                    continue
                bad = ~np.isfinite(np.asarray(leaf).astype(np.float64))
                if bad.any():
                    yield Finding(
                        "/".join(path), "nonfinite", "error",
                        f"{part(bad, 'value')} of `{collection}` `{name}` are infinite "
                        "or undefined, and so is every output behind them.",
                        {"values": int(bad.sum())},
                        RECALIBRATE if collection == "batch_stats"
                        else "Go back to a checkpoint before they appeared.",
                    )  # fmt: skip


def negative_variance(evidence: Evidence) -> Iterator[Finding]:
    """Find variances below zero."""
    for layer in evidence.layers:
        negative = layer.var < 0
        if not negative.any():
            continue
        undefined = layer.var + layer.settings.epsilon <= 0
        lowest = float(layer.var.min())
        effect = f"; the output of {part(undefined)} is undefined"
        yield Finding(
            layer.name, "negative_variance", "error" if undefined.any() else "warning",
            f"The variance of {part(negative)} is negative, down to {lowest:.3g}"
            f"{effect if undefined.any() else ''}.",
            {"channels": int(negative.sum()), "lowest": lowest},
            RECALIBRATE,
        )  # fmt: skip


def tiny_variance(evidence: Evidence) -> Iterator[Finding]:
    """Find variances so small that epsilon decides the output."""
    for layer in evidence.layers:
        epsilon = layer.settings.epsilon
        tiny = (layer.var >= 0) & (layer.var < epsilon)
        if not tiny.any():
            continue
        share, lowest = float(tiny.mean()), float(layer.var[tiny].min())
        yield Finding(
            layer.name, "tiny_variance", "warning" if share > 0.5 else "note",
            f"The variance of {part(tiny)} is below epsilon = {epsilon:g}, down to "
            f"{lowest:.3g}: epsilon decides their output. Inputs that never vary, such "
            "as the border of images, look so, and are harmless.",
            {"channels": int(tiny.sum()), "lowest": lowest},
            "Scale the inputs of the layer, or give it a smaller epsilon.",
        )  # fmt: skip


def half_precision(evidence: Evidence) -> Iterator[Finding]:
    """Find statistics stored in half precision, where small updates are lost."""
    for layer in evidence.layers:
        if layer.dtype.itemsize >= 4 or not _is_float(np.empty(0, layer.dtype)):
            continue
        digits = float(jnp.finfo(layer.dtype).eps)
        yield Finding(
            layer.name, "half_precision", "warning",
            f"The statistics are {layer.dtype.name}: relative steps below {digits:.2g} "
            "are lost, so that they stop to follow the data.",
            {"epsilon": digits},
            f"{place('batch_stats', layer.path, 'var')} = var.astype('float32')  # and "
            "mean; param_dtype=jnp.float32 for the layer",
        )  # fmt: skip


def precision_lost(evidence: Evidence) -> Iterator[Finding]:
    """Find means so far from zero that `x - mean` has no digits left."""
    for layer in evidence.layers:
        # Normalization always computes in float32.
        digits = max(float(jnp.finfo(layer.dtype).eps), 2.0**-23)
        with np.errstate(invalid="ignore"):
            loss = np.abs(layer.mean) * layer.rstd * digits
        lost = np.nan_to_num(loss) > _LOSSES[0]
        if not lost.any():
            continue
        constant = layer.var < layer.settings.epsilon
        varying = np.where(lost & ~constant, loss, 0.0)
        worst = float(np.nanmax(loss))
        level = sum(varying.max() > limit for limit in _LOSSES)
        yield Finding(
            layer.name, "precision_lost", ("note", "note", "warning", "error")[level],
            f"The mean of {part(lost)} is up to {worst / digits:.2g} deviations from "
            f"zero: {layer.dtype.name} keeps the output only to {worst:.1g} of one.",
            {"channels": int(lost.sum()), "loss": worst},
            "Subtract a constant near the mean from the inputs of the layer.",
        )  # fmt: skip


def copied_layers(evidence: Evidence) -> Iterator[Finding]:
    """Find layers that hold the same statistics."""
    groups: dict[bytes, list[Layer]] = defaultdict(list)
    for layer in evidence.layers:
        if layer.mean.size and not layer.is_initial.all():
            groups[layer.mean.tobytes() + layer.var.tobytes()].append(layer)
    for group in (group for group in groups.values() if len(group) > 1):
        wrong = [layer for layer in group if agrees(layer) is False]
        for layer in wrong or group:
            others = ", ".join(f"`{one.name}`" for one in group if one is not layer)
            yield Finding(
                layer.name, "copied_layers", _severity_of_copy(layer),
                f"The statistics are those of {others} to the bit; of layers that do "
                "not get the same inputs one has the numbers of the other.",
                {"layers": len(group)},
                f"{RECALIBRATE}  # or load {place('batch_stats', layer.path)} again",
            )  # fmt: skip


def _severity_of_copy(layer: Layer) -> str:
    return {None: "warning", True: "note", False: "error"}[agrees(layer)]


def _is_float(leaf: object) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.floating)
