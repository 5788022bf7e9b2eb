"""Weights under PyTorch's `weight_norm`, and arrays that have no counterpart here.

`weight_norm` keeps a weight `w` as its direction `v` and its length `g`, in each row or
as a whole: `w = g v / |v|`. `joined` computes `w`; `separated` does the reverse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]

_OLD = re.compile(r"(?P<name>(?:.*\.)?(?:weight|bias)\w*)_g")
_NEW = re.compile(r"(?P<owner>.*?)parametrizations\.(?P<leaf>\w+)\.original0")

_ATTENTION = (
    "`add_bias_kv` of `MultiheadAttention`, which linsey's attention layers do not "
    "have; an attention module of your own with a parameter of this name takes it"
)
_PROJECTION = (
    "`proj_size` of `LSTM`, which linsey's cells do not have; a cell of your own "
    "with a parameter of this name takes it"
)
_SPECTRAL = (
    "`spectral_norm` in PyTorch: save the state dict after "
    "`torch.nn.utils.remove_spectral_norm(layer)`"
)
_SPECTRAL_TOO = (
    "`spectral_norm` or another parametrization in PyTorch: save the state dict after "
    "`torch.nn.utils.parametrize.remove_parametrizations(layer, name)`"
)
_REASONS = (
    (re.compile(r"(?:.*\.)?bias_[kv]"), _ATTENTION),
    (re.compile(r"(?:.*\.)?weight_hr(?:_l\d+(?:_reverse)?)?"), _PROJECTION),
    (re.compile(r"(?:.*\.)?weight\w*_(?:orig|u|v)"), _SPECTRAL),
    (re.compile(r"(?:.*\.)?parametrizations\..*"), _SPECTRAL_TOO),
)


def why_unsupported(name: str) -> str:
    """Say what an array of PyTorch belongs to, if linsey cannot convert it.

    Example:
        >>> why_unsupported("attention.bias_k")[:37]
        '`add_bias_kv` of `MultiheadAttention`'
        >>> why_unsupported("fc.weight")
        ''
    """
    return next((why for pattern, why in _REASONS if pattern.fullmatch(name)), "")


def normed_pairs(arrays: Arrays) -> Iterator[tuple[str, str, str]]:
    """Find the weights under `weight_norm`: the names of weight, length, direction.

    Example:
        >>> one = np.ones((1, 1))
        >>> list(normed_pairs({"fc.weight_g": one, "fc.weight_v": one}))
        [('fc.weight', 'fc.weight_g', 'fc.weight_v')]
    """
    for length in arrays:
        if found := _OLD.fullmatch(length):
            name, direction = found["name"], f"{found['name']}_v"
        elif found := _NEW.fullmatch(length):
            name = found["owner"] + found["leaf"]
            direction = f"{length.removesuffix('0')}1"
        else:
            continue
        if name not in arrays and direction in arrays:
            if _is_length(arrays[length].shape, arrays[direction].shape):
                yield name, length, direction


def joined(arrays: Arrays) -> dict[str, np.ndarray]:
    """Replace lengths and directions by the weights that they are.

    Args:
        arrays: a state dict of PyTorch.

    Returns:
        The arrays in the same order; a weight takes the place of its length.

    Example:
        >>> joined({"weight_g": np.array([[10.0]]), "weight_v": np.array([[3.0, 4.0]])})
        {'weight': array([[6., 8.]])}
    """
    pairs = {length: (name, other) for name, length, other in normed_pairs(arrays)}
    directions = {other for _, other in pairs.values()}
    found = {}
    for name, array in arrays.items():
        if name in pairs:
            weight, direction = pairs[name]
            found[weight] = _weight(array, arrays[direction])
        elif name not in directions:
            found[name] = array
    return found


def separated(arrays: Arrays, like: Arrays) -> dict[str, np.ndarray]:
    """Replace weights by lengths and directions: the inverse of `joined`.

    Args:
        arrays: arrays with the names of `joined(like)`.
        like: a state dict of PyTorch. Lengths and directions of weights that have not
            changed are kept bit by bit.

    Example:
        >>> like = {"weight_g": np.ones((1, 1)), "weight_v": np.ones((1, 2))}
        >>> separated({"weight": np.array([[6.0, 8.0]])}, like)
        {'weight_g': array([[10.]]), 'weight_v': array([[6., 8.]])}
    """
    found = dict(arrays)
    for name, length, direction in normed_pairs(like):
        weight, g, v = found[name], like[length], like[direction]
        if weight.tobytes() != _weight(g, v).tobytes():
            g, v = _norm(weight, g.shape).astype(g.dtype), weight.astype(v.dtype)
        found |= {length: g, direction: v}
    return {name: found[name] for name in like}


def _is_length(length: tuple[int, ...], direction: tuple[int, ...]) -> bool:
    """Tell whether a shape is that of norms over all axes, or over all but one."""
    if not length:
        return True
    return len(length) == len(direction) and sum(a != 1 for a in length) < 2 and all(
        a in (1, b) for a, b in zip(length, direction, strict=True)
    )  # fmt: skip


def _norm(v: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    wide = v.astype(np.float64)
    squares = (wide * wide).sum(axes if shape else None, keepdims=bool(shape))
    return np.sqrt(squares)


def _weight(g: np.ndarray, v: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):  # as PyTorch for a zero row
        weight = v.astype(np.float64) * (g.astype(np.float64) / _norm(v, g.shape))
    return weight.astype(v.dtype)
