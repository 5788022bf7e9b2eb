"""How a module looks when printed: its attributes, then its children."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


def module_repr(module: Any, indent: int = 4) -> str:
    """The fields of a module and, if it is bound, the submodules it has so far."""
    if "_phase" not in module.__dict__:
        return object.__repr__(module)
    name = type(module).__name__
    names = module._frame.names if module.scope is not None else {}
    children = {k: v for k, v in names.items() if hasattr(type(v), "_init_fields")}
    pad = " " * indent
    lines = []
    shown = [
        f.name
        for f in dataclasses.fields(module)
        if f.name not in ("parent", "name") and f.repr and f.name not in children
    ]
    if shown:
        lines.append(pad + "# attributes")
        values = {n: _value_repr(getattr(module, n, None)) for n in shown}
        lines += [f"{pad}{n} = {v}" for n, v in values.items()]
    if children:
        lines.append(pad + "# children")
        lines += [
            f"{pad}{n} = " + module_repr(child, indent).replace("\n", "\n" + pad)
            for n, child in children.items()
        ]
    return f"{name}(\n" + "\n".join(lines) + "\n)" if lines else f"{name}()"


def _value_repr(value: Any) -> str:
    if isinstance(value, type) or callable(value):
        named = getattr(value, "__name__", None)
        if named is not None:
            return named
    if isinstance(value, np.dtype):
        return str(value)
    return repr(value).replace("\n", "\n    ")
