"""The state of an optimizer in words: what it holds, not where optax keeps it.

Optax nests states as its transformations are nested, in tuples without names: the
momentum of `chain(add_decayed_weights(...), sgd(...))` is `1/0/trace`. Checkpoints keep
this name. For human readers, the numbers are left out and known fields get names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_WORDS = {
    "trace": "momentum",
    "mu": "first moments",
    "nu": "second moments",
    "nu_max": "largest second moments",
    "count": "steps counted",
    "mini_step": "batches accumulated",
    "gradient_step": "steps done",
    "acc_grads": "accumulated gradients",
    "ema": "averages",
    "sum_of_squares": "sums of squared gradients",
    "v_row": "second moments of rows",
    "v_col": "second moments of columns",
    "v": "second moments",
    "hyperparams": "hyperparameters",
    "notfinite_count": "steps in a row that were not finite",
    "total_notfinite": "steps that were not finite",
}
_WRAPPERS = ("inner_state", "inner_opt_state", "inner_states", "base_optimizer_state")
"""Fields that hold states of other transformations."""


def in_words(state: Mapping[str, Any]) -> dict[str, Any]:
    """Name the parts of an optimizer state.

    Args:
        state: the state as nested dictionaries, as a checkpoint has it.

    Returns:
        The parts of the state by name, each with its path in the checkpoint. Parts
        without any array are left out; the inside of a part is unchanged.

    Example:
        >>> state = {"0": {"inner_state": {}},
        ...          "1": {"0": {"trace": {"Dense_0": 0.5}}, "1": {"count": 3}}}
        >>> in_words(state)
        {'momentum (1/0/trace)': {'Dense_0': 0.5}, 'steps counted (1/1/count)': 3}
    """
    found = {}
    for path, value in _parts(state, ()):
        told = [_WORDS.get(name, name) for name in path if not _is_nesting(name)]
        place = "/".join(path)
        found[f"{' of '.join(told[::-1])} ({place})" if told else place] = value
    return found


def _is_nesting(name: str) -> bool:
    return name.isdecimal() or name in _WRAPPERS


def _parts(
    state: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each part with its path: the first field that is known, or an array."""
    for name, value in state.items():
        is_leaf = not isinstance(value, Mapping)
        if name in _WORDS or is_leaf:
            if is_leaf or value:
                yield (*path, name), value
        else:
            yield from _parts(value, (*path, name))
