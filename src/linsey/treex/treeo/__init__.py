"""Objects that are pytrees, independent of neural networks.

Terms: a *tree* is an instance of `Tree`. Each of its attributes is either a *node*,
whose leaves are leaves of the tree, or *static*, that is, part of the structure. The
*kind* of a field is a class that tells its purpose; operations select leaves by kind.
"""

import sys

from linsey.treex.treeo import fields, flatten, operations, sentinels, tree
from linsey.treex.treeo.compact import Compact, compact, in_compact
from linsey.treex.treeo.fields import *  # noqa: F403 (lists its names)
from linsey.treex.treeo.flatten import *  # noqa: F403
from linsey.treex.treeo.operations import *  # noqa: F403
from linsey.treex.treeo.sentinels import *  # noqa: F403
from linsey.treex.treeo.tree import *  # noqa: F403

__all__ = ["Compact", "compact", "in_compact"]
__all__ += fields.__all__
__all__ += flatten.__all__
__all__ += operations.__all__
__all__ += sentinels.__all__
__all__ += tree.__all__

# The flatten modes used to be in a file of their own, which pickles name.
sys.modules[f"{__name__}.contexts"] = flatten
