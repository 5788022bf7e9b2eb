"""Modules of Equinox and Haiku in linsey, and linsey's models in Equinox.

`from_equinox` and `from_haiku` make Linen modules whose parameters and statistics are
in collections, under the names that the other library gives them. `to_equinox` makes an
Equinox layer from a module and its variables. The computation is still done by the
library from which a module comes. Equinox and Haiku are imported only by these calls.
"""

from linsey.interop.equinox_layer import to_equinox
from linsey.interop.equinox_module import EquinoxModule, from_equinox
from linsey.interop.haiku_module import HaikuModule, from_haiku

__all__ = ["EquinoxModule", "HaikuModule", "from_equinox", "from_haiku", "to_equinox"]
