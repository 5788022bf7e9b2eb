"""The functional core: variables, write access, random streams, lifted transforms.

`filters` selects collections, `rng` derives keys, `scope` makes functions pure, `lift`
transforms such functions, and `meta` boxes values with axis names. The core does not
know about modules or layers.
"""

import importlib
from typing import TYPE_CHECKING

from linsey.core import axes_scan as axes_scan
from linsey.core import frozen_dict as frozen_dict
from linsey.core import lift as lift
from linsey.core import meta as meta
from linsey.core import partial_eval as partial_eval
from linsey.core import scope as scope
from linsey.core import spmd as spmd
from linsey.core import tracers as tracers
from linsey.core.axes_scan import broadcast as broadcast
from linsey.core.frozen_dict import *  # noqa: F403
from linsey.core.lift.control import *  # noqa: F403
from linsey.core.lift.execution import *  # noqa: F403
from linsey.core.lift.gradients import *  # noqa: F403
from linsey.core.meta import AxisMetadata as AxisMetadata
from linsey.core.meta import map_axis_meta as map_axis_meta
from linsey.core.meta import unbox as unbox
from linsey.core.scope import *  # noqa: F403
from linsey.core.tracers import check_trace_level as check_trace_level
from linsey.core.tracers import current_trace as current_trace

if TYPE_CHECKING:
    from linsey.core import nn as nn
else:

    def __getattr__(name: str) -> object:
        """Import `nn`, which uses the rest of the core, on first access."""
        if name == "nn":
            return importlib.import_module("linsey.core.nn")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
