"""Options of batch normalization that all layers of an architecture share."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence

from jax import Array

from linsey.errors import ArgumentTypeError, OptionError
from linsey.linen.normalization.batch import Bounds


@dataclasses.dataclass(frozen=True)
class BatchNormOptions:
    """Options of `linsey.linen.BatchNorm`, where each is described in detail.

    Attributes:
        momentum: fraction of the old average that is kept, in [0, 1]; PyTorch's is
            `1 - momentum`. If `None`, the plain average of all batches is taken.
        epsilon: number added to the variance.
        unbiased_variance: whether the running variance is that of `n - 1` degrees of
            freedom, as in PyTorch.
        axis_name: name or names of mapped axes that belong to the batch.
        group_size: number of examples that are normalized together.
        renorm: bounds `(r_max, d_max)` of batch renormalization, or a function from
            the number of updates to them.
        frozen: whether the layers are frozen in training: `True`, or only their
            `"statistics"` or `"affine"` parameters.
        nonfinite: how a batch with NaN or infinite values affects the statistics:
            `"skip"`, `"propagate"` or `"error"`.
        count_updates: whether updates are counted in the collection `batch_counts`.
        save_memory: whether to keep one array for each layer instead of two.

    Example:
        >>> from linsey import models
        >>> frozen = models.BatchNormOptions(frozen=True)
        >>> models.resnet18(10, batch_norm=frozen).batch_norm.frozen
        True
    """

    momentum: float | None = 0.9
    epsilon: float = 1e-5
    unbiased_variance: bool = True
    axis_name: str | Sequence[str] | None = None
    group_size: int | None = None
    renorm: Bounds | Callable[[Array], Bounds] | None = None
    frozen: bool | str = False
    nonfinite: str = "skip"
    count_updates: bool = False
    save_memory: bool = False


GivenBatchNorm = BatchNormOptions | Mapping[str, object] | None


def batch_norm_options(
    given: GivenBatchNorm, usual: BatchNormOptions
) -> BatchNormOptions:
    """Return the options of an architecture.

    Args:
        given: all options, some options by name, or `None`.
        usual: defaults of the architecture, for options that are not given.

    Raises:
        OptionError: there is no option of that name.
        ArgumentTypeError: `given` is something else.

    Example:
        >>> batch_norm_options({"group_size": 32}, BatchNormOptions(0.99)).momentum
        0.99
    """
    if given is None:
        return usual
    if isinstance(given, BatchNormOptions):
        return given
    if not isinstance(given, Mapping):
        raise ArgumentTypeError(
            f"`batch_norm` is of type {type(given).__name__}.",
            "It holds options of `BatchNorm` by name.",
            'Write `batch_norm={"momentum": 0.9}`.',
        )
    names = [field.name for field in dataclasses.fields(BatchNormOptions)]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise OptionError(
                f"`batch_norm` has the option {name!r}.",
                f"The options are {', '.join(names)}.",
                f"Write {(near[0] if near else names[0])!r} instead.",
            )
    return dataclasses.replace(usual, **given)  # type: ignore[arg-type]
