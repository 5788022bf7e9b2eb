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

# ruff: noqa: F403 (each file lists the names that it offers)

from collections.abc import Mapping
from typing import Any

from linsey.core.filters import CollectionFilter as CollectionFilter
from linsey.core.filters import DenyList as DenyList
from linsey.core.filters import Filter as Filter
from linsey.core.filters import PRNGSequenceFilter as PRNGSequenceFilter
from linsey.core.filters import Selection as Selection
from linsey.core.filters import filter_to_set as filter_to_set
from linsey.core.filters import group_collections as group_collections
from linsey.core.filters import in_filter as in_filter
from linsey.core.filters import intersect_filters as intersect_filters
from linsey.core.filters import is_filter_empty as is_filter_empty
from linsey.core.filters import subtract_filters as subtract_filters
from linsey.core.filters import union_filters as union_filters
from linsey.core.frozen_dict import FrozenDict
from linsey.core.rng import LazyRng as LazyRng
from linsey.core.scope.context import Context as Context
from linsey.core.scope.cursor import PRNGKey as PRNGKey
from linsey.core.scope.cursor import Scope as Scope
from linsey.core.scope.cursor import VariableDict as VariableDict
from linsey.core.scope.functional import *
from linsey.core.scope.variable import Variable as Variable
from linsey.core.scope.variable import is_plain_array as is_plain_array
from linsey.core.scope.variable import unbox_fast as unbox_fast

Array = Any
Collection = Mapping[str, Any]
MutableCollection = dict[str, Any]
FrozenVariableDict = FrozenDict
MutableVariableDict = dict[str, MutableCollection]
