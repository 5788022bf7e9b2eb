"""Objects that are pytrees, without anything that has to do with neural networks.

Words: a *tree* is an instance of `Tree`. Each of its attributes is a *node*, whose
leaves are the tree's, or *static*, part of the structure. The *kind* of a field is a
class that says what it is for; operations select leaves by it.
"""

import sys

from linsey.treex.treeo import fields, flatten, operations, sentinels, tree
from linsey.treex.treeo.compact import Compact, compact, in_compact
from linsey.treex.treeo.fields import *  # noqa: F403 (what it lists, as the others)
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

# The flatten modes were in a file of their own; pickles name it.
sys.modules[f"{__name__}.contexts"] = flatten
