"""The state of a run, its optimizer, the training step, and evaluation.

A step computes new parameters, optimizer state and batch statistics, and commits them
only if everything is finite; otherwise the step is skipped. Its random numbers depend
on the seed and the number of steps committed before, and its learning rate on that
number: a step that is skipped leaves no trace in later ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Self

import jax
import numpy as np
import optax
from jax import numpy as jnp

from linsey import struct
from linsey.app import averaging, compiling
from linsey.app.config import Identity, Shape
from linsey.app.dataset import Dataset, PartName
from linsey.app.devices import Devices
from linsey.app.loading import prepared
from linsey.app.losses import cross_entropy, widened
from linsey.app.network import Network
from linsey.app.optimizers import make_optimizer, make_schedule
from linsey.app.recipe import Recipe
from linsey.app.scores import Answers
from linsey.app.standardizer import Standardizer
from linsey.app.stopping import Stops
from linsey.batch_stats.averages import EmaState
from linsey.batch_stats.objects import Variables
from linsey.checkpoint import flatten, nest
from linsey.training import train_state


class TrainState(train_state.TrainState):
    """Everything that a step changes.

    Attributes:
        network: the model; `apply_fn` is `None`.
        batch_stats: running statistics; empty without batch normalization.
        skipped: number of steps that were not committed.
        noise: the key of all random numbers; it never changes.
        recipe: what a step does besides calling the model.

    `step` counts batches, including skipped ones: it is the position in the data.
    """

    network: Network = struct.field(pytree_node=False)
    batch_stats: Mapping[str, Any]
    skipped: jax.Array
    noise: jax.Array
    recipe: Recipe = struct.field(pytree_node=False)

    @property
    def key(self) -> jax.Array:
        """The random key of the next step."""
        committed = self.step - self.skipped
        return jax.random.fold_in(jax.random.wrap_key_data(self.noise), committed)

    def moved(self) -> Self:
        """Return the state with its average updated; this state has no average."""
        return self

    @property
    def variables(self) -> dict[str, Any]:
        """The variables by collection."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def evaluated(self) -> dict[str, Any]:
        """The variables to evaluate, export and predict with."""
        return self.variables

    def fields_of(self, changed: Variables) -> dict[str, Any]:
        """Return collections that changed as fields of this state."""
        return {"batch_stats": changed.get("batch_stats", self.batch_stats)}


class WiderTrainState(TrainState):
    """The state of a model that has other collections too.

    Attributes:
        collections: the collections other than `params` and `batch_stats`.
    """

    collections: Mapping[str, Any]

    @property
    def variables(self) -> dict[str, Any]:
        """The variables by collection."""
        return {**super().variables, **self.collections}

    def fields_of(self, changed: Variables) -> dict[str, Any]:
        """Return collections that changed as fields of this state."""
        others = {n: changed.get(n, tree) for n, tree in self.collections.items()}
        return {**super().fields_of(changed), "collections": others}


class AveragedState(TrainState):
    """A state with a moving average of its variables.

    Attributes:
        average: the average of parameters and running statistics.
    """

    average: EmaState

    @property
    def evaluated(self) -> dict[str, Any]:
        """The average, and the other collections unchanged."""
        last = {name: self.variables[name] for name in self.average.total}
        return {**self.variables, **averaging.averaged(self.average, last)}

    def moved(self) -> Self:
        """Return the state with its average updated by its variables."""
        decay = self.recipe.decay
        last = {name: self.variables[name] for name in self.average.total}
        return self.replace(average=averaging.moved(self.average, last, decay))


class WiderAveragedState(AveragedState, WiderTrainState):
    """A state with other collections and with an average."""


# By whether there are other collections, and an average.
_KINDS: dict[tuple[bool, bool], type[TrainState]] = {
    (False, False): TrainState,
    (True, False): WiderTrainState,
    (False, True): AveragedState,
    (True, True): WiderAveragedState,
}


