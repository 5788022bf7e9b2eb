"""Modules of Equinox and Haiku in linsey, and linsey's models in Equinox.

`from_equinox` and `from_haiku` make Linen modules whose parameters and statistics live
in collections, under the names that the other library gives them. `to_equinox` makes a
layer of Equinox out of a module and its variables. The computation stays that of the
library which a module is from. Equinox and Haiku are imported by these calls alone.
"""

from linsey.interop.equinox_layer import to_equinox
from linsey.interop.equinox_module import EquinoxModule, from_equinox
from linsey.interop.haiku_module import HaikuModule, from_haiku

__all__ = ["EquinoxModule", "HaikuModule", "from_equinox", "from_haiku", "to_equinox"]
