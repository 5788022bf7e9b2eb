"""The report of `load`: which arrays were loaded where, and which were left over."""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from linsey.weights.layers import Layer
from linsey.weights.matching import Match, tokens
from linsey.weights.reparametrized import why_unsupported
from linsey.weights.translation import LEAVES

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Leftover:
    """An array without a counterpart.

    Attributes:
        name: its name in the file, or its path in our variables.
        shape: its shape.
        is_ours: whether it belongs to the module, where it then has no value.
        why: the reason why it has no counterpart.
        resembles: the most similar array of the other side; empty if there is none.
    """

    name: str
    shape: Shape
    is_ours: bool
    why: str
    resembles: str = ""

    def __str__(self) -> str:
        """Return a line of text."""
        line = f"`{self.name}` {self.shape}: {self.why}"
        return line + (f"; most like `{self.resembles}`" if self.resembles else "")


@dataclass(frozen=True)
class Report:
    """The report of `load`.

    Attributes:
        matches: corresponding layers of both sides: `layer.path` is our path,
            `group.path` their name, and `by` the evidence.
        leftovers: arrays without a counterpart.
        tied: names of theirs that hold the same array as another name.
        counters: names of counters of updates that are left out: those of batch norms
            if all are 0, and those that belong to no batch norm.
        dropped: names that the mapping leaves out.
        initial: paths of variables, such as caches, that keep their initial values
            because files do not contain them.
        rounded: paths of arrays that lost digits, as JAX has no float64 by default.
        counts: paths of counters of updates that are kept in `batch_counts`, although
            the module does not count.
    """

    matches: tuple[Match, ...]
    leftovers: tuple[Leftover, ...]
    tied: Mapping[str, str]
    counters: tuple[str, ...]
    dropped: tuple[str, ...]
    initial: tuple[str, ...]
    rounded: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every array of both sides has a counterpart."""
        return not self.leftovers

    def __str__(self) -> str:
        """Return the report as lines of text."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        arrays = sum(len(link.ours) for match in self.matches for link in match.links)
        counts = Counter(match.by for match in self.matches)
        ways = ", ".join(f"{count} by {by}" for by, count in counts.items())
        yield f"{arrays} arrays loaded into {len(self.matches)} layers ({ways})"
        for match in self.matches:
            if match.by in ("order", "shape"):
                theirs, ours = match.group.path, match.layer.path
                yield f"  by {match.by}: `{theirs}` is `{ours}`"
        for which in (True, False):
            found = [rest for rest in self.leftovers if rest.is_ours is which]
            if found:
                yield "without a value:" if which else "in the file, but not used:"
                yield from (f"  {rest}" for rest in found)
        for name, other in self.tied.items():
            yield f"tied: `{name}` is the array of `{other}`"
        if self.counts:
            number = len(self.counts)
            yield f"{number} counter{'s'[: number > 1]} of updates in `batch_counts`"
        for what, names in (
            ("counters of updates, left out", self.counters),
            ("left out by the mapping", self.dropped),
            ("at their initial values, as they are no weights", self.initial),
            ("rounded from float64", self.rounded),
        ):
            if names:
                yield f"{what}: {_some(names)}"
        yield from self._batch_norm()

    def _batch_norm(self) -> Iterator[str]:
        found = {m.layer.seen.batch_norm: m for m in self.matches}
        for options in found:
            if options is not None:
                momentum, epsilon, unbiased = options
                theirs = None if momentum is None else round(1 - momentum, 12)
                kind = "unbiased" if unbiased else "biased"
                yield (
                    f"batch normalization has momentum {momentum} (PyTorch: {theirs}), "
                    f"epsilon {epsilon} and the {kind} running variance; a file says "
                    "nothing of these: compare them by `prove`"
                )


