"""Tables of the modules that a model calls, with shapes, sizes and FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from linsey.core.filters import Filter
from linsey.linen.module import Module
from linsey.linen.module.base import RNGs
from linsey.linen.module.functional import CREATED
from linsey.linen.summary.calls import Call, Path, first_calls, record_calls
from linsey.linen.summary.flops import forward_flops, vjp_flops
from linsey.linen.summary.render import Table, find_style, render_plain, render_rich
from linsey.linen.summary.represent import (
    PLAIN,
    Style,
    represent,
    represent_inputs,
    represent_size,
)
from linsey.traverse_util import flatten_dict, unflatten_dict
from linsey.typing import Collection, VariableDict

__all__ = ["module_paths", "tabulate"]

Calls = list[Call]
Counts = dict[str, Callable[[Call], int | None]]


def tabulate(
    module: Module,
    rngs: RNGs,
    depth: int | None = None,
    show_repeated: bool = False,
    mutable: Filter = CREATED,
    console_kwargs: Mapping[str, Any] | None = None,
    table_kwargs: Mapping[str, Any] = {},
    column_kwargs: Mapping[str, Any] = {},
    compute_flops: bool = False,
    compute_vjp_flops: bool = False,
    **kwargs: object,
) -> Callable[..., str]:
    """Return a function that draws a table of the modules that a model calls.

    The model is traced and never run, so its arguments may be `jax.ShapeDtypeStruct`s.
    Rows are in the order of the calls, collections in alphabetical order. If rich is
    not installed, the table is drawn with plain characters.

    Args:
        module: the model.
        rngs: one key (the stream `params`) or `{stream: key}`.
        depth: maximum depth of the modules that are shown; the variables of deeper ones
            are counted with those of the nearest module above them that is shown.
        show_repeated: whether to show repeated calls of a module.
        mutable: the collections to create.
        console_kwargs: arguments of `rich.console.Console`, such as `width`.
        table_kwargs: further arguments of `rich.table.Table`.
        column_kwargs: further arguments of `rich.table.Table.add_column`.
        compute_flops: whether to show the FLOPs of each call, as estimated by the
            compiler. A cell is empty if the call cannot be repeated in isolation.
        compute_vjp_flops: whether to show the FLOPs of each call and its reverse-mode
            derivative; 0 if it has none.
        **kwargs: further arguments of `Module.init`, such as `method`.

    Returns:
        A function that takes the arguments of the model and returns the table.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> key, x = jax.random.key(0), jnp.ones((4, 8))
        >>> draw = tabulate(nn.Dense(3), key, console_kwargs={"color_system": None})
        >>> print(draw(x).strip())
        Dense Summary
        ┏━━━━━━┳━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━┓
        ┃ path ┃ module ┃ inputs       ┃ outputs      ┃ params               ┃
        ┡━━━━━━╇━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━┩
        │      │ Dense  │ float32[4,8] │ float32[4,3] │ bias: float32[3]     │
        │      │        │              │              │ kernel: float32[8,3] │
        │      │        │              │              │                      │
        │      │        │              │              │ 27 (108 B)           │
        ├──────┼────────┼──────────────┼──────────────┼──────────────────────┤
        │      │        │              │        Total │ 27 (108 B)           │
        └──────┴────────┴──────────────┴──────────────┴──────────────────────┘
        <BLANKLINE>
        Total Parameters: 27 (108 B)
    """

    def draw(*args: object, **call_kwargs: object) -> str:
        calls, variables = record_calls(
            module, rngs, mutable, args, {**call_kwargs, **kwargs}
        )
        shown = calls if show_repeated else first_calls(calls)
        if depth is not None:
            shown = [call for call in shown if len(call.path) <= depth]
        style = find_style()
        counts: Counts = {}
        if compute_flops:
            counts["flops"] = lambda call: forward_flops(call, rngs, mutable)
        if compute_vjp_flops:
            counts["vjp_flops"] = lambda call: vjp_flops(call, rngs, mutable)
        title = f"{type(module).__name__} Summary"
        table = _table(title, calls, shown, variables, counts, style)
        if style is PLAIN:
            return render_plain(table)
        return render_rich(table, console_kwargs, table_kwargs, column_kwargs)

    return draw


def module_paths(
    module: Module,
    rngs: RNGs,
    show_repeated: bool,
    mutable: Filter,
    args: tuple[object, ...],
    kwargs: Mapping[str, Any],
) -> dict[str, Module]:
    """Return unbound copies of the modules that a call uses, by path (`"a/b"`).

    Args:
        module: the model, under the path `""`.
        rngs: one key or `{stream: key}`.
        show_repeated: whether to copy the module of the last call at a path instead of
            the first.
        mutable: the collections to create.
        args: arguments of the call.
        kwargs: keyword arguments of `Module.init`.
    """
    calls, _ = record_calls(module, rngs, mutable, args, kwargs)
    shown = calls if show_repeated else first_calls(calls)
    return {"/".join(call.path): call.module for call in shown}


def _table(
    title: str,
    calls: Calls,
    shown: Calls,
    variables: VariableDict,
    counts: Counts,
    style: Style,
) -> Table:
    collections = sorted(variables)
    own = [_by_module(variables[col], calls) for col in collections]
    counted = [_by_module(variables[col], shown) for col in collections]
    rows = []
    for call in shown:
        method = "" if call.method == "__call__" else style.dim(f"({call.method})")
        row = [
            "/".join(call.path),
            f"{type(call.module).__name__} {method}".rstrip(),
            represent_inputs(call, style),
            represent(call.outputs, style),
        ]
        row += [_text(count(call)) for count in counts.values()]
        for of_col, counted_of_col in zip(own, counted, strict=True):
            # Remove the variables, so that they are shown only at the first call.
            text = represent(of_col.pop(call.path, {}), style)
            size = represent_size(counted_of_col.pop(call.path, {}), style)
            size = style.bold(size) if size else ""
            row.append(f"{text}\n\n{size}" if text else size)
        rows.append(row)
    header = ["path", "module", "inputs", "outputs", *counts, *collections]
    totals = [represent_size(variables[col], style) for col in collections]
    footer = [""] * (3 + len(counts)) + ["Total", *totals]
    caption = f"Total Parameters: {represent_size(variables, style)}"
    return Table(title, header, rows, footer, caption)


def _text(count: int | None) -> str:
    return "" if count is None else str(count)


def _by_module(collection: Collection, calls: Calls) -> dict[Path, Any]:
    """Return the variables of each module, without those of modules that it calls."""
    found: dict[Path, Any] = {call.path: {} for call in calls}
    for names, value in flatten_dict(collection).items():
        for i in reversed(range(len(names))):
            if names[:i] in found:
                found[names[:i]][names[i:]] = value
                break
    return {path: unflatten_dict(flat) for path, flat in found.items()}


def tabulate_method(
    self: Module,
    rngs: RNGs,
    *args: object,
    depth: int | None = None,
    show_repeated: bool = False,
    mutable: Filter = CREATED,
    console_kwargs: Mapping[str, Any] | None = None,
    table_kwargs: Mapping[str, Any] = {},
    column_kwargs: Mapping[str, Any] = {},
    compute_flops: bool = False,
    compute_vjp_flops: bool = False,
    **kwargs: object,
) -> str:
    """Return a table of the submodules, with shapes, sizes and, on request, FLOPs."""
    rows = (depth, show_repeated, mutable)
    looks = (console_kwargs, table_kwargs, column_kwargs)
    flops = (compute_flops, compute_vjp_flops)
    return tabulate(self, rngs, *rows, *looks, *flops)(*args, **kwargs)


def module_paths_method(
    self: Module,
    rngs: RNGs,
    *args: object,
    show_repeated: bool = False,
    mutable: Filter = CREATED,
    **kwargs: object,
) -> dict[str, Module]:
    """Return the submodules that a call uses, by path (`"a/b"`)."""
    return module_paths(self, rngs, show_repeated, mutable, args, kwargs)


# `Module` declares these two methods; it cannot import this package.
Module.tabulate = tabulate_method
Module.module_paths = module_paths_method
