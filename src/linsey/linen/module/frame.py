"""Names inside one module: given, counted and refused here and nowhere else."""

from __future__ import annotations

from typing import Any

from linsey import errors


class Frame:
    """The names taken during `setup` or during one outermost call of a module.

    Submodules, parameters and variables share one namespace; only variables of
    different collections may have the same name.

    Attributes:
        names: the submodule that holds each name, or the collections of the variables
            that do.
        counts: how many submodules of each class were named automatically.
        is_open: whether names can be taken: in `setup` and in compact methods.
    """

    __slots__ = ("names", "counts", "is_open")

    def __init__(self, names: dict[str, Any] | None = None, is_open: bool = True):
        self.names: dict[str, Any] = {} if names is None else names
        self.counts: dict[str, int] = {}
        self.is_open = is_open

    def child(self) -> Frame:
        """A frame for a call: what `setup` named stays taken."""
        return Frame(dict(self.names))

    def automatic_name(self, prefix: str) -> str:
        """The next of `prefix_0`, `prefix_1`, ..."""
        count = self.counts.get(prefix, 0)
        self.counts[prefix] = count + 1
        return f"{prefix}_{count}"

    def claim(self, name: str, child: Any, owner: Any) -> None:
        """Takes a name for a submodule of `owner`."""
        if name in self.names:
            raise errors.NameInUseError("submodule", name, type(owner).__name__)
        self.names[name] = child

    def claim_variable(self, name: str, col: str, owner: Any) -> None:
        """Takes a name for a variable of collection `col` of `owner`."""
        holder = self.names.get(name)
        if holder is None:
            self.names[name] = (col,)
        elif type(holder) is tuple and col not in holder:
            self.names[name] = (*holder, col)
        else:
            kind = "param" if col == "params" else "variable"
            raise errors.NameInUseError(kind, name, type(owner).__name__)
