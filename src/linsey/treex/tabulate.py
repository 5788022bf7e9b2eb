"""Tables of modules, for terminals."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from linsey.errors.base import ArgumentTypeError, named
from linsey.treex.contexts import CALLS, Calls, entered
from linsey.treex.treeo import MISSING, FieldInfo, Tree, add_field_info, copy
from linsey.treex.treeo.flatten import discover
from linsey.treex.treeo.sentinels import ArrayLike
from linsey.treex.types import Initializer, Inputs, TreePart

Counts = dict[type | None, tuple[int, int]]  # for each kind: entries and bytes
_LINE = 40
_CODES = re.compile(r"\x1b\[[\d;]*m")


def tabulate(
    module: Tree, inputs: object, depth: int, signature: bool, param_types: bool
) -> str:
    """Draw the table; see `Module.tabulate`."""
    module = copy(module)
    entries = list(_entries(module, "", depth))
    everything = _count(module)
    found = dict.fromkeys(kind for _, _, totals in entries for kind in totals)
    kinds = [kind for kind in found if kind is not None]
    cells = [
        [
            path or "*",
            _module_cell(tree, signature),
            "\n".join(_params(tree, param_types)),
            *(_size(totals.get(kind)) for kind in kinds),
        ]
        for path, tree, totals in entries
    ]
    columns = ["path", "module", "params"]
    if inputs is not MISSING:
        calls = _shapes_of_calls(module, Inputs.from_value(inputs))
        columns += ["inputs", "outputs"]
        for row, (_, tree, _) in zip(cells, entries, strict=True):
            given, made = calls.get(id(tree), (None, None))
            row[3:3] = ["" if given is None else _inputs_cell(given), _value_cell(made)]
    footer = [""] * (len(columns) - 1) + ["Total:"]
    footer += [_size(everything.get(kind)) for kind in kinds]
    columns += [kind.__name__.lstrip("_") for kind in kinds]
    number = sum(number for number, _ in everything.values())
    size = sum(size for _, size in everything.values())
    caption = f"Total Parameters: [bold]{number:,}[/]  [dim]{_bytes(size)}[/]"
    return _draw(type(module).__name__, columns, cells, footer, caption)


def _draw(
    title: str, columns: list[str], cells: list[list[str]], footer: list[str],
    caption: str,
) -> str:  # fmt: skip
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"[bold]{title} Summary[/]",
        caption=f"\n{caption}",
        show_lines=True,
        show_footer=True,
        title_justify="left",
        caption_justify="left",
    )
    for name, total in zip(columns, footer, strict=True):
        table.add_column(name, footer=total, overflow="fold")
    for row in cells:
        table.add_row(*row)
    console = Console(force_terminal=True, color_system="standard", no_color=False)
    with console.capture() as captured:
        console.print(table)
    return Drawn(captured.get())


class Drawn(str):
    """A text with terminal escape codes, which `print` omits if there is no terminal.

    The text itself always has the codes, since programs look for them.
    """

    def __str__(self) -> str:
        """Return the text to print, without codes if the output is not a terminal."""
        from rich.console import Console

        return str.__str__(self) if Console().is_terminal else _CODES.sub("", self)


def _entries(tree: Tree, path: str, depth: int) -> Iterator[tuple[str, Tree, Counts]]:
    """Yield a tree and, down to a depth, its subtrees, with paths and own counts."""
    yield path, tree, _count(tree, own=depth != 0)
    for name in discover(tree).layout.nodes if depth else ():
        found = jax.tree_util.tree_flatten_with_path(
            getattr(tree, name), is_leaf=lambda value: isinstance(value, Tree)
        )[0]
        for keys, value in found:
            if isinstance(value, Tree):
                inner = f"{path}.{name}{''.join(map(_key, keys))}"
                yield from _entries(value, inner, depth - 1)


def _key(key: object) -> str:
    if isinstance(key, jax.tree_util.SequenceKey):
        return rf"\[{key.idx}]"
    if isinstance(key, jax.tree_util.DictKey):
        text = f'"{key.key}"' if isinstance(key.key, str) else str(key.key)
        return rf"\[{text}]"
    return str(key)


def _count(tree: Tree, own: bool = False) -> Counts:
    """Count entries and bytes of leaves by kind, of all or only of the tree's own."""
    with add_field_info():
        leaves = jax.tree.leaves(tree, is_leaf=lambda x: type(x) is FieldInfo)
    counts: Counts = {}
    for info in leaves:
        if type(info) is not FieldInfo or (own and info.module is not tree):
            continue
        kind = info.kind if issubclass(info.kind, TreePart) else None
        number, size = counts.get(kind, (0, 0))
        counts[kind] = (
            number + getattr(info.value, "size", 0),
            size + getattr(info.value, "nbytes", 0),
        )
    return counts


def _size(pair: tuple[int, int] | None) -> str:
    if not pair or not pair[0]:
        return ""
    return f"[green]{pair[0]:,}[/]  [dim]{_bytes(pair[1])}[/]"


