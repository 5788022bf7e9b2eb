"""Misuse of normalization layers: groups and axes that cannot be normalized over."""

from __future__ import annotations

from linsey.errors.base import LinseyError


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
