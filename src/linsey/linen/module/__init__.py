"""The module system: classes that describe models, and how they run.

Read the files in this order: `base` (`Module`), `binding` (the state of a module that
holds variables), `functional` (the running module, interceptors, `init` and `apply`)
and `methods` (the wrapper around each method call).
"""

# ruff: noqa: F403 (each file lists the names that it offers)

from linsey.core.state import Scope as Scope
from linsey.core.state import Variable as Variable
from linsey.linen.module.base import *
from linsey.linen.module.binding import ModuleBase as ModuleBase
from linsey.linen.module.binding import share_scope as share_scope
from linsey.linen.module.functional import *
from linsey.linen.module.functional import InterceptorContext as InterceptorContext
from linsey.linen.module.methods import *
from linsey.linen.module.methods import wrap_method_once as wrap_method_once
