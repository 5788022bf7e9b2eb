"""`linsey inspect`: list what a checkpoint holds: shapes, dtypes, sizes, ranges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from linsey.app.config import InspectConfig
from linsey.app.optimizer_state import in_words
from linsey.app.options import parse
from linsey.app.terminal import plain, say, show
from linsey.checkpoint import flatten
from linsey.errors.base import printable

if TYPE_CHECKING:
    from rich.tree import Tree

_LONGEST = 2000  # characters of a line
_TITLES = {
    "params": "params: what is learned",
    "batch_stats": "batch_stats: running statistics of batch normalization",
    "average": "average: moving average that is evaluated",
    "opt_state": "opt_state: what the optimizer remembers",
}


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: the arguments after `linsey inspect`.

    Returns:
        0.
    """
    config = parse(InspectConfig, "inspect", arguments)

    from linsey.app.checkpoint_choice import choose, has_steps, refuse_special

    if not has_steps(config.checkpoint):
        refuse_special(config.checkpoint)
        from linsey.training.formats import kind_of

        if (kind := kind_of(config.checkpoint)) is not None:
            return _inspect_foreign(config.checkpoint, kind)
    checkpoint = choose(config)
    say(f"{checkpoint.folder}: step {checkpoint.step}, every byte verified")
    for title in ("config", "environment", "cursor"):
        # A checkpoint of another program may have any value there.
        values = checkpoint.metadata.get(title, {})
        pairs = values.items() if isinstance(values, dict) else [("", values)]
        told = ", ".join(f"{key} {value}" for key, value in pairs)
        say(f"{title}: {printable(told[:_LONGEST])}")
    tree = checkpoint.read()
    known = [name for name in _TITLES if name in tree]
    for name in (*known, *sorted(tree.keys() - _TITLES.keys())):
        collection = tree[name]
        if name == "opt_state" and isinstance(collection, dict):
            collection = in_words(collection)
        show(_drawn(name, collection))
    return 0


def _inspect_foreign(path: Path, kind: str) -> int:
    """List the contents of a file or folder that no run of linsey wrote."""
    from linsey.training.formats import describe

    specs = describe(path)
    say(f"{path}: {kind}, {len(specs)} entries")
    for name, spec in specs.items():
        say(printable(f"  {name}  {spec}"))
    return 0


def _drawn(name: str, collection: Any) -> Tree:
    """Return a collection as a tree with one line for each array."""
    from rich.tree import Tree

    arrays = [np.asarray(array) for array in flatten({name: collection}).values()]
    count = sum(array.size for array in arrays)
    size = sum(array.nbytes for array in arrays)
    title = f"{_TITLES.get(name, name)} ({count:,} values, {size:,} bytes)"
    root = Tree(plain(title, "bold"))
    if isinstance(collection, dict):
        _grow(root, collection)
    else:
        root.add(plain(_described(arrays[0])))
    return root


def _grow(branch: Tree, tree: dict[str, Any]) -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            _grow(branch.add(plain(key)), value)
        else:
            branch.add(plain(f"{key:<8} {_described(np.asarray(value))}"))


def _described(array: np.ndarray) -> str:
    shape = f"({', '.join(map(str, array.shape))})"
    text = f"{array.dtype} {shape}  {array.nbytes:,} bytes"
    if array.size == 0:
        return text
    if array.dtype.kind in "biu":
        return f"{text}  from {array.min()} to {array.max()}"
    values = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    finite = values[np.isfinite(values)]
    if finite.size and values.dtype.kind == "f":
        low, high, mean = finite.min(), finite.max(), finite.mean()
        text += f"  from {low:.4g} to {high:.4g}, mean {mean:.4g}"
    if missing := values.size - finite.size:
        text += f"  {missing} NOT FINITE"
    return text
