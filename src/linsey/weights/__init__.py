"""Conversion of trained weights from and to other libraries, with a proof.

`read` and `write` convert files of several formats to flat dictionaries of arrays and
back, `load` converts the arrays of a state dict to the variables of a module,
`to_torch` does the reverse, and `prove` compares both models layer by layer.

The words used here: "ours" is the Linen module, "theirs" the other model. A *name*
identifies an array in the file (`conv1.weight`), a *path* in our variables
(`params/conv1/kernel`). The names of one layer of theirs are a *group*. A *match* pairs
a group with one of our layers; a *link* pairs arrays and says how their axes are
transposed.
"""

from linsey.weights.batch_norm import batch_norm_options as batch_norm_options
from linsey.weights.formats import read as read
from linsey.weights.formats import write as write
from linsey.weights.loading import load as load
from linsey.weights.proof import Cause as Cause
from linsey.weights.proof import Difference as Difference
from linsey.weights.proof import Proof as Proof
from linsey.weights.proving import prove as prove
from linsey.weights.recording import record as record
from linsey.weights.report import Leftover as Leftover
from linsey.weights.report import Report as Report
from linsey.weights.writing_back import to_torch as to_torch
