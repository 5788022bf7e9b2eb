"""Misuse of layers that would otherwise go unnoticed or cause an obscure error.

*Misuse* is code that cannot be intended and yet runs in Flax: for example, batch
statistics of a single value per channel, or statistics that start over at each step. A
check that finds it calls `report_misuse` with the error and then continues as Flax
would. The flag `misuse` of `linsey.config` decides whether the error is raised, its
text becomes a warning, or nothing happens.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from linsey.errors.base import LinseyError, listed, named
from linsey.errors.scopes import ScopeCollectionNotFound, ScopeParamShapeError

POLICIES = ("error", "warn", "ignore")
"""The possible values of the flag `misuse`."""

# The value of the flag; `linsey.config`, which imports this package, sets it.
_policy = ["error"]


class MisuseWarning(UserWarning):
    """A warning about misuse, after which the call continues as in Flax.

    Its text is that of the error.
    """


def set_policy(policy: str) -> None:
    """Set how misuse is reported from now on; the flag `misuse` calls this."""
    _policy[0] = policy


def report_misuse(error: LinseyError) -> None:
    """Raise an error, warn with its text, or do nothing, as the flag `misuse` says.

    Call this only where Flax has a result, and compute that result if this returns.

    Args:
        error: says what is wrong.

    Raises:
        LinseyError: the error, if the flag is `error`.

    Example:
        >>> from linsey.config import config
        >>> with config.temp_flip_flag("misuse", "ignore"):
        ...     report_misuse(LinseyError("One value per channel."))
        >>> report_misuse(LinseyError("One value per channel."))
        Traceback (most recent call last):
        linsey.errors.base.LinseyError: One value per channel.
    """
    if _policy[0] == "error":
        raise error
    if _policy[0] == "warn":
        _warn(str(error), _stack_level())


def _warn(text: str, stack_level: int) -> None:
    try:
        warnings.warn(text, MisuseWarning, stacklevel=stack_level)
    except MisuseWarning:
        # All warnings are errors, as in test suites. Raise only if a filter names this
        # class of warnings.
        if any(f[0] == "error" and f[2] is MisuseWarning for f in warnings.filters):
            raise
        print(text, file=sys.stderr)


def _file_of(module: str) -> str:
    return getattr(sys.modules.get(module), "__file__", None) or __file__


def _stack_level() -> int:
    """Count the frames from `report_misuse` up to the line of the user's program."""
    packages = (Path(__file__).parents[1], *Path(_file_of("jax")).parents[:1])
    libraries = tuple(os.fspath(folder) + os.sep for folder in packages)
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(libraries):
        level, frame = level + 1, frame.f_back
    return level


class MissingBatchStatsError(ScopeCollectionNotFound):
    """A training call has no running statistics to update."""

    def __init__(
        self,
        scope_path: str,
        *,
        module: object = "BatchNorm",
        col_name: str = "batch_stats",
        var_name: str = "mean",
    ) -> None:
        super().__init__(
            col_name,
            var_name,
            scope_path,
            why=(
                f"{named(module)} updates its running statistics in training, and "
                "the variables given hold none: each step would start them anew."
            ),
            fix=(
                "Keep what `init` returned and pass it: `y, updates = module.apply("
                f"{{'params': params, '{col_name}': {col_name}}}, x, "
                f"mutable=['{col_name}'])`, then "
                f"`{col_name} = updates['{col_name}']`."
            ),
        )


class SingleValuePerChannelError(LinseyError, ValueError):
    """Batch statistics are requested of a single value per channel."""

    def __init__(
        self,
        scope_path: str,
        shape: Sequence[int],
        *,
        axes: Sequence[int] | None = None,
        module: object = "BatchNorm",
    ) -> None:
        over = "" if axes is None else f" over the axes {tuple(axes)}"
        super().__init__(
            f'{named(module)} at "{scope_path}" was called in training with an '
            f"input of shape {tuple(shape)}, which has one value per channel{over}.",
            "The variance of one value is zero, so every output would be the bias, "
            "whatever the input is.",
            "Use a batch of two or more, or `use_running_average=True`.",
        )


class HalfPrecisionStatisticsError(LinseyError, TypeError):
    """Running statistics in half precision are to be updated."""

    def __init__(
        self, scope_path: str, dtype: object, *, module: object = "BatchNorm"
    ) -> None:
        super().__init__(
            f'{named(module)} at "{scope_path}" was called in training with running '
            f"statistics of dtype {dtype}.",
            "A step moves them by a hundredth of the difference, which half precision "
            "rounds away: they would stand still.",
            "Keep `batch_stats` in float32, also where parameters are cast: "
            "`{**variables, 'params': cast(variables['params'])}`. For computation in "
            "half precision build the layer with `dtype=jnp.bfloat16`.",
        )


