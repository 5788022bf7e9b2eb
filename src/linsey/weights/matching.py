"""Matching of their layers with ours.

Layers are matched by this evidence, the strongest first: a mapping from the user; the
table of an architecture of `linsey.models`; names that are equal except for `.`, `_`
and `/`; and, for the remaining layers, their order, if all of them agree in number,
kinds and shapes, or a shape that occurs only once on both sides. Linen trees and some
files are sorted alphabetically; their order is known only from numbers in names.
Ambiguous layers are left unmatched.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from linsey.errors import OptionError
from linsey.weights.groups import COLLECTIONS, Group
from linsey.weights.layers import LEAVES, Layer
from linsey.weights.translation import ArrayLink, links_of

Mapped = str | Sequence[str] | None
NameMapping = Mapping[str, Mapped]
OPTIONAL = ("num_batches_tracked", "updates")
"""Arrays (counters) that one side may lack."""
_THEIR_LEAVES = {*LEAVES, "weight", "running_mean", "running_var"}


@dataclass(frozen=True)
class Match:
    """A layer of ours and the corresponding one of theirs.

    Attributes:
        layer: our layer.
        group: their layer.
        by: the evidence: `mapping`, `table`, `name`, `order` or `shape`.
        links: the links between their arrays.
    """

    layer: Layer
    group: Group
    by: str
    links: tuple[ArrayLink, ...]


@dataclass
class Matcher:
    """Matches the layers of two models.

    Attributes:
        layers: our layers, in the order of their calls.
        groups: their layers, in the order of the file.
        shapes: shapes of their arrays by name.
        same_layout: whether theirs is a Linen tree.
        is_ordered: whether the order of the file carries meaning, that is, whether it
            is not alphabetical.
        matches: the matches found so far.
        dropped: groups that the user leaves out.
    """

    layers: Sequence[Layer]
    groups: Sequence[Group]
    shapes: Mapping[str, tuple[int, ...]]
    same_layout: bool
    is_ordered: bool
    matches: list[Match] = field(default_factory=list)
    dropped: list[Group] = field(default_factory=list)

    def run(self, mapping: NameMapping, tables: Iterable[Callable[[str], str]]) -> None:
        """Match all layers that can be matched.

        Args:
            mapping: as for `load`.
            tables: functions from our path of an array to their name.

        Raises:
            OptionError: the mapping contains a name that does not exist.
        """
        for key in sorted(mapping, key=len, reverse=True):
            self._map(key, mapping[key])
        self._by_table(tables)
        self._by_name(self.free_layers(), self.free_groups(), 0, 0, "name")
        ours = _common([layer.path for layer in self.layers])
        theirs = _common([group.path for group in self.groups])
        for cuts in ((0, theirs), (ours, 0), (ours, theirs)):
            self._by_name(self.free_layers(), self.free_groups(), *cuts, "name")
        self._by_structure(self.free_layers(), self.free_groups())

    def free_layers(self) -> list[Layer]:
        """Return our layers without a match."""
        taken = {match.layer.path for match in self.matches}
        return [layer for layer in self.layers if layer.path not in taken]

    def free_groups(self) -> list[Group]:
        """Return their layers without a match."""
        taken = {match.group.path for match in self.matches}
        taken |= {group.path for group in self.dropped}
        return [group for group in self.groups if group.path not in taken]

    def are_alike(self, layer: Layer, group: Group) -> bool:
        """Tell whether all arrays of two layers fit each other."""
        links = links_of(layer, group.arrays, self.same_layout)
        ours = {path for link in links for path in link.ours}
        theirs = {name for link in links for name in link.theirs}
        free = [local for local, path in layer.arrays.items() if path not in ours]
        free += [local for local, name in group.arrays.items() if name not in theirs]
        return (
            bool(links)
            and all(local in OPTIONAL for local in free)
            and all(link.fits(self.shapes) for link in links)
        )

    def _add(self, layer: Layer, group: Group, by: str) -> None:
        links = links_of(layer, group.arrays, self.same_layout)
        self.matches.append(Match(layer, group, by, tuple(links)))

    def _map(self, key: str, value: Mapped) -> None:
        """Match the layers below a name of theirs with those below paths of ours."""
        theirs = owner_of(key)
        groups = [g for g in self.free_groups() if _is_below(g.path, theirs)]
        if not groups:
            raise _unknown(key, self.groups)
        if value is None:
            self.dropped += groups
            return
        for each in [value] if isinstance(value, str) else value:
            ours = owner_of(_without_collection(each))
            layers = [la for la in self.free_layers() if _is_below(la.path, ours)]
            if not layers:
                raise _unknown(each, self.layers)
            part = Matcher(
                layers, groups, self.shapes, self.same_layout, self.is_ordered
            )
            part._by_name(layers, groups, len(tokens(ours)), len(tokens(theirs)), "")
            part._by_structure(part.free_layers(), part.free_groups())
            # Several of ours may match one of theirs, so `groups` is not reduced.
            self.matches += [
                Match(m.layer, m.group, "mapping", m.links) for m in part.matches
            ]

    def _by_table(self, tables: Iterable[Callable[[str], str]]) -> None:
        owners = {name: g for g in self.free_groups() for name in g.arrays.values()}
        found = [self._table(name_of, owners) for name_of in tables]
        for layer, group in max(found, key=len, default=[]):
            self._add(layer, group, "table")

    def _table(
        self, name_of: Callable[[str], str], owners: Mapping[str, Group]
    ) -> list[tuple[Layer, Group]]:
        found: list[tuple[Layer, Group]] = []
        for layer in self.free_layers():
            names = [name_of(path) for path in layer.arrays.values()]
            groups = [owners[name] for name in names if name in owners]
            if len({group.path for group in groups}) == 1:
                found.append((layer, groups[0]))
        return found

    def _by_name(
        self,
        layers: Sequence[Layer],
        groups: Sequence[Group],
        cut_ours: int,
        cut_theirs: int,
        by: str,
    ) -> None:
        """Match equal names, without the given numbers of leading tokens.

        Names of numbers alone, such as the `0` of `Dense_0`, count only if all layers
        match by name: layers `0`, `2`, `4` are `Dense_0`, `Dense_1`, `Dense_2`.
        """
        ours = _unique([(tokens(la.path)[cut_ours:], la) for la in layers])
        theirs = _unique([(tokens(g.path)[cut_theirs:], g) for g in groups])
        pairs = {
            name: (layer, theirs[name])
            for name, layer in ours.items()
            if name in theirs and links_of(layer, theirs[name].arrays, self.same_layout)
        }
        is_whole = len(pairs) in (len(layers), len(groups))
        for name, (layer, group) in pairs.items():
            if is_whole or not name or not all(token.isdigit() for token in name):
                self._add(layer, group, by)

    def _by_structure(self, layers: Sequence[Layer], groups: Sequence[Group]) -> None:
        """Match by order if everything agrees, otherwise layers that fit no others."""
        if self.is_ordered and len(layers) == len(groups):
            if all(map(self.are_alike, layers, groups)):
                self._add_in_order(layers, groups, "order")
                return
        by_path = {group.path: group for group in groups}
        alike = {
            layer.path: tuple(g.path for g in groups if self.are_alike(layer, g))
            for layer in layers
        }
        for found in dict.fromkeys(alike.values()):
            peers = [layer for layer in layers if alike[layer.path] == found]
            claims = [each for each in alike.values() if {*each} & {*found}]
            if len(peers) != len(found) or len(claims) != len(peers):
                continue
            by = "shape" if len(found) == 1 else "order"
            if by == "shape" or differ_in_numbers(found):
                numbered = [by_path[path] for path in sorted(found, key=natural)]
                self._add_in_order(peers, numbered, by)

    def _add_in_order(
        self, layers: Sequence[Layer], groups: Sequence[Group], by: str
    ) -> None:
        pairs = list(zip(layers, groups, strict=True))
        if not self._cross(pairs):
            for layer, group in pairs:
                self._add(layer, group, by)

    def _cross(self, pairs: Sequence[tuple[Layer, Group]]) -> bool:
        """Tell whether earlier matches contradict the order of similar layers.

        If so, either the names or the order are misleading.
        """
        our_order = {layer.path: place for place, layer in enumerate(self.layers)}
        their_order = {group.path: place for place, group in enumerate(self.groups)}
        for match in self.matches:
            for layer, group in pairs:
                ours = our_order[layer.path] < our_order[match.layer.path]
                theirs = their_order[group.path] < their_order[match.group.path]
                if (
                    ours != theirs
                    and self.are_alike(layer, match.group)
                    and self.are_alike(match.layer, group)
                ):
                    return True
        return False


def tokens(path: str) -> tuple[str, ...]:
    """Split a path at `.`, `_`, `/`, and where digits begin or end.

    Example:
        >>> tokens("layer1_0/conv1") == tokens("layer1.0.conv1")
        True
    """
    return tuple(re.findall(r"[0-9]+|[^\W\d_]+", path.lower()))


def natural(path: str) -> tuple[tuple[bool, int, str], ...]:
    """Return a key that sorts paths with `2` before `10`."""
    return tuple(
        (token.isdigit(), int(token) if token.isdigit() else 0, token)
        for token in tokens(path)
    )


def differ_in_numbers(paths: Sequence[str]) -> bool:
    """Tell whether any two paths first differ in a number, and so have an order.

    Example:
        >>> differ_in_numbers(["block_2/conv", "block_10/conv"])
        True
        >>> differ_in_numbers(["left/conv", "right/conv"])
        False
    """
    for one, other in itertools.combinations(map(tokens, paths), 2):
        first = next(
            (pair for pair in zip(one, other, strict=False) if pair[0] != pair[1]),
            ("", ""),
        )
        if not (first[0].isdigit() and first[1].isdigit()):
            return False
    return True


def _unique(pairs: Iterable[tuple]) -> dict:
    """Keep the names that occur only once."""
    pairs = list(pairs)
    counts = Counter(name for name, _ in pairs)
    return {name: value for name, value in pairs if counts[name] == 1}


def _common(paths: Sequence[str]) -> int:
    """Count the common leading tokens of all paths, leaving at least one of each."""
    split = [tokens(path) for path in paths]
    count = 0
    while split and all(
        len(each) > count + 1 and each[count] == split[0][count] for each in split
    ):
        count += 1
    return count


def _is_below(path: str, above: str) -> bool:
    return not above or path == above or path.startswith((f"{above}.", f"{above}/"))


def _without_collection(path: str) -> str:
    first, _, rest = path.partition("/")
    return rest if first in COLLECTIONS else path


def owner_of(name: str) -> str:
    """Return the layer that an array belongs to: its name without the last part."""
    name = _without_collection(name)
    match = re.fullmatch(r"(?:(.*)[./])?([^./]*)", name)
    return (match[1] or "") if match and match[2] in _THEIR_LEAVES else name


def _unknown(name: str, known: Sequence[Layer] | Sequence[Group]) -> OptionError:
    names = [name for each in known for name in each.arrays.values()]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0)
    return OptionError(
        f"`mapping` names `{name}`.",
        "Nothing that is still to be matched has this name or is below it.",
        f"Did you mean `{near[0]}`?" if near else "Leave it out.",
    )