def _bytes(size: float) -> str:
    if size <= 1000:
        return f"{size}B"
    for unit in ("KB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:,.1f}{unit}"
    return f"{size / 1000:,.1f}GB"


def _module_cell(tree: Tree, signature: bool) -> str:
    cls = type(tree)
    if not signature:
        return f"{cls.__name__}()"
    arguments = [
        f"{name} = {_argument(value)}"
        for name in inspect.signature(cls).parameters
        if name in vars(tree) and _is_simple(value := vars(tree)[name])
    ]
    text = ", ".join(arguments)
    if len(text) > _LINE:
        lines = "".join(f"    {argument},\n" for argument in arguments)
        return f"{cls.__name__}(\n{lines})"
    return f"{cls.__name__}({text})"


def _is_simple(value: object) -> bool:
    return all(
        isinstance(leaf, int | float | str)
        or (isinstance(leaf, ArrayLike) and leaf.shape == () and not callable(leaf))
        for leaf in jax.tree.leaves(value)
    ) and not isinstance(value, Tree)


def _argument(value: Any) -> str:
    if isinstance(value, list | tuple):
        inner = ", ".join(map(_argument, value))
        return rf"\[{inner}]" if isinstance(value, list) else f"({inner})"
    if isinstance(value, dict):
        inner = ", ".join(f"{k}: {_argument(v)}" for k, v in value.items())
        return f"{{{inner}}}"
    if isinstance(value, ArrayLike) and not isinstance(value, jax.core.Tracer):
        value = value.item() if hasattr(value, "item") else value
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, float):
        size = abs(value)
        if value and (size < 1e-2 or size >= 1000):
            return f"{value:.2e}"
        digits = 3 if size < 1 else 2 if size < 100 else 1
        return f"{value:.{digits}f}"
    return str(value)


def _params(tree: Tree, param_types: bool) -> list[str]:
    layout = discover(tree).layout
    lines: list[str] = []
    for name in layout.nodes:
        kind = layout.metadata[name].kind
        if issubclass(kind, TreePart):
            label = kind.__name__ if param_types else ""
            lines += _labelled(name, getattr(tree, name), label)
    return lines


def _yaml(value: object, kind: str = "") -> list[str]:
    """Return the lines of a value, with containers nested as in YAML."""
    if isinstance(value, Mapping):
        return [line for k, v in value.items() for line in _labelled(str(k), v, kind)]
    if isinstance(value, list | tuple):
        return [line for v in value for line in _item(v, kind)]
    return [_leaf(value, kind)]


def _labelled(label: str, value: object, kind: str = "") -> list[str]:
    lines = _yaml(value, kind)
    if isinstance(value, Mapping):
        return [f"{label}:", *(f"  {line}" for line in lines)]
    if isinstance(value, list | tuple):  # not indented: columns are narrow
        return [f"{label}:", *lines]
    return [f"{label}: {lines[0]}"]


def _item(value: object, kind: str = "") -> list[str]:
    first, *rest = _yaml(value, kind) or ["-"]
    return [f"- {first}", *(f"  {line}" for line in rest)]


def _leaf(value: object, kind: str) -> str:
    if isinstance(value, ArrayLike) and not isinstance(value, type):
        shape = ", ".join(map(str, value.shape))
        space = "  " if kind else " "
        return f"{kind}([green]{shape}[/]){space}[dim]{value.dtype}[/]"
    if isinstance(value, Tree):
        return f"{type(value).__name__}()"
    return "Initializer" if isinstance(value, Initializer) else str(value)


def _inputs_cell(inputs: Inputs) -> str:
    if len(inputs.args) == 1 and not inputs.kwargs:
        return _value_cell(inputs.args[0])
    return "\n".join(_yaml(inputs.args) + _yaml(inputs.kwargs))


def _value_cell(value: object) -> str:
    return "" if value is None else "\n".join(_yaml(value))


def _shapes_of_calls(module: Tree, inputs: Inputs) -> dict[int, tuple[Inputs, object]]:
    """Call the module with abstract arrays; return the shapes of all first calls."""
    if not callable(module):
        raise ArgumentTypeError(
            f"{named(module)} was tabulated with inputs and has no `__call__`.",
            "The inputs are passed to it to find the shapes of all outputs.",
            "Leave `inputs` away, or define `__call__`.",
        )
    leaves, structure = jax.tree.flatten((inputs.args, inputs.kwargs))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, ArrayLike)}
    found: dict[int, tuple[Inputs, object]] = {}

    def shape_of(x: object) -> object:
        if isinstance(x, jax.core.Tracer):
            return jax.ShapeDtypeStruct(x.shape, x.dtype)
        return x

    def call(arrays: dict[int, jax.Array]) -> None:
        given = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        args, kwargs = jax.tree.unflatten(structure, given)
        module(*args, **kwargs)
        # Traced values must not leave this function, but their shapes may.
        for key, (inputs, outputs) in calls.first.items():
            args, kwargs = jax.tree.map(shape_of, (inputs.args, inputs.kwargs))
            found[key] = Inputs(*args, **kwargs), jax.tree.map(shape_of, outputs)

    calls = Calls()
    with entered(CALLS, calls):
        jax.eval_shape(call, jax.tree.map(jnp.asarray, arrays))
    return found