class NonFiniteBatchError(LinseyError, FloatingPointError):
    """A batch has statistics that are not finite, and the layer refuses it."""

    def __init__(
        self, scope_path: str, channels: int, *, module: object = "BatchNorm"
    ) -> None:
        super().__init__(
            f'{named(module)} at "{scope_path}" was called in training with a batch '
            f"whose mean or variance is not finite in {channels} channels.",
            "It would spoil the running statistics; the layer was built with "
            "`nonfinite='error'`.",
            "Look for NaN or infinite inputs, or a diverged step before; `nonfinite="
            "'skip'` passes over such batches.",
        )


class UnboundAxisNameError(LinseyError, NameError):
    """A named axis is used, but no transform around the call binds it."""

    def __init__(
        self,
        axis_name: object,
        *,
        bound: Iterable[object] = (),
        scope_path: str | None = None,
        module: object = None,
    ) -> None:
        at = "" if scope_path is None else f' by {named(module)} at "{scope_path}"'
        super().__init__(
            f"Found an unbound axis name: {axis_name}. It was asked for{at or ' here'};"
            f" the names bound are: {listed(bound)}.",
            "Statistics are averaged over a named axis, which only `jax.vmap`, "
            "`jax.pmap` or `jax.shard_map` around the call can bind.",
            f"Write `jax.vmap(step, axis_name='{axis_name}')`, or build the layer "
            "with `axis_name=None`.",
        )


class TracedFlagError(LinseyError, TypeError):
    """A Python flag that determines the structure of a call is traced."""

    def __init__(
        self,
        flag: str,
        *,
        scope_path: str | None = None,
        module: object = None,
        value: object = None,
    ) -> None:
        at = "" if scope_path is None else f' of {named(module)} at "{scope_path}"'
        what = "" if value is None else f": {value}"
        super().__init__(
            f"The flag `{flag}`{at} is a traced value{what}.",
            "It decides which computation is built, which must be known before "
            "anything is traced.",
            f"Mark it static, `jax.jit(step, static_argnames='{flag}')`, or make two "
            "compiled functions, one for training and one for evaluation.",
        )


class FeatureShapeChangedError(ScopeParamShapeError):
    """An input has a different number of features than the variables were made for."""

    def __init__(
        self,
        scope_path: str,
        *,
        expected: object,
        found: object,
        input_shape: Sequence[int] | None = None,
        axis: int | Sequence[int] = -1,
        name: str = "mean",
        module: object = "BatchNorm",
    ) -> None:
        of = "" if input_shape is None else f" of the input {tuple(input_shape)}"
        LinseyError.__init__(
            self,
            f'{named(module)} at "{scope_path}" was initialised for {expected} '
            f"features and now finds {found} on axis {axis}{of}: `{name}` does not "
            "fit.",
            "One statistic is kept per feature; the layer counts features on that "
            "axis, as happens wrongly when channels come first.",
            f"Pass inputs whose axis {axis} has {expected} features (move channels "
            "there with `x.transpose(0, 2, 3, 1)`), or build the layer with `axis=` "
            "where the channels are.",
        )


class FrozenDictIsImmutableError(LinseyError, ValueError):
    """An item of a frozen dictionary is being assigned or deleted."""

    def __init__(self, key: object, *, deletes: bool = False) -> None:
        line = f"frozen.copy({{{key!r}: value}})"
        if deletes:
            line = f"rest, value = frozen.pop({key!r})"
        super().__init__(
            "FrozenDict is immutable.",
            f"The item {key!r} may be shared with other variables; a change would "
            "reach them all.",
            f"Write `{line}`, or change the plain dictionary `frozen.unfreeze()`.",
        )


class UnsynchronizedLayerError(LinseyError, TypeError):
    """A layer keeps statistics of the batch but cannot combine microbatches."""

    def __init__(self, scope_path: str, *, module: object = None) -> None:
        super().__init__(
            f'{named(module)} at "/{scope_path}" keeps a running mean and variance and '
            "has no field `axis_name`.",
            "With microbatches its moments have to be taken over a named axis, which "
            "this field would name.",
            "Declare `axis_name: str | None = None` and take the moments with "
            "`linsey.ops.moments(x, axes, axis_name=self.axis_name)`, or use "
            "`linsey.linen.BatchNorm`.",
        )


class UnsynchronizedStatisticsError(LinseyError, ValueError):
    """Updated statistics differ between the microbatches of one batch."""

    def __init__(self, name: str, axis_name: str) -> None:
        super().__init__(
            f"The updated statistics `{name}` differ between microbatches.",
            "They were computed from one microbatch each, by code that does not know "
            "of the others.",
            "Take the moments of that layer over the microbatches too: "
            f"`linsey.ops.moments(x, axes, axis_name='{axis_name}')`.",
        )