def create_state(
    options: Identity,
    network: Network,
    shape: Shape,
    steps_per_epoch: int,
    recipe: Recipe | None = None,
) -> TrainState:
    """Initialize a model and its optimizer.

    Args:
        options: the options; the seed decides parameters and noise.
        network: the model.
        shape: the shape of one example.
        steps_per_epoch: steps in one pass over the data.
        recipe: how steps learn. If `None`, as the options say, but without class
            weights, which need data.

    Returns:
        The state before the first step.
    """
    init_key, noise = jax.random.split(jax.random.key(options.seed))
    example = jnp.zeros((1, *shape), jnp.float32)
    variables = dict(network.init(init_key, example))
    recipe = recipe or Recipe.of(options)
    fields: dict[str, Any] = {
        "apply_fn": None,
        "network": network,
        "params": variables.pop("params"),
        "tx": make_optimizer(options, make_schedule(options, steps_per_epoch)),
        "batch_stats": variables.pop("batch_stats", {}),
        "skipped": jnp.zeros((), jnp.int32),
        "noise": jax.random.key_data(noise),
        "recipe": recipe,
    }
    if variables:
        fields["collections"] = variables
    if recipe.decay:
        start = {name: fields[name] for name in ("params", "batch_stats")}
        fields["average"] = averaging.started(start, recipe.decay)
    state = _KINDS[bool(variables), bool(recipe.decay)].create(**fields)
    # An array from the start: a Python 0 would compile the step twice.
    return state.replace(step=jnp.zeros((), jnp.int32))


def begun_with(state: TrainState, arrays: Mapping[str, Any]) -> TrainState:
    """Return a state before the first step with some variables replaced.

    Args:
        state: a state from `create_state`.
        arrays: values by path, such as `params/Dense_0/kernel`; variables that are not
            among them stay as they are.
    """
    named = {**flatten(state.variables)}
    for name in named.keys() & arrays.keys():
        named[name] = jnp.asarray(arrays[name], named[name].dtype)
    variables = {**state.variables, **nest(named)}
    changed = {**state.fields_of(variables), "params": variables["params"]}
    changed["opt_state"] = state.tx.init(changed["params"])
    if decay := state.recipe.decay:
        start = {name: variables[name] for name in ("params", "batch_stats")}
        changed["average"] = averaging.started(start, decay)
    return state.replace(**changed)