def _some(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def leftovers_of(
    layers: Iterable[Layer],
    matches: Sequence[Match],
    shapes: Mapping[str, Shape],
    handled: Iterable[str],
) -> list[Leftover]:
    """List the arrays without a counterpart, and what each of them resembles.

    Args:
        layers: all our layers.
        matches: the matches of layers.
        shapes: shapes of their arrays by name.
        handled: names of theirs that are already accounted for.
    """
    ours: dict[str, Shape] = {}
    for layer in layers:
        ours |= {layer.arrays[local]: shape for local, shape in layer.shapes.items()}
    links = [link for match in matches for link in match.links]
    right = [link for link in links if link.fits(shapes)]
    loaded = {path for link in right for path in link.ours}
    used = {name for link in right for name in link.theirs} | set(handled)
    free_ours = {path: shape for path, shape in ours.items() if path not in loaded}
    free_theirs = {name: shape for name, shape in shapes.items() if name not in used}
    transposed = {
        path
        for layer in layers
        if layer.kind == "ConvTranspose"
        for path in layer.arrays.values()
    }
    found = []
    for link in links:
        if link in right:
            continue
        for path in link.ours:
            if path in free_ours:
                wanted, has = link.turn.theirs, [shapes[name] for name in link.theirs]
                why = _why_not(wanted, has)
                if path in transposed:
                    why += _of_groups(wanted[0], has[0])
                shape = free_ours.pop(path)
                found.append(Leftover(path, shape, True, why, link.theirs[0]))
        for name in link.theirs:
            if name in free_theirs:
                why = "its shape does not fit"
                shape = free_theirs.pop(name)
                found.append(Leftover(name, shape, False, why, link.ours[0]))
    stacked = {
        layer.arrays[local]: layer.stacked_axis(local)
        for layer in layers
        for local in layer.shapes
    }
    for path, shape in free_ours.items():
        near = _nearest(path, shape, free_theirs or shapes)
        why = "no array in the file corresponds to it"
        if (axis := stacked[path]) is not None:
            why = _stacked(axis, shape)
        found.append(Leftover(path, shape, True, why, near))
    for name, shape in free_theirs.items():
        near = _nearest(name, shape, free_ours or ours)
        why = why_unsupported(name) or "no array in the module corresponds to it"
        found.append(Leftover(name, shape, False, why, near))
    return found


def _stacked(axis: int, shape: Shape) -> str:
    return (
        f"`nn.scan` or `nn.vmap` stacks {shape[axis]} layers along axis {axis}, and "
        "a file has them one by one; load each into the module that is stacked, and "
        f"join them by `jax.tree.map(lambda *a: jnp.stack(a, {axis}), *layers)`"
    )


def _of_groups(wanted: Shape, found: Shape) -> str:
    """Say so if a transposed convolution in PyTorch seems to have groups."""
    alike = len(wanted) == len(found) > 1 and wanted[:1] + wanted[2:] == (
        found[:1] + found[2:]
    )
    groups, rest = divmod(wanted[1], found[1]) if alike and found[1] else (1, 1)
    if rest or groups < 2:
        return ""
    return (
        f", as with `groups={groups}` in PyTorch; transposed convolutions have no "
        "groups here: split the channels, and give each part its own `ConvTranspose`"
    )


def _why_not(expected: Sequence[Shape], found: Sequence[Shape]) -> str:
    """Say which shapes were expected, and which order of axes would fit, if any."""
    lines = []
    for wanted, shape in zip(expected, found, strict=True):
        line = f"the file has shape {shape} where {wanted} is needed"
        if sorted(shape) == sorted(wanted) and shape != wanted and len(shape) < 6:
            orders = itertools.permutations(range(len(shape)))
            fits = next(o for o in orders if tuple(shape[a] for a in o) == wanted)
            line += f", which `array.transpose{fits}` would have"
        lines.append(line)
    return "; ".join(dict.fromkeys(lines))


def _nearest(name: str, shape: Shape, others: Mapping[str, Shape]) -> str:
    """Return the array whose name and shape are most similar."""

    def likeness(other: str) -> float:
        ratio = difflib.SequenceMatcher(None, _words(name), _words(other)).ratio()
        return ratio + (sorted(others[other]) == sorted(shape))

    return max(others, key=likeness, default="")


def _words(name: str) -> tuple[str, ...]:
    """Return the tokens of a name, with its last part as in PyTorch."""
    match = re.fullmatch(r"(?:params/|batch_stats/)?(.*?)([^./]*)", name)
    owner, leaf = match.groups() if match else ("", name)
    return tokens(f"{owner}.{LEAVES.get(leaf, leaf)}")
