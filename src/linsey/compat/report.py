"""The report of `linsey run --report` on the names that a program used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from linsey.compat import aliases, old_jax, private


def report(
    used: Mapping[str, str] | None = None, removed: Mapping[str, str] | None = None
) -> str:
    """List the names of Flax and treex that were used, by module.

    Args:
        used: each name with its adapter: '' if linsey has the name itself,
            `aliases.MISSING` if it does not. Defaults to those of this process.
        removed: names that JAX has removed, each with its replacement.

    Example:
        >>> print(report({"flax.linen.Dense": "", "flax.linen.relu": ""}, {}))
        linsey run: 2 names of Flax and treex used.
          flax.linen: Dense, relu
    """
    used = aliases.used if used is None else used
    removed = old_jax.used if removed is None else removed
    missing = [name for name, adapter in used.items() if adapter == aliases.MISSING]
    adapted = {n: a for n, a in used.items() if a and a != aliases.MISSING}
    own = [name for name, adapter in used.items() if not adapter]
    count = len(own) + len(adapted)
    names = "1 name" if count == 1 else f"{count} names"
    lines = [f"linsey run: {names} of Flax and treex used."]
    lines += _by_module(own)
    if adapted:
        lines.append("Private names, served by adapters in linsey.compat:")
        rows = {row.name: row.used_by for row in private.PRIVATE}
        lines += [f"  {name} (also used by {rows[name]})" for name in sorted(adapted)]
    if missing:
        lines.append("Names that were requested but do not exist:")
        lines += _by_module(missing)
    if removed:
        lines.append("Names that JAX has removed:")
        lines += [f"  {name}: {now}" for name, now in sorted(removed.items())]
    return "\n".join(lines)


def _by_module(names: list[str]) -> list[str]:
    modules = defaultdict(list)
    for name in names:
        module, _, short = name.rpartition(".")
        modules[module].append(short)
    return [f"  {m}: {', '.join(sorted(modules[m]))}" for m in sorted(modules)]
