"""Inspect, repair and use the state that training leaves behind.

Every function takes models and variables of `linsey.linen` or Flax Linen, objects of
`linsey.treex`, and functions `(variables, x, train, mutable)`. None modifies its
arguments. Findings are returned as a `Report`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

# No file is named like a function: importing it would replace the function here.
_FILES = {
    "Ema": "averages",
    "EmaState": "averages",
    "Finding": "report",
    "ModesReport": "modes_report",
    "Report": "report",
    "accumulate": "accumulation",
    "audit": "auditing.audit",
    "average": "averages",
    "compare_modes": "modes",
    "ema": "averages",
    "fold": "folding.fold",
    "recalibrate": "recalibration",
}

if TYPE_CHECKING:
    from linsey.batch_stats.accumulation import accumulate as accumulate
    from linsey.batch_stats.auditing.audit import audit as audit
    from linsey.batch_stats.averages import Ema as Ema
    from linsey.batch_stats.averages import EmaState as EmaState
    from linsey.batch_stats.averages import average as average
    from linsey.batch_stats.averages import ema as ema
    from linsey.batch_stats.folding.fold import fold as fold
    from linsey.batch_stats.modes import compare_modes as compare_modes
    from linsey.batch_stats.modes_report import ModesReport as ModesReport
    from linsey.batch_stats.recalibration import recalibrate as recalibrate
    from linsey.batch_stats.report import Finding as Finding
    from linsey.batch_stats.report import Report as Report
else:

    def __getattr__(name: str) -> object:
        if name not in _FILES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_FILES[name]}")
        globals()[name] = getattr(module, name)
        return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
