"""Values as text for the cells of a table; nested values look like YAML.

Example:
    >>> import jax, jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    >>> print(represent({"a": x, "b": [1, {"c": None}]}, PLAIN))
    a: float32[4,8]
    b:
    - 1
    - c: None
    >>> represent_size([x], PLAIN)
    '32 (128 B)'
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping

import jax
import numpy as np

from linsey.core.meta import AxisMetadata
from linsey.linen.module import Module
from linsey.linen.summary.calls import Call, arrays_of, is_array


@dataclasses.dataclass(frozen=True)
class Style:
    """The functions with which a renderer marks up text.

    Attributes:
        dim: for less important text.
        bold: for more important text.
        literal: for text from the user, to be shown literally.
    """

    dim: Callable[[str], str]
    bold: Callable[[str], str]
    literal: Callable[[str], str]


PLAIN = Style(dim=str, bold=str, literal=str)


def represent(value: object, style: Style) -> str:
    """Return the text of a value, which is empty for empty containers.

    Args:
        value: a tree with abstract arrays.
        style: the markup of dtypes.
    """
    value = _simplified(value)
    is_empty = isinstance(value, (dict, list)) and not value
    return "" if is_empty else "\n".join(_lines(value, style))


def represent_inputs(call: Call, style: Style) -> str:
    """Return the text of the arguments of a call, without unnecessary nesting."""
    args, kwargs = call.args, call.kwargs
    if not kwargs:
        return represent(args[0] if len(args) == 1 else args, style)
    return represent((*args, kwargs) if args else kwargs, style)


def represent_size(tree: object, style: Style) -> str:
    """Return the number of values in a tree and of their bytes, as text, if any."""
    arrays = arrays_of(tree)
    count = sum(x.size * x.dtype.itemsize for x in arrays)
    size = sum(x.size for x in arrays)
    return f"{size:,} " + style.dim(f"({_bytes(count)})") if size else ""


def _bytes(count: int) -> str:
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count > scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count:,} B"


def _simplified(value: object) -> object:
    """Convert a container to a dict or a list; return anything else unchanged."""
    if isinstance(value, Mapping):
        try:
            return {key: value[key] for key in sorted(value)}
        except TypeError:  # the keys cannot be compared
            return dict(value)
    if isinstance(value, (list, tuple)):
        return list(value)
    is_leaf = value is None or jax.tree_util.all_leaves([value])
    if is_leaf or isinstance(value, AxisMetadata):
        return value
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return jax.tree.leaves(value, is_leaf=lambda x: x is not value)


def _lines(value: object, style: Style) -> list[str]:
    value = _simplified(value)
    if not isinstance(value, (dict, list)):
        return [_leaf(value, style)]
    if not value:
        return ["{}" if isinstance(value, dict) else style.literal("[]")]
    lines = []
    if isinstance(value, list):
        for item in value:
            first, *rest = _lines(item, style)
            lines += [f"- {first}", *("  " + line for line in rest)]
        return lines
    for key, item in value.items():
        inner, item = _lines(item, style), _simplified(item)
        name = key.value if isinstance(key, enum.Enum) else key
        name = style.literal(f"{name}:")
        if isinstance(item, (dict, list)) and item:
            indent = "  " if isinstance(item, dict) else ""
            lines += [name, *(indent + line for line in inner)]
        else:
            lines.append(f"{name} {inner[0]}")
    return lines


def _leaf(value: object, style: Style) -> str:
    if is_array(value):
        shape = ",".join(map(str, value.shape))
        return style.dim(style.literal(str(value.dtype))) + f"[{shape}]"
    if isinstance(value, AxisMetadata):
        text = " ".join(_lines(value.unbox(), style))
        names = getattr(value, "names", None)
        if names is None:
            return text
        return f"{text} {style.dim('P')}{style.literal(_axes(names))}"
    if isinstance(value, Module):
        return type(value).__name__
    if isinstance(value, enum.Enum):
        return style.literal(repr(value).replace("'", ""))
    if isinstance(value, (type, np.dtype)):
        return style.literal(getattr(value, "__name__", str(value)))
    return style.literal(" ".join(str(value).split()))


def _axes(names: object) -> str:
    """Return the text of axis names, a (possibly nested) tuple, without quotes."""
    if not isinstance(names, tuple):
        return str(names)
    end = "," if len(names) == 1 else ""
    return f"({', '.join(map(_axes, names))}{end})"
