"""The module system: classes that describe models, and how they run.

Read in this order: `base` (`Module`), `binding` (what a module has while it holds
variables), `functional` (which module runs, interceptors, `init` and `apply`) and
`methods` (what happens around a call).
"""

# ruff: noqa: F403 (each file lists the names that it offers)

from linsey.core.filters import DenyList as DenyList
from linsey.core.filters import union_filters as union_filters
from linsey.core.frozen_dict import FrozenDict as FrozenDict
from linsey.core.state import Scope as Scope
from linsey.core.state import Variable as Variable
from linsey.linen.module.base import CompactNameScope as CompactNameScope
from linsey.linen.module.base import Module as Module
from linsey.linen.module.base import compact_name_scope as compact_name_scope
from linsey.linen.module.base import tuple_init as tuple_init
from linsey.linen.module.base import tuple_reduce as tuple_reduce
from linsey.linen.module.binding import ModuleBase as ModuleBase
from linsey.linen.module.binding import share_scope as share_scope
from linsey.linen.module.functional import *
from linsey.linen.module.functional import InterceptorContext as InterceptorContext
from linsey.linen.module.methods import *
from linsey.linen.module.methods import wrap_method_once as wrap_method_once
