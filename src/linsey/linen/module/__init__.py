"""The module system: classes that describe models, and how they run.

Read in this order: `phase` and `frame` (the words), `base` (`Module`), `adoption`
(binding and sharing), `methods` (what happens around a call), `stack` (which module is
running, interceptors), `functional` (`init` and `apply`).
"""

from linsey.core.filters import DenyList, union_filters
from linsey.core.frozen_dict import FrozenDict
from linsey.core.scope import Scope, Variable
from linsey.linen.module.base import (
    Module,
    ModuleBase,
    tuple_init,
    tuple_reduce,
)
from linsey.linen.module.functional import apply, init, init_with_output
from linsey.linen.module.helpers import (
    disable_named_call,
    enable_named_call,
    merge_param,
    override_named_call,
)
from linsey.linen.module.methods import compact, nowrap, wrap_method_once
from linsey.linen.module.sharing import (
    CompactNameScope,
    compact_name_scope,
    share_scope,
)
from linsey.linen.module.stack import (
    InterceptorContext,
    intercept_methods,
)

__all__ = [
    "CompactNameScope",
    "DenyList",
    "FrozenDict",
    "InterceptorContext",
    "Module",
    "ModuleBase",
    "Scope",
    "Variable",
    "apply",
    "compact",
    "compact_name_scope",
    "disable_named_call",
    "enable_named_call",
    "init",
    "init_with_output",
    "intercept_methods",
    "merge_param",
    "nowrap",
    "override_named_call",
    "share_scope",
    "tuple_init",
    "tuple_reduce",
    "union_filters",
    "wrap_method_once",
]
