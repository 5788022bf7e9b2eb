"""Misuse of layers: shapes, axes, padding and options that cannot be computed.

Each class also derives from the built-in exceptions that programs written for Flax
catch at the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from linsey.errors.base import LinseyError


class InputRankError(LinseyError, ValueError, IndexError, AssertionError):
    """An input has too few axes for the layer."""

    def __init__(self, layer: str, shape: Sequence[int], axes: str) -> None:
        super().__init__(
            f"`{layer}` was called with an input of shape {tuple(shape)}.",
            f"It needs at least the axes ({axes}).",
            "Add the missing axes, for example with `x[None]` or `x[..., None]`.",
        )


class AxisOutOfRangeError(LinseyError, ValueError, IndexError):
    """A layer is told to work on an axis that its input does not have."""

    def __init__(self, layer: str, axis: int, shape: Sequence[int]) -> None:
        rank = len(shape)
        super().__init__(
            f"`{layer}` was told to work on axis {axis} of an input of shape "
            f"{tuple(shape)}.",
            f"Such an input has the axes {-rank} to {rank - 1}.",
            "Give `axis` and `broadcast_dims` as axes of the whole input, batch axes "
            "included; negative ones count from the end.",
        )


class BatchDimsError(LinseyError, ValueError):
    """The batch axes of a general dense layer are not the leading ones."""

    def __init__(self, batch_dims: Sequence[int]) -> None:
        super().__init__(
            f"batch_dims {tuple(batch_dims)} must be consecutive leading dimensions "
            "starting from 0.",
            "Each entry of a batch axis has a kernel of its own, and the result puts "
            "these axes first.",
            f"Write `batch_dims={tuple(range(len(batch_dims)))}` and move those axes "
            "of the input to the front with `jnp.moveaxis`.",
        )


class EinsumEquationError(LinseyError, ValueError):
    """An einsum layer cannot read its equation."""

    def __init__(self, equation: str, problem: str) -> None:
        super().__init__(
            f"`einsum_str` equation {problem}: found '{equation}'.",
            "The left operand is the input and the right one is the kernel.",
            "Write it as 'input,kernel->output', for example 'abc,cde->abde'.",
        )


class InvalidPaddingError(LinseyError, ValueError, RuntimeError, TypeError):
    """A padding is none of the forms that the layer understands."""

    def __init__(self, padding: Any, rank: int, names: Sequence[str]) -> None:
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


class CausalPaddingError(LinseyError, ValueError):
    """Causal padding is asked for where there is no axis of time."""

    def __init__(self, rank: int) -> None:
        super().__init__(
            "Causal padding is only implemented for 1D convolutions: found a kernel "
            f"with {rank} spatial axes.",
            "With several axes it is not known which of them is time.",
            "Pad that axis alone, for example `padding=[(2, 0), (1, 1)]`.",
        )


class DilatedPaddingError(LinseyError, ValueError):
    """A named padding is asked for together with a dilated input."""

    def __init__(self, padding: str, input_dilation: Sequence[int]) -> None:
        rank = len(input_dilation)
        super().__init__(
            f"Padding '{padding}' was given with input_dilation "
            f"{tuple(input_dilation)}.",
            "String padding is not implemented for transposed convolution using this "
            "layer: its size could be meant before or after dilation.",
            f"Write the numbers, `padding={[(1, 1)] * rank}`, or use `ConvTranspose`.",
        )


class PerAxisError(LinseyError, ValueError):
    """A setting has not one entry for each spatial axis."""

    def __init__(self, name: str, value: Any, rank: int) -> None:
        super().__init__(
            f"`{name}` is {value} for a window with {rank} spatial axes.",
            "Each spatial axis needs one entry.",
            f"Write `{name}={(2,) * rank}`, or `{name}=2` for all axes.",
        )


class MaskShapeError(LinseyError, ValueError):
    """A mask does not fit the kernel it is for."""

    def __init__(self, layer: str, mask: Sequence[int], kernel: Sequence[int]) -> None:
        super().__init__(
            "Mask needs to have the same shape as weights. "
            f"Shapes are: {tuple(mask)}, {tuple(kernel)} in `{layer}`.",
            "The mask is multiplied with the kernel, entry by entry.",
            f"Pass a mask of shape {tuple(kernel)}, for example "
            f"`jnp.broadcast_to(mask, {tuple(kernel)})`.",
        )


class FeatureGroupError(LinseyError, ValueError, AssertionError):
    """Features cannot be divided into the groups asked for."""

    def __init__(self, layer: str, which: str, features: int, groups: int) -> None:
        super().__init__(
            f"`{layer}` has feature_group_count={groups} and {features} {which} "
            "features.",
            f"{features} is not a multiple of {groups}: the groups would differ in "
            "size.",
            "Choose a `feature_group_count` that divides both the input features and "
            "`features`.",
        )


class UnsharedGroupsError(LinseyError, NotImplementedError):
    """A locally connected layer is asked for feature groups."""

    def __init__(self, groups: int) -> None:
        super().__init__(
            f"`ConvLocal` was given `feature_group_count` {groups}.",
            "`lax.conv_general_dilated_local` does not support "
            "`feature_group_count != 1`.",
            "Use one group, or `Conv`, which shares its kernel between positions.",
        )


class IntegerInputError(LinseyError, ValueError):
    """An embedding is indexed with something else than integers."""

    def __init__(self, num_embeddings: int, found: object) -> None:
        super().__init__(
            f"Input type must be an integer or unsigned integer: found {found}.",
            f"`Embed` looks up rows 0 to {num_embeddings - 1} of a table.",
            "Convert first: `x.astype('int32')`, or `jnp.asarray(x)` for numbers and "
            "lists.",
        )


class DropoutRateError(LinseyError, ValueError):
    """A dropout rate is no probability."""

    def __init__(self, rate: Any) -> None:
        super().__init__(
            f"`Dropout` has rate={rate}.",
            "It is the probability to drop an entry, in [0, 1].",
            "To keep 90 % of the entries write `Dropout(rate=0.1)`.",
        )


class WindowShapeError(LinseyError, ValueError, AssertionError, TypeError):
    """A pooling window does not fit its input or its strides."""

    def __init__(self, what: str, window_shape: Any, shape: Sequence[int]) -> None:
        super().__init__(
            f"Pooling over a window of shape {window_shape} {what}.",
            "There is one window size and one stride for each spatial axis; the input "
            f"has shape {tuple(shape)}, its last axis holds the features.",
            "For images write `window_shape=(2, 2), strides=(2, 2)`.",
        )


class SequentialLayersError(LinseyError, ValueError):
    """A chain of layers has nothing that can be chained."""

    def __init__(self, found: str) -> None:
        super().__init__(
            found,
            "Its layers are called one after the other, the first with the input.",
            "Write `Sequential([Dense(32), relu, Dense(10)])`.",
        )


class NotAMatrixError(LinseyError, ValueError):
    """A spectral norm is asked for what is no matrix, and that is not allowed."""

    def __init__(self, path: str, shape: Sequence[int]) -> None:
        rank = len(shape)
        super().__init__(
            f"Input is {rank}D but error_on_non_matrix is True: `{path}` has shape "
            f"{tuple(shape)}.",
            "Its spectral norm is that of the matrix of shape (-1, last axis), which "
            "may not be what is meant.",
            "Write `SpectralNorm(layer, error_on_non_matrix=False)` to use that.",
        )


class BatchApplyError(LinseyError, ValueError):
    """No argument has the axes that are to be merged."""

    def __init__(self, num_dims: int) -> None:
        super().__init__(
            f"BatchApply requires at least one input with ndim >= {num_dims}.",
            f"The first {num_dims} axes are merged into one before the call.",
            "Call the function itself, or give `num_dims` the number of batch axes.",
        )
