"""Option names and small functions of classification metrics."""

from __future__ import annotations

import enum
from typing import Self

import jax
import jax.numpy as jnp


class _Word(enum.Enum):
    """Base of enumerations whose members are also accepted as strings."""

    @classmethod
    def of(cls, word: object) -> Self:
        """Return the member with a name, ignoring case; return a member unchanged.

        Raises:
            KeyError: there is no such member.
        """
        if isinstance(word, cls):
            return word
        return cls[str(word).upper().replace("-", "_").replace(" ", "_")]


class DataType(_Word):
    """The types of targets and predictions."""

    BINARY = "binary"
    MULTILABEL = "multi-label"
    MULTICLASS = "multi-class"
    MULTIDIM_MULTICLASS = "multi-dim multi-class"

    @classmethod
    def of(cls, word: object) -> Self:
        """Return the member with a name or value; see `_Word.of`."""
        try:
            return cls(word.lower() if isinstance(word, str) else word)
        except ValueError:
            return super().of(word)


class AverageMethod(_Word):
    """The ways of averaging the values of the classes."""

    MICRO = "micro"
    MACRO = "macro"
    WEIGHTED = "weighted"
    NONE = "none"
    SAMPLES = "samples"


class MDMCAverageMethod(_Word):
    """The ways of treating additional axes."""

    GLOBAL = "global"
    SAMPLEWISE = "samplewise"


def select_topk(prob_array: jax.Array, topk: int = 1, dim: int = 1) -> jax.Array:
    """Return 1 for the k largest entries along an axis, and 0 for all others.

    Example:
        >>> select_topk(jnp.array([[0.1, 0.7, 0.2]]), topk=2).tolist()
        [[0, 1, 1]]
    """
    scores = jnp.moveaxis(prob_array, dim, -1)
    _, chosen = jax.lax.top_k(scores, topk)
    ones = jax.nn.one_hot(chosen, scores.shape[-1], dtype=jnp.int32).sum(axis=-2)
    return jnp.moveaxis(ones, -1, dim)
