"""Misuse that several layers check for: wrong ranks, axes, paddings and dtypes.

For other misuse of layers, the check itself raises one of the kinds in
`linsey.errors.base`. Each class also derives from the built-in exceptions that programs
written for Flax catch in the same place.
"""

from __future__ import annotations

from collections.abc import Sequence

from linsey.errors.base import ArgumentTypeError, OptionError, ShapeError

NO_ARRAY = " None, from a function without `return`, counts as a scalar too."


class InputRankError(ShapeError):
    """An input has too few axes for the layer."""

    def __init__(self, layer: str, shape: Sequence[int], axes: str) -> None:
        super().__init__(
            f"`{layer}` was called with an input of shape {tuple(shape)}.",
            f"It needs at least the axes ({axes}).{NO_ARRAY if shape == () else ''}",
            "Add the missing axes, for example with `x[None]` or `x[..., None]`.",
        )


class AxisOutOfRangeError(ShapeError):
    """A layer is told to work on an axis that its input does not have."""

    def __init__(self, layer: str, axis: int, shape: Sequence[int]) -> None:
        rank = len(shape)
        super().__init__(
            f"`{layer}` was told to work on axis {axis} of an input of shape "
            f"{tuple(shape)}.",
            f"Such an input has the axes {-rank} to {rank - 1}."
            if rank
            else f"Such an input has no axes.{NO_ARRAY}",
            "Give `axis` and `broadcast_dims` as axes of the whole input, batch axes "
            "included; negative ones count from the end.",
        )


class InvalidPaddingError(OptionError, RuntimeError, TypeError):
    """A padding has none of the forms that the layer understands."""

    def __init__(self, padding: object, rank: int, names: Sequence[str]) -> None:
        known = ", ".join(f"'{name}'" for name in names)
        if isinstance(padding, str):
            found = f"Unrecognized padding type: expected {known}, got '{padding}'."
        else:
            found = (
                f"Invalid padding format: {padding}, should be str, int, or a sequence "
                f"of len {rank} where each element is an int or pair of ints."
            )
        super().__init__(
            found,
            f"There are {rank} spatial axes, and each needs a (low, high) pair.",
            f"Write `padding={[(1, 1)] * rank}`, `padding=1`, or one of {known}.",
        )


class IntegerInputError(ArgumentTypeError, ValueError):
    """An embedding is indexed with something other than integers."""

    def __init__(self, num_embeddings: int, found: object) -> None:
        super().__init__(
            f"Input type must be an integer or unsigned integer: found {found}.",
            f"An embedding looks up rows 0 to {num_embeddings - 1} of a table.",
            "Convert first: `x.astype('int32')`, or `jnp.asarray(x)` for numbers and "
            "lists.",
        )


class AxisMetadataTypeError(ArgumentTypeError, AttributeError):
    """A collection of axis names holds something else."""

    def __init__(self, value: object) -> None:
        super().__init__(
            f"Non-initial-or-AxisMetadata value encountered: {value!r}",
            "A collection whose name ends in `_axes` holds the axis names of the "
            "variables of another one.",
            "Make it with `init`, and rename other collections that end so.",
        )


class NotAMatrixError(ShapeError):
    """A spectral norm is requested for an array that is not a matrix."""

    def __init__(self, path: str, shape: Sequence[int]) -> None:
        rank = len(shape)
        super().__init__(
            f"Input is {rank}D but error_on_non_matrix is True: `{path}` has shape "
            f"{tuple(shape)}.",
            "Its spectral norm is that of the matrix of shape (-1, last axis), which "
            "may not be what is meant.",
            "Write `SpectralNorm(layer, error_on_non_matrix=False)` to use that.",
        )
