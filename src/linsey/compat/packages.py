"""The packages that linsey stands for, and their metadata."""

from __future__ import annotations

from typing import NamedTuple

FLAX_VERSION = "0.12.8"
"""The version of Flax whose Linen side linsey offers."""


class Package(NamedTuple):
    """A package that linsey stands for.

    Attributes:
        own: the linsey package that replaces it.
        version: the version whose public names linsey has.
        summary: a one-line summary, for the metadata.
        hidden: names that are linsey's own and not part of the package.
    """

    own: str
    version: str
    summary: str
    hidden: frozenset[str] = frozenset()


_OWN = {"__main__", "app", "compat", "ops", "treex", "checkpoint", "datasets", "extras"}

PACKAGES = {
    "flax": Package(
        "linsey",
        FLAX_VERSION,
        "Flax's Linen side, by linsey.",
        frozenset({*_OWN, "promotion"}),
    ),
    "treex": Package("linsey.treex", "0.6.12", "treex, by linsey."),
    "treeo": Package("linsey.treex.treeo", "0.0.10", "treeo, by linsey."),
}


def own_name(name: str) -> str | None:
    """Return the linsey module for a module of a served package, `None` if hidden.

    Example:
        >>> own_name("flax.linen.linear"), own_name("treeo"), own_name("flax.ops")
        ('linsey.linen.linear', 'linsey.treex.treeo', None)
    """
    root, _, rest = name.partition(".")
    package = PACKAGES[root]
    if rest.partition(".")[0] in package.hidden:
        return None
    return f"{package.own}.{rest}" if rest else package.own


def is_served(name: str) -> bool:
    """Return whether a module is in one of the packages that linsey stands for."""
    return name.partition(".")[0] in PACKAGES


def alias_of(own: str, root: str) -> str | None:
    """Return the module of a package that shows a linsey module; inverts `own_name`.

    Example:
        >>> alias_of("linsey.core.meta", "flax"), alias_of("linsey.ops", "flax")
        ('flax.core.meta', None)
    """
    package = PACKAGES[root]
    if own != package.own and not own.startswith(f"{package.own}."):
        return None
    name = root + own.removeprefix(package.own)
    return name if own_name(name) == own else None


def refusal(name: str) -> str:
    """Return a message that a module or an attribute is not offered, and what to do."""
    root = name.partition(".")[0]
    reason = f"no module of that name is in {root} as linsey offers it"
    if name.startswith("flax.nnx"):
        reason = "NNX is another library than Linen, and no Flax is installed"
    elif root == "flax":
        reason = (
            "no module of that name is on the Linen side of Flax as linsey offers it"
        )
    return (
        f"linsey does not offer `{name}`: {reason}. Install {root.capitalize()} and run"
        " the program without `linsey run` or `linsey.compat.install()` if it needs it."
    )
