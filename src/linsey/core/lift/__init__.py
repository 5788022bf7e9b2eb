"""Lifted transforms: JAX transforms of functions that use scopes.

All are built on one mechanism, `split.Lifted`; each adds only its handling of axes.
"""

# ruff: noqa: F403 (each file lists the names that it offers)

from linsey.core.filters import *
from linsey.core.lift.control import *
from linsey.core.lift.execution import *
from linsey.core.lift.gradients import *
from linsey.core.lift.split import *
from linsey.typing import In as In
from linsey.typing import Out as Out
