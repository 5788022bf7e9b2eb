"""How a module looks when printed: its attributes, then its children."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


def module_repr(module: Any) -> str:
    """The fields of a module and, if it is bound, the submodules it has so far."""
    if "_phase" not in module.__dict__:
        return object.__repr__(module)
    names = module._frame.names if module.scope is not None else {}
    children = {
        name: module_repr(child)
        for name, child in names.items()
        if hasattr(type(child), "_init_fields")
    }
    attributes = {
        f.name: _value_repr(getattr(module, f.name, None))
        for f in dataclasses.fields(module)
        if f.repr and f.name not in ("parent", "name", *children)
    }
    lines = []
    for title, texts in (("# attributes", attributes), ("# children", children)):
        if texts:
            lines += [title, *(f"{name} = {text}" for name, text in texts.items())]
    body = "".join(f"\n{line}".replace("\n", "\n    ") for line in lines)
    return (
        f"{type(module).__name__}({body}\n)" if lines else f"{type(module).__name__}()"
    )


def _value_repr(value: Any) -> str:
    if isinstance(value, np.dtype):
        return str(value)
    name = getattr(value, "__name__", None) if callable(value) else None
    return repr(value) if name is None else name
