"""The module system: classes that describe models, and how they run.

Read in this order: `phase` and `frame` (the words), `base` (`Module`), `adoption`
(binding and sharing), `methods` (what happens around a call), `stack` (which module is
running, interceptors), `functional` (`init` and `apply`).
"""

# ruff: noqa: F403 (each file lists the names that it offers)

from linsey.core.filters import DenyList as DenyList
from linsey.core.filters import union_filters as union_filters
from linsey.core.frozen_dict import FrozenDict as FrozenDict
from linsey.core.scope import Scope as Scope
from linsey.core.scope import Variable as Variable
from linsey.linen.module.base import Module as Module
from linsey.linen.module.base import ModuleBase as ModuleBase
from linsey.linen.module.base import tuple_init as tuple_init
from linsey.linen.module.base import tuple_reduce as tuple_reduce
from linsey.linen.module.functional import *
from linsey.linen.module.helpers import disable_named_call as disable_named_call
from linsey.linen.module.helpers import enable_named_call as enable_named_call
from linsey.linen.module.helpers import merge_param as merge_param
from linsey.linen.module.helpers import override_named_call as override_named_call
from linsey.linen.module.methods import compact as compact
from linsey.linen.module.methods import nowrap as nowrap
from linsey.linen.module.methods import wrap_method_once as wrap_method_once
from linsey.linen.module.sharing import CompactNameScope as CompactNameScope
from linsey.linen.module.sharing import compact_name_scope as compact_name_scope
from linsey.linen.module.sharing import share_scope as share_scope
from linsey.linen.module.stack import InterceptorContext as InterceptorContext
from linsey.linen.module.stack import intercept_methods as intercept_methods