def _train_step(
    state: TrainState, x: jax.Array, y: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Learn from one batch.

    Args:
        state: the state; its buffers are donated.
        x: (batch, ...) float32.
        y: (batch,) int32 labels.

    Returns:
        The next state; loss, correct answers, and whether the step was skipped.
    """
    x = state.recipe.augmented(x, state.key)
    gradient_fn = state.recipe.value_and_grad(loss_fn)
    (loss, (logits, changed)), grads = gradient_fn(state.params, state, x, y)
    proposed = state.apply_gradients(grads=grads, **changed).moved()
    is_finite = _all_finite((loss, grads, proposed))
    committed = jax.tree.map(
        lambda new, old: jnp.where(is_finite, new, old), proposed, state
    )
    skipped = 1 - is_finite.astype(jnp.int32)
    counters = {"step": state.step + 1, "skipped": state.skipped + skipped}
    correct = jnp.sum(logits.argmax(-1) == y)
    metrics = {"loss": loss, "correct": correct, "skipped": skipped}
    return committed.replace(**counters), metrics


def _is_brief(state: TrainState) -> bool:
    return state.recipe.is_brief


train_step = compiling.Step(_train_step, _is_brief, donate_argnums=0)


def divided_step(
    abstract: TrainState,
) -> compiling.Step[tuple[TrainState, dict[str, jax.Array]]]:
    """Return a step for a state that is sharded over devices, and stays sharded.

    Args:
        abstract: shapes and shardings of the state.
    """
    out = jax.tree.map(lambda leaf: leaf.sharding, abstract), None
    return compiling.Step(_train_step, _is_brief, donate_argnums=0, out_shardings=out)


def loss_fn(
    params: optax.Params, state: TrainState, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, dict[str, Any]]]:
    """Apply the model as in training, with the random numbers of the step.

    Args:
        params: the parameters, with respect to which gradients are taken.
        state: the state before the step.
        x: (batch, ...) float32, augmented.
        y: (batch,) int32 labels.

    Returns:
        The loss; logits, and the fields of the state that change: new batch statistics.
    """
    variables = {**state.variables, "params": params}
    logits, changed = state.network.train(variables, x, {"dropout": state.key})
    return state.recipe.loss(logits, y), (logits, state.fields_of(changed))


def _all_finite(tree: object) -> jax.Array:
    # Arrays of one shape are checked together: a loop for each takes long to compile.
    flags: dict[tuple[int, ...], list[jax.Array]] = {}
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            flags.setdefault(leaf.shape, []).append(jnp.isfinite(leaf))
    found = [functools.reduce(jnp.logical_and, same).all() for same in flags.values()]
    return jnp.stack(found).all()


# -- evaluation ----------------------------------------------------------------------

_BATCH = 256
_ENOUGH = 32
_VALUES = 2**19
"""Input values in a batch of more than `_ENOUGH` examples: 2 MiB. A model needs many
times that besides, so `_ENOUGH` examples may have 16 MiB."""


@compiling.Step
def eval_step(
    state: TrainState, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Apply the model with its running statistics.

    Args:
        state: the state; not modified.
        x: (batch, ...) float32.
        y: (batch,) int32 labels.

    Returns:
        For each example, the loss, the predicted class, its probability, and the number
        of classes ranked before the true one.
    """
    logits = widened(state.network.evaluate(state.evaluated, x))
    losses = cross_entropy(logits, y)
    confidence = jax.nn.softmax(logits).max(-1)  # (batch,)
    own = jnp.take_along_axis(logits, y[:, None], -1)  # (batch, 1)
    # The first of equal logits ranks first, as in argmax; NaN is not below anything.
    is_earlier = jnp.arange(logits.shape[-1]) < y[:, None]  # (batch, classes)
    is_before = jnp.where(is_earlier, ~(logits < own), ~(logits <= own))
    return losses, logits.argmax(-1), confidence, is_before.sum(-1)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
        loss: mean cross entropy, in nats.
        answers: the answers to each example, in the order of the data.
    """

    loss: float
    answers: Answers

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """Examples by true (row) and predicted (column) class."""
        return self.answers.confusion()

    @property
    def correct(self) -> int:
        """The number of correct answers."""
        return int(self.confusion.trace())

    @property
    def count(self) -> int:
        """The number of examples."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """The fraction of correct answers."""
        return self.correct / self.count

    def numbers(self) -> dict[str, float]:
        """Return the numbers that are recorded."""
        return {"loss": self.loss, "accuracy": self.accuracy}


def evaluate(
    state: TrainState,
    dataset: Dataset,
    standardize: Standardizer,
    devices: Devices,
    stop: Stops | None = None,
    part: PartName = "test",
) -> Evaluation:
    """Evaluate on a part of the data.

    Args:
        state: parameters and running statistics.
        dataset: the data to evaluate on.
        standardize: the standardization of the training.
        devices: the devices over which each batch is split. Processes that share them
            each read their own rows, and all get the whole evaluation.
        stop: checked before each batch.
        part: the part of the data.

    Returns:
        The evaluation.

    Raises:
        Stopped: a signal arrived.
    """
    # Every batch has one shape, so one program serves all; rows beyond the end are
    # zeros whose results are dropped (nothing mixes rows in evaluation).
    values = math.prod(dataset.shape)
    most = max(1, _VALUES // values, min(_ENOUGH, 8 * _VALUES // values))
    most = min(most, _BATCH)
    size = -(-most // devices.count) * devices.count
    own = devices.own_rows(size)
    found, (x_part, y_part) = [], dataset.part(part)
    order = np.array_split(np.arange(len(y_part)), range(size, len(y_part), size))
    own_order = [rows[own] for rows in order]
    with contextlib.closing(prepared(x_part, standardize, own_order)) as inputs:
        for rows, own_rows, x in zip(order, own_order, inputs, strict=True):
            if stop is not None:
                stop.check()
            missing = own.stop - own.start - len(own_rows)
            batch = devices.put_batch(
                _padded(x, missing), _padded(y_part[own_rows], missing)
            )
            results = devices.fetch(eval_step(state, *batch))
            found.append([result[: len(rows)] for result in results])
    losses, predicted, confidence, rank = map(np.concatenate, zip(*found, strict=True))
    # Rounding in float32 may raise a probability above 1.
    confidence = np.minimum(confidence.astype(np.float64), 1.0)
    classes = len(dataset.class_names)
    answers = Answers(y_part, predicted, confidence, rank, classes)
    return Evaluation(float(losses.astype(np.float64).mean()), answers)


def _padded(array: np.ndarray, missing: int) -> np.ndarray:
    return np.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)])
