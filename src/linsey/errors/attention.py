"""Misuse of attention: shapes that do not belong together, masks, caches and hooks.

Each class also derives from the built-in exceptions that programs written for Flax
catch at the same place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from linsey.errors.base import LinseyError


class AttentionShapeError(LinseyError, AssertionError, ValueError, IndexError):
    """Query, key and value have shapes that do not belong together."""

    def __init__(self, problem: str, shapes: Mapping[str, Sequence[int]]) -> None:
        found = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        super().__init__(
            f"{problem} Found {found}.",
            "Each query is compared with every key of its batch entry and head, and "
            "each key has one value.",
            "Give arrays of shape (..., length, heads, depth) with the same batch axes "
            "and heads; `key` has the depth of `query` and the length of `value`.",
        )


class AttentionHeadsError(LinseyError, AssertionError):
    """The features cannot be divided among the heads."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__(
            f"Memory dimension ({features}) must be divisible by number of heads "
            f"({heads}).",
            "Each head works on `qkv_features // num_heads` features.",
            f"Write for example `qkv_features={-(-features // heads) * heads}`; without"
            " it the width of `inputs_q` is taken.",
        )


class AttentionInputsError(LinseyError, ValueError):
    """It is unclear what keys and values are made from."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            problem,
            "Without `inputs_k` the keys are made from `inputs_q`, and without "
            "`inputs_v` the values from what the keys are made from.",
            "Write `layer(inputs_q)`, `layer(inputs_q, inputs_k)` or "
            "`layer(inputs_q, inputs_k, inputs_v)`.",
        )


class AttentionHooksError(LinseyError, ValueError):
    """Functions that compute the products of attention contradict each other."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            problem,
            "The einsum functions compute both products of attention and choose "
            "precision and dot product themselves.",
            "Give both einsum functions and nothing else, or neither.",
        )


class AttentionMaskError(LinseyError, ValueError):
    """A mask has a shape that does not fit the attention weights."""

    def __init__(self, mask: Sequence[int], weights: Sequence[int]) -> None:
        super().__init__(
            "Incompatible shapes for broadcasting: the mask has shape "
            f"{tuple(mask)}, the attention weights {tuple(weights)}.",
            "The axes of the weights are (..., heads, queries, keys).",
            "Make it with `make_attention_mask` or `make_causal_mask`, which give "
            "the shape (batch, 1, queries, keys).",
        )


class MaskRanksError(LinseyError, AssertionError):
    """Masks of different ranks are combined."""

    def __init__(self, ranks: Sequence[int]) -> None:
        super().__init__(
            f"masks must have same rank: {tuple(ranks)}",
            "It is unknown which axes of the smaller one are missing.",
            "Add axes of size 1, for example `mask[:, None]` for the heads.",
        )


class CacheShapeError(LinseyError, ValueError):
    """A query does not fit the cache of autoregressive decoding."""

    def __init__(self, expected: Sequence[int], found: Sequence[int]) -> None:
        super().__init__(
            "Autoregressive cache shape error, expected query shape "
            f"{tuple(expected)} instead got {tuple(found)}.",
            "With `decode=True` one position is decoded at a time, and the cache has "
            "the batch shape that `init` was called with.",
            "Call `apply` with inputs of length 1, for example `x[:, i : i + 1]`, or "
            "make the cache anew with `init` and inputs of the full length.",
        )
