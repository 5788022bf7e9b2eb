"""Where, by how much, and why a model's training and evaluation outputs differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from linsey.batch_stats.calls import Batch, Call, Inputs, Rngs, Variables, find_call
from linsey.batch_stats.causes import LayerEvidence, find_cause
from linsey.batch_stats.gaps import Floats, Sample, as_sample, chance, channel_gaps
from linsey.batch_stats.merging import exact
from linsey.batch_stats.modes_report import COLUMNS, OUTPUT, ModesReport
from linsey.batch_stats.objects import is_object, variables_of
from linsey.batch_stats.observed import Observed, Seen
from linsey.batch_stats.outside import find_observer
from linsey.batch_stats.passes import Batches, Data, Step, compiled
from linsey.batch_stats.report import Cell, Finding
from linsey.batch_stats.statistics import Path, Statistics, find_statistics
from linsey.errors import OptionError


def compare_modes(
    model: object,
    variables: Any,
    batch: Batch,
    reference: Batches | None = None,
    previous: Any = None,
    *,
    tolerance: float = 0.1,
    flag: str | None = None,
    inputs: Inputs | None = None,
    rngs: Rngs | None = None,
    mutable: Sequence[str] | None = None,
) -> ModesReport:
    """Compare training and evaluation on the same data, layer by layer.

    For each layer with running statistics, in the order of calls, the report gives the
    *gap*: the difference between the layer's outputs in evaluation and in training, for
    the same (training) inputs, relative to the standard deviation of the training
    outputs. The gap of a layer is due to its own statistics alone, not to the layers
    before it. If it is larger than chance explains, the cause is inferred from the
    numbers:

    * `nonfinite`, `never_updated`, `frozen`, `small_batch` need only the batch;
    * `other_distribution` needs `reference`;
    * `stale` and `slow_momentum` need `reference` and `previous`.

    Without these arguments, the causes that remain possible are joined by `|`, and the
    finding says which argument would decide between them. `linsey.batch_stats.causes`
    describes how each cause is recognised.

    Args:
        model: a module of linsey or Flax, an object of `linsey.treex`, an `apply`, or
            a function `(variables, x, train, mutable)`.
        variables: its variables by collection. If `None`, an object's own variables.
        batch: input of one call. Large batches are more informative: a gap of 0.1 is
            beyond chance from about a thousand independent values.
        reference: batches of data that the model was trained on, as in training.
        previous: variables, or the object, at an earlier checkpoint of the same run.
        tolerance: gap that is ignored even if chance does not explain it, for example
            because statistics lag slightly behind the parameters.
        flag: name of the argument that is True in training, if it cannot be detected.
        inputs: function from a batch to the arguments of a call, if they cannot be
            detected.
        rngs: keys for the random streams of training.
        mutable: the collections that training changes. If `None`, all but `params`.

    Returns:
        A report with a row for each layer. Its `first` is the finding about the first
        layer where training and evaluation differ; `plot()` draws the gaps.

    Raises:
        OptionError: there are no statistics, or no way was found to call the model.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> x = 5 + jax.random.normal(jax.random.key(1), (256, 2))
        >>> model = nn.BatchNorm()
        >>> variables = model.init(jax.random.key(0), x, use_running_average=True)
        >>> report = compare_modes(model, variables, x)
        >>> report.first.kind, f"{report.first.numbers['gap']:.1f}"
        ('never_updated', '5.0')

    References:
        Ioffe 2017, https://arxiv.org/abs/1702.03275
        Wu, Johnson 2021, https://arxiv.org/abs/2105.07576
    """
    if is_object(model):
        model = variables if is_object(variables) else model
        variables = variables_of(model) if variables in (None, model) else variables
    if is_object(previous):
        previous = variables_of(previous)
    call = find_call(
        model, variables, batch, flag=flag, inputs=inputs, rngs=rngs, mutable=mutable
    )
    statistics = find_statistics(variables)
    if not statistics:
        raise OptionError(
            "The variables hold no running statistics.",
            "Those are `mean` and `var` of a layer in the collection `batch_stats`.",
            "Pass all variables of the model, as `init` returned them.",
        )
    observe = find_observer(call, variables, batch, within=True)
    seen, after, output_gap = _look(call, observe, variables, batch)
    known: Seen = {}
    if reference is not None:
        known = Data(reference).pool(compiled(observe), variables, call.rngs)
    earlier = _earlier(variables, previous)
    layers = [
        layer
        for one in statistics
        if one.path in seen
        for layer in _layers(one, seen, after, known, earlier)
    ]
    layers.sort(key=lambda layer: layer.order)
    return _report(layers, output_gap, tolerance)


class LayerGap(NamedTuple):
    """One layer, or one row of a scanned or mapped layer, with its evidence."""

    name: str
    order: float
    evidence: LayerEvidence
    gaps: Floats


def _look(
    call: Call, observe: Step[Seen], variables: Variables, batch: Batch
) -> tuple[Seen, dict[Path, Statistics], float]:
    """Return what the layers see, their new statistics, and the gap of the outputs."""

    def look(variables: Variables, batch: Batch, rngs: Rngs) -> Any:
        y, updates = call.train(variables, batch, rngs)
        outputs = y, call.evaluate(variables, batch)
        return observe(variables, batch, rngs), updates["batch_stats"], outputs

    seen, stats, outputs = compiled(look)(variables, batch, call.rngs)
    after = {one.path: one for one in find_statistics({"batch_stats": stats})}
    exactly = {path: Observed(*map(exact, one)) for path, one in seen.items()}
    return exactly, after, _relative(*outputs)


def _relative(train: object, evaluation: object) -> float:
    """Return the relative difference of the outputs of evaluation and training."""
    pairs = zip(jax.tree.leaves(train), jax.tree.leaves(evaluation), strict=False)
    squares = [
        [np.sum(np.abs(exact(b) - exact(a)) ** 2), np.sum(np.abs(exact(a)) ** 2)]
        for a, b in pairs
        if np.shape(a) == np.shape(b)
    ]
    difference, size = np.sum(squares, axis=0) if squares else (0.0, 1.0)
    return float(np.sqrt(difference / size)) if size else 0.0


def _earlier(
    variables: Variables, previous: Variables | None
) -> dict[Path, Statistics]:
    """Return the statistics of an earlier checkpoint, whose parameters must differ."""
    if previous is None:
        return {}
    trees = [jax.tree.leaves(v.get("params", {})) for v in (variables, previous)]
    same = len(trees[0]) == len(trees[1]) and all(map(np.array_equal, *trees))
    if same and trees[0]:
        raise OptionError(
            "`previous` has the same parameters as `variables`.",
            "What has moved since an earlier checkpoint tells causes apart.",
            "Pass the variables of an earlier step.",
        )
    return {one.path: one for one in find_statistics(previous)}


def _layers(
    one: Statistics,
    seen: Seen,
    after: dict[Path, Statistics],
    known: Seen,
    earlier: dict[Path, Statistics],
) -> Iterator[LayerGap]:
    """Yield a layer, or each of its rows along the axes before the last."""
    of = seen[one.path]
    order, moved = (np.atleast_1d(np.squeeze(part)) for part in (of.order, of.moved))
    for row in np.ndindex(order.shape[:-1]):
        if not order[row].any():
            continue  # a domain of which the batch has no examples
        running = _row(one, row)
        batch = as_sample(of, row)
        evidence = LayerEvidence(
            running,
            batch,
            _row(after[one.path], row),
            bool(moved[row].any()),
            as_sample(known[one.path], row) if one.path in known else None,
            _row(earlier[one.path], row) if one.path in earlier else None,
        )
        name = one.layer + "".join(f"[{index}]" for index in row)
        gaps = channel_gaps(running, batch)
        yield LayerGap(name, float(order[row].max()), evidence, gaps)


def _row(one: Statistics, row: tuple[int, ...]) -> Sample:
    mean, var = (np.atleast_1d(np.squeeze(exact(v)))[row] for v in (one.mean, one.var))
    return Sample(mean, var)


def _report(layers: list[LayerGap], output_gap: float, tolerance: float) -> ModesReport:
    rows: list[list[Cell]] = []
    findings: list[Finding] = []
    for order, layer in enumerate(layers, 1):
        one = layer.evidence
        cause = find_cause(one, tolerance)
        numbers: dict[str, float] = {
            "order": order,
            "gap": one.gap,
            "chance": chance(one.batch),
            "values": one.batch.values,
        }
        if cause is not None:
            kind, severity, message, remedy = cause
            found = Finding(layer.name, kind, severity, message, numbers, remedy)
            findings.append(found)
        rows.append(
            [
                layer.name,
                round(one.batch.values),
                one.gap,
                float(np.max(layer.gaps)),
                chance(one.batch),
                None if cause is None else cause.kind,
            ]
        )
    rows.append([OUTPUT, None, output_gap, None, None, None])
    report = ModesReport("Training and evaluation", findings, COLUMNS, rows)
    if report.first is None:
        return report
    place = report.first.layer or "the layer"
    return dataclasses.replace(report, title=f"Training and evaluation part at {place}")
