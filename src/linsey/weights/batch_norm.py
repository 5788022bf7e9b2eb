"""Options of batch normalization, which a state dict does not contain."""

from __future__ import annotations

from typing import Any

from linsey.errors import MismatchError, UsageError


def batch_norm_options(module: Any) -> dict[str, Any]:
    """Convert the options of the batch norms of a PyTorch module to ours.

    PyTorch's `momentum` is the fraction of the new batch, ours that of the old average.
    Its running variance has `n - 1` degrees of freedom.

    Args:
        module: a `torch.nn.Module`.

    Returns:
        `momentum`, `epsilon` and `unbiased_variance`, to be passed to
        `linsey.linen.BatchNorm`, or to an architecture as `batch_norm`.

    Raises:
        MismatchError: the batch norms have different options.
        UsageError: the module has no batch norm.

    Example:
        >>> from types import SimpleNamespace
        >>> norm = SimpleNamespace(momentum=0.1, eps=1e-5, running_mean=None)
        >>> theirs = SimpleNamespace(named_modules=lambda: [("bn1", norm)])
        >>> batch_norm_options(theirs)
        {'momentum': 0.9, 'epsilon': 1e-05, 'unbiased_variance': True}
    """
    found = {
        path: (kept_fraction(layer), float(layer.eps))
        for path, layer in module.named_modules()
        if hasattr(layer, "running_mean") and hasattr(layer, "eps")
    }
    if not found:
        raise UsageError(
            f"`{type(module).__name__}` has no layer with running statistics.",
            "Options are those of its batch norms.",
            "Leave the call out.",
        )
    different = {options: path for path, options in found.items()}
    if len(different) > 1:
        lines = [
            f"`{path}`: momentum {momentum}, epsilon {epsilon}"
            for (momentum, epsilon), path in different.items()
        ]
        raise MismatchError(
            f"The batch norms differ: {'; '.join(lines)}.",
            "One set of options cannot be that of all.",
            "Give each layer its own.",
        )
    ((momentum, epsilon),) = different
    return {"momentum": momentum, "epsilon": epsilon, "unbiased_variance": True}


def kept_fraction(layer: Any) -> float | None:
    """Convert the momentum of a PyTorch layer to ours: the fraction that is kept."""
    return None if layer.momentum is None else round(1 - layer.momentum, 12)
