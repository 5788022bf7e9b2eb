"""Misuse of normalization layers: groups and axes that cannot be normalized over."""

from __future__ import annotations

from linsey.errors.base import LinseyError, named


class GroupChoiceError(LinseyError, ValueError):
    """Both or neither of the number and the size of groups are given."""

    def __init__(self, num_groups: int | None, group_size: int | None) -> None:
        super().__init__(
            "Either `num_groups` or `group_size` should be specified. Found "
            f"num_groups={num_groups} and group_size={group_size}.",
            "Each of them determines the other; `num_groups` is 32 by default.",
            "If `group_size` is to be specified, pass `num_groups=None`: "
            "`GroupNorm(num_groups=None, group_size=16)`.",
        )


class GroupDivisionError(LinseyError, ValueError):
    """The features of an input cannot be divided into the groups asked for."""

    def __init__(
        self, features: int, *, num_groups: int | None, group_size: int | None
    ) -> None:
        if group_size is None:
            found = (
                f"Number of groups ({num_groups}) does not divide the number of "
                f"channels ({features})."
            )
        else:
            found = (
                f"Number of channels ({features}) is not multiple of the group size "
                f"({group_size})."
            )
        sizes = [n for n in range(1, features + 1) if features % n == 0]
        super().__init__(
            found,
            "All groups must have one size, at least 1.",
            f"Choose one of {', '.join(map(str, sizes))}.",
        )


class GroupAxisError(LinseyError, ValueError):
    """A group normalization does not reduce the axis that it divides into groups."""

    def __init__(self, reduction_axes: object, shape: tuple[int, ...]) -> None:
        super().__init__(
            "The reduction axes must include the final dimension as this is assumed to "
            f"be the feature axis. Found {reduction_axes} for an input of shape "
            f"{shape}.",
            "Moments are taken over the features of a group.",
            "Add -1 to `reduction_axes`, or move the features to the last axis.",
        )


class InstanceAxisError(LinseyError, ValueError):
    """An instance normalization is told that the batch axis holds features."""

    def __init__(self, feature_axes: object, shape: tuple[int, ...]) -> None:
        super().__init__(
            "The channel axes cannot include the leading dimension as this is assumed "
            f"to be the batch axis. Found {feature_axes} for an input of shape "
            f"{shape}.",
            "Each example is normalized alone, and the leading axis counts examples.",
            "Give `feature_axes` other than 0; pass a single example as `x[None]`.",
        )


class HalfPrecisionStatisticsError(LinseyError, TypeError):
    """Running averages of half precision are trained."""

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
    """A batch whose statistics are not finite reaches a layer that refuses it."""

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


class NormOptionError(LinseyError, ValueError):
    """An option of a normalization layer has no such value, or excludes another."""


class DomainError(LinseyError, ValueError):
    """A call does not say, or should not say, which domain a batch comes from."""

    def __init__(
        self,
        scope_path: str,
        num_domains: int | None,
        domain: object,
        *,
        module: object = "BatchNorm",
    ) -> None:
        if num_domains is None:
            why = "It keeps one pair of running averages, with no domain to choose."
            fix = "Build it with `num_domains=`, or leave `domain` out."
        else:
            why = f"It keeps running averages for each of {num_domains} domains."
            last = num_domains - 1
            fix = f"Pass `domain=`, a whole number from 0 to {last}, to the call."
        super().__init__(
            f'{named(module)} at "{scope_path}" was called with domain={domain}.',
            why,
            fix,
        )


class ExternalAffineError(LinseyError, ValueError):
    """A scale or offset is given to a call of a layer that has its own."""

    def __init__(
        self, argument: str, scope_path: str, *, module: object = "BatchNorm"
    ) -> None:
        super().__init__(
            f'{named(module)} at "{scope_path}" was called with `{argument}` and has a '
            f"parameter `{argument}` of its own.",
            "Only one of them can be applied.",
            f"Build the layer with `use_{argument}=False`, or leave the argument out.",
        )
