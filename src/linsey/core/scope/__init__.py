"""Variables, and where a function stands in them.

Words:

- *variables*: `{collection: tree}`. A *collection* is a named kind of state (`params`,
  `batch_stats`, `cache`, ...); inside it, nested dicts follow the module tree.
- *stream*: a named sequence of random keys.
- `Context`: one `init`, `apply` or `bind`: who may write what, the keys, the flags.
- `Scope`: a light cursor (context, path) over the context's variables.

Invariants: immutable collections are never copied; mutable ones are copied once, at the
boundary, structure only; what `apply` returns shares nothing writable with its input.
"""

from collections.abc import Mapping
from typing import Any

from linsey.core.filters import (
    CollectionFilter,
    DenyList,
    Filter,
    PRNGSequenceFilter,
    Selection,
    filter_to_set,
    group_collections,
    in_filter,
    intersect_filters,
    is_filter_empty,
    subtract_filters,
    union_filters,
)
from linsey.core.frozen_dict import FrozenDict
from linsey.core.rng import LazyRng
from linsey.core.scope.context import Context
from linsey.core.scope.cursor import PRNGKey, Scope, VariableDict
from linsey.core.scope.functional import (
    RNGSequences,
    apply,
    bind,
    copy_structure,
    init,
    lazy_init,
)
from linsey.core.scope.variable import Variable, is_plain_array, unbox_fast

Array = Any
Collection = Mapping[str, Any]
MutableCollection = dict[str, Any]
FrozenVariableDict = FrozenDict
MutableVariableDict = dict[str, MutableCollection]

__all__ = [
    "Array",
    "Collection",
    "CollectionFilter",
    "Context",
    "DenyList",
    "Filter",
    "FrozenVariableDict",
    "LazyRng",
    "MutableCollection",
    "MutableVariableDict",
    "PRNGKey",
    "PRNGSequenceFilter",
    "RNGSequences",
    "Scope",
    "Selection",
    "Variable",
    "VariableDict",
    "apply",
    "bind",
    "copy_structure",
    "filter_to_set",
    "group_collections",
    "in_filter",
    "init",
    "intersect_filters",
    "is_filter_empty",
    "is_plain_array",
    "lazy_init",
    "subtract_filters",
    "unbox_fast",
    "union_filters",
]
