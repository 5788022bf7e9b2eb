"""Optimizers and learning rates: three of each by short names, all others from optax.

Functions of optax go by their names there: `optax:lion` is `optax.lion`, called with
the learning rate of `--lr` and `--schedule`. A schedule gets the peak rate and the
length of the run if it has arguments for them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TypeVar

import jax
import optax
import optax.contrib
from jax import numpy as jnp

from linsey.app.arguments import (
    accepted_names,
    call,
    check_arguments,
    near,
    refused,
)
from linsey.app.config import OptimizerOptions
from linsey.app.named_values import parse_arguments
from linsey.errors import InputError

T = TypeVar("T")
_PREFIX = "optax:"
_OPTIMIZERS = ("sgd", "adam", "adamw")
_SCHEDULES = ("cosine", "constant", "step")
_NEEDS_MORE = ("schedule_free",)
"""Optimizers whose weights are not those to evaluate with."""


def check_names(options: OptimizerOptions) -> None:
    """Refuse names and arguments that are wrong, before anything else is done.

    Raises:
        InputError: optax has no such function, or it has no such arguments.
    """
    make_optimizer(options, make_schedule(options, long_epoch(options)))


def long_epoch(options: OptimizerOptions) -> int:
    """Return a number of steps per epoch for when the data are not known.

    It is large, so that any number of steps given to a schedule fits into the run.
    """
    return max(1, 10**9 // options.epochs)


# -- learning rates ------------------------------------------------------------------


def make_schedule(options: OptimizerOptions, steps_per_epoch: int) -> optax.Schedule:
    """Make the learning rate as a function of the step.

    Args:
        options: the optimizer options.
        steps_per_epoch: steps in one pass over the data.

    Returns:
        A traceable schedule.

    Raises:
        InputError: there is no such schedule, or its arguments are wrong.
    """
    total = options.epochs * steps_per_epoch
    warmup = min(round(options.warmup_epochs * steps_per_epoch), total - 1)
    if options.schedule not in _SCHEDULES:
        return _optax_schedule(options, total, warmup)
    _refuse_arguments(options.schedule_arg, "--schedule-arg", options.schedule)
    remaining = total - warmup
    drops = {remaining // 2: 0.1, 3 * remaining // 4: 0.1}
    body = {
        "constant": lambda: optax.constant_schedule(options.lr),
        "cosine": lambda: optax.cosine_decay_schedule(options.lr, remaining),
        "step": lambda: optax.piecewise_constant_schedule(options.lr, drops),
    }[options.schedule]()
    return _with_warmup(body, options.lr, warmup)


def _with_warmup(body: optax.Schedule, peak: float, warmup: int) -> optax.Schedule:
    if warmup == 0:
        return body
    # The first step already learns: a rate of 0 would waste it.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, body], [warmup])


def _optax_schedule(
    options: OptimizerOptions, total: int, warmup: int
) -> optax.Schedule:
    """Make a schedule of optax; those with a peak include their own warmup."""
    name, option = options.schedule, "--schedule-arg"
    function = _find(name, "--schedule", _SCHEDULES, _optax_schedules())
    names = accepted_names(function)
    rises, remaining = "peak_value" in names, total - warmup
    known = {
        "value": options.lr,
        "peak_value": options.lr,
        "init_value": options.lr / (warmup + 1) if rises else options.lr,
        "warmup_steps": warmup,
        # Optax counts the warmup as part of these steps in some schedules only.
        "decay_steps": total if "warmup_steps" in names else remaining,
        "transition_steps": total if "pct_start" in names else remaining,
    }
    given = {key: value for key, value in known.items() if key in names}
    arguments = parse_arguments(options.schedule_arg, option)
    schedule = call(function, name, arguments, option, given)
    try:
        rate = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
        if rate.shape != ():
            raise ValueError(f"the rate has shape {rate.shape}")
    except Exception as error:
        raise refused(name, arguments, option, error) from error
    return schedule if rises else _with_warmup(schedule, options.lr, warmup)


def _optax_schedules() -> dict[str, Callable[..., optax.Schedule]]:
    return {
        name: function
        for name, function in vars(optax).items()
        if inspect.isfunction(function)
        if name.endswith("_schedule") or name == "exponential_decay"
        if not name.startswith("scale_by")
    }


# -- optimizers ----------------------------------------------------------------------


def make_optimizer(
    options: OptimizerOptions, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Make the chosen optimizer.

    Args:
        options: the optimizer options.
        schedule: its learning rate.

    Returns:
        A gradient transformation.

    Raises:
        InputError: there is no such optimizer, its arguments are wrong, or it needs
            more than gradients.
    """
    decay = options.weight_decay
    parts: list[optax.GradientTransformation]
    if options.optimizer not in _OPTIMIZERS:
        parts = [_optax_optimizer(options, schedule)]
    elif options.optimizer == "sgd":
        sgd = optax.sgd(schedule, options.momentum, nesterov=True)
        parts = [optax.add_decayed_weights(decay, mask=_is_kernel), sgd]
    elif options.optimizer == "adam":
        parts = [optax.adam(schedule)]
    else:
        parts = [optax.adamw(schedule, weight_decay=decay, mask=_is_kernel)]
    if options.optimizer in _OPTIMIZERS:
        _refuse_arguments(options.optimizer_arg, "--optimizer-arg", options.optimizer)
    if options.clip_norm > 0:
        parts.insert(0, optax.clip_by_global_norm(options.clip_norm))
    return optax.chain(*parts)


