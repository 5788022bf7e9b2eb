"""An audit of running statistics: what is wrong, in which layer, and by how much."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from linsey.batch_stats.auditing import data, numbers, structure
from linsey.batch_stats.auditing.effects import effect_of
from linsey.batch_stats.auditing.evidence import (
    EPSILON,
    Evidence,
    Layer,
    Settings,
    read_layer,
    settings_in,
)
from linsey.batch_stats.auditing.observed import as_batches, observe
from linsey.batch_stats.calls import Batch, Call, Inputs, find_call, initial
from linsey.batch_stats.foreign import as_linen, call_as_linen, find_foreign
from linsey.batch_stats.report import Cell, Finding, Report
from linsey.batch_stats.statistics import find_statistics
from linsey.batch_stats.subject import Subject, plain, read_subject

Check = Callable[[Evidence], Iterator[Finding]]

# Checks of structure, of the numbers alone, and of the numbers against data.
STRUCTURE: tuple[Check, ...] = (
    structure.foreign_layout,
    structure.missing_statistics,
    structure.missing_parameters,
    structure.in_optimizer,
)
NUMBERS: tuple[Check, ...] = (
    numbers.nonfinite,
    numbers.negative_variance,
    numbers.never_updated,
    numbers.too_few_updates,
    numbers.stale,
    numbers.copied_layers,
    numbers.half_precision,
    numbers.precision_lost,
    numbers.tiny_variance,
)
DATA: tuple[Check, ...] = (data.disagreement, data.dead_channel)
# With one of these findings, a model cannot be applied.
_UNUSABLE = ("foreign_layout", "missing_statistics", "missing_parameters")
_COLUMNS = ("layer", "channels", "updates", "mean", "least var", "largest var")
_DATA_COLUMNS = ("momentum", "shift", "ratio", "distance")


def audit(
    variables: object,
    model: object = None,
    batches: Iterable[Batch] | None = None,
    *,
    previous: object = None,
    step: int | None = None,
    opt_state: object = None,
    grads: object = None,
    momentum: float | None = None,
    epsilon: float | None = None,
    flag: str | None = None,
    inputs: Inputs | None = None,
) -> Report:
    """Find problems with running statistics, with or without data.

    Without data, the numbers are checked: `never_updated`, `too_few_updates`, `stale`,
    `nonfinite`, `negative_variance`, `tiny_variance`, `half_precision`,
    `precision_lost`, `copied_layers`; and the structure: `in_optimizer`,
    `missing_statistics`, `missing_parameters`, `foreign_layout`. With a model and
    batches, the statistics are also compared with those that training computes on
    these batches: `wrong_statistics`, `mean_and_variance_exchanged`,
    `deviation_for_variance`, `dead_channel`. For this the model runs as in training, so
    that a fault shows in its own layer and not in later ones.

    The severity reflects the effect on outputs: an `error` means that evaluation
    differs from what was trained, a `warning` is worth a look, and a `note` may be
    fine. A model that was trained and is evaluated as usual has no errors.

    Args:
        variables: variables by collection, as dictionaries or `FrozenDict`; a train
            state with `params`, `batch_stats` and `opt_state`, as attributes or keys;
            or an object of `linsey.treex`.
        model: a module of linsey or Flax, an object, or a function
            `(variables, x, train, mutable)`. If `None`, the one in the state, if any.
        batches: batches of data as in training: an iterable of batches; or one array,
            or a dictionary of arrays, whose first axis runs over batches.
        previous: an earlier state of the same training, in any of the same forms.
        step: number of training steps so far. If `None`, the one in the state.
        opt_state: state of the optimizer. If `None`, the one in the state.
        grads: gradients to check.
        momentum: momentum of all layers for which it is not known.
        epsilon: epsilon of all layers for which it is not known. If `None`, 1e-5.
        flag: name of the flag that is True in training, if it cannot be detected.
        inputs: function from a batch to the arguments of a call.

    Returns:
        The findings, and a row for each batch norm.

    Raises:
        ArgumentTypeError: `variables` is of a type that cannot hold variables.
        OptionError: no way was found to call the model on a batch.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> x = jax.random.normal(jax.random.key(0), (64, 3)) * 5 + 2
        >>> model = nn.BatchNorm(momentum=0.9)
        >>> variables = model.init(jax.random.key(0), x, use_running_average=False)
        >>> print(audit({"params": {}, **variables}))
        Audit of 1 batch norm: 1 error
        ...
    """
    subject = read_subject(variables)
    foreign = subject.variables
    norms = find_foreign(foreign)
    if norms:
        subject = _renamed(subject)
    subject = dataclasses.replace(
        subject,
        step=subject.step if step is None else step,
        opt_state=subject.opt_state if opt_state is None else opt_state,
    )
    evidence = Evidence(
        subject,
        previous=None if previous is None else _renamed(read_subject(previous)),
        grads=grads,
    )
    default = Settings(momentum, EPSILON if epsilon is None else epsilon)
    evidence = _with_layers(evidence, default)
    model = subject.model if model is None else model
    examples = [] if batches is None or model is None else as_batches(batches)
    if examples:
        expected = initial(model, examples[0], flag=flag, inputs=inputs)
        expected = None if expected is None else as_linen(expected)
        evidence = dataclasses.replace(evidence, expected=plain(expected))
    findings = [one for check in STRUCTURE for one in check(evidence)]
    new = [norm.layer for norm in norms if norm.is_new(foreign)]
    findings += [_never_updated(layer, subject.step == 0) for layer in new]
    if examples and not any(one.kind in _UNUSABLE for one in findings):
        call = find_call(model, foreign, examples[0], flag=flag, inputs=inputs)
        call = call_as_linen(call, foreign) if norms else call
        evidence = _with_data(evidence, call, examples, default)
    findings += [one for check in (*NUMBERS, *DATA) for one in check(evidence)]
    debiased = {norm.layer for norm in norms if norm.debiases}
    findings = [
        one
        for one in findings
        if one.kind != "too_few_updates" or one.layer not in debiased
    ]
    return _report(evidence.layers, _without_doubles(findings))


def _never_updated(layer: str, is_untrained: bool) -> Finding:
    return Finding(
        layer, "never_updated", "note" if is_untrained else "error",
        "No training step has updated the statistics, as the counter beside them says, "
        "or its updates were not kept.",
        {},
        "y, updates = model.apply(variables, x, mutable=['batch_stats'], ...)\n"
        "variables = {**variables, **updates}",
    )  # fmt: skip


def _renamed(subject: Subject) -> Subject:
    """Give the batch norms of other libraries the names of Linen."""
    if not find_foreign(subject.variables):
        return subject
    variables = as_linen(subject.variables)
    return dataclasses.replace(subject, variables=variables, arrays=plain(variables))


def _with_layers(evidence: Evidence, default: Settings) -> Evidence:
    found = find_statistics(evidence.subject.arrays)
    layers = [read_layer(one, default) for one in found]
    return dataclasses.replace(evidence, layers=layers)


def _with_data(
    evidence: Evidence, call: Call, batches: list[Batch], default: Settings
) -> Evidence:
    """Add the settings of the layers, and the moments of the data in them."""
    if not evidence.layers:
        return evidence
    variables = evidence.subject.variables
    settings = settings_in(call, variables, batches[0])
    observed = observe(call, variables, batches)
    layers = []
    for layer in evidence.layers:
        own, seen = settings.get(layer.path, default), observed.get(layer.path)
        if own.momentum is None and not own.cumulative:
            measured = None if seen is None else seen.momentum
            chosen = measured if default.momentum is None else default.momentum
            own = dataclasses.replace(own, momentum=chosen)
        layers.append(dataclasses.replace(layer, settings=own, observed=seen))
    return dataclasses.replace(evidence, layers=layers)


def _without_doubles(findings: list[Finding]) -> list[Finding]:
    """Keep only the first finding of each kind about a layer."""
    kept: dict[tuple[str, str, str], Finding] = {}
    for one in findings:
        # A layer may have several arrays that are not finite.
        message = one.message if one.kind == "nonfinite" else ""
        kept.setdefault((one.layer, one.kind, message), one)
    return list(kept.values())


def _report(layers: Iterable[Layer], findings: list[Finding]) -> Report:
    layers = list(layers)
    with_data = any(layer.observed is not None for layer in layers)
    columns = (*_COLUMNS, *(_DATA_COLUMNS if with_data else ()))
    rows = [_row(layer)[: len(columns)] for layer in layers]
    count = f"{len(layers)} batch norm{'s' if len(layers) != 1 else ''}"
    return Report(f"Audit of {count}", findings, columns, rows)


def _row(layer: Layer) -> list[Cell]:
    if not layer.mean.size:
        return [layer.name, 0, *[None] * (len(_COLUMNS) + len(_DATA_COLUMNS) - 2)]
    size, var = layer.mean.size, layer.var
    furthest = float(layer.mean.ravel()[abs(layer.mean).argmax()])
    cells = [
        layer.name,
        size,
        layer.count,
        furthest,
        float(var.min()),
        float(var.max()),
    ]
    if layer.observed is None:
        return [*cells, *[None] * len(_DATA_COLUMNS)]
    effect = effect_of(layer)
    shift, ratio = data.extremes(effect)
    return [*cells, layer.observed.momentum, shift, ratio, effect.overall]
