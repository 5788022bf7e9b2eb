"""Objects that are pytrees, without anything that has to do with neural networks.

Words: a *tree* is an instance of `Tree`. Each of its attributes is a *node*, whose
leaves are the tree's, or *static*, part of the structure. The *kind* of a field is a
class that says what it is for; operations select leaves by it.
"""

from linsey.treex.treeo.compact import Compact, compact, in_compact
from linsey.treex.treeo.contexts import FlattenMode, add_field_info, flatten_mode
from linsey.treex.treeo.fields import (
    FieldInfo,
    FieldMetadata,
    KindMixin,
    field,
    node,
    static,
)
from linsey.treex.treeo.operations import (
    Apply,
    Copy,
    Extensions,
    Filter,
    Map,
    Merge,
    Repr,
    ToDict,
    ToString,
    apply,
    copy,
    filter,
    map,
    merge,
)
from linsey.treex.treeo.render import to_dict, to_string
from linsey.treex.treeo.sentinels import (
    MISSING,
    NOTHING,
    ArrayLike,
    Hashable,
    Missing,
    Nothing,
    Opaque,
    OpaquePredicate,
)
from linsey.treex.treeo.tree import Tree, TreeMeta

__all__ = [
    "MISSING",
    "NOTHING",
    "Apply",
    "ArrayLike",
    "Compact",
    "Copy",
    "Extensions",
    "FieldInfo",
    "FieldMetadata",
    "Filter",
    "FlattenMode",
    "Hashable",
    "KindMixin",
    "Map",
    "Merge",
    "Missing",
    "Nothing",
    "Opaque",
    "OpaquePredicate",
    "Repr",
    "ToDict",
    "ToString",
    "Tree",
    "TreeMeta",
    "add_field_info",
    "apply",
    "compact",
    "copy",
    "field",
    "filter",
    "flatten_mode",
    "in_compact",
    "map",
    "merge",
    "node",
    "static",
    "to_dict",
    "to_string",
]