def _is_kernel(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda param: param.ndim > 1, params)


def _optax_optimizer(
    options: OptimizerOptions, schedule: optax.Schedule
) -> optax.GradientTransformation:
    name, option = options.optimizer, "--optimizer-arg"
    function = _find(name, "--optimizer", _OPTIMIZERS, _optax_optimizers())
    for field in ("momentum", "weight_decay"):
        if getattr(options, field) != getattr(OptimizerOptions, field):
            key = "--" + field.replace("_", "-")
            hint = f"{option} {field}={getattr(options, field)}, if it has that"
            raise InputError(f"not used by {name}", key=key, hint=hint)
    arguments = parse_arguments(options.optimizer_arg, option)
    given: dict[str, object] = {"learning_rate": schedule}
    if "learning_rate" in arguments:
        hint = "--lr and --schedule decide it"
        raise InputError("a learning rate of its own", key=option, hint=hint)
    check_arguments(function, name, arguments, option, given)
    errors: list[Exception] = []
    # A few only take a number as learning rate: they get that of each step.
    for make in (function, optax.inject_hyperparams(function)):
        try:
            optimizer = make(**given, **arguments)
            jax.eval_shape(functools.partial(_step, optimizer), _PARAMS)
        except Exception as error:  # of any kind: it is reported in one line
            errors.append(error)
        else:
            return optimizer
    raise refused(name, arguments, option, errors[0]) from errors[0]


_PARAMS = {"kernel": jax.ShapeDtypeStruct((2, 2), jnp.float32),
           "bias": jax.ShapeDtypeStruct((2,), jnp.float32)}  # fmt: skip


def _step(
    optimizer: optax.GradientTransformation, params: optax.Params
) -> tuple[optax.Updates, optax.OptState]:
    return optimizer.update(params, optimizer.init(params), params)


def _optax_optimizers() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """List the optimizers that take a learning rate, with those of `optax.contrib`."""
    return {
        name: function
        for module in (optax.contrib, optax)
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        if not name.startswith(("scale_by_", *_NEEDS_MORE))
        if "learning_rate" in accepted_names(function)
    }


# -- names ---------------------------------------------------------------------------


def _find(
    name: str,
    option: str,
    own: tuple[str, ...],
    functions: dict[str, Callable[..., T]],
) -> Callable[..., T]:
    """Look up a function of optax by its name.

    Raises:
        InputError: there is none; the error suggests the most similar name.
    """
    short = name.removeprefix(_PREFIX)
    if name != short and short in functions:
        return functions[short]
    full = {
        **{one: f"{_PREFIX}{one}" for one in functions},
        **{one: one for one in own},
    }
    hint = near(short, full)
    if hint is not None:
        nearest = hint.removeprefix("did you mean ").rstrip("?")
        hint = f"did you mean {full[nearest]}?"
    expected = f"{', '.join(own)}, or {_PREFIX}NAME of what optax has"
    raise InputError("no such name", key=option, expected=expected, found=repr(name),
                     hint=hint)  # fmt: skip


def _refuse_arguments(texts: tuple[str, ...], option: str, name: str) -> None:
    if texts:
        hint = f"optax:NAME takes arguments; {name} has options of its own"
        raise InputError("nothing takes it", key=option, found=texts[0], hint=hint)
