"""Trained weights from other libraries, and back, with a proof.

`read` and `write` take files of several formats for flat dictionaries of arrays, `load`
puts the arrays of a state dict into the variables of a module, `to_torch` is the
way back, and `prove` runs both models layer by layer.

The words used here: a *name* is what an array is called in the file (`conv1.weight`), a
*path* what it is called in our variables (`params/conv1/kernel`). Names of one layer of
theirs are a *group*; a *match* says which group is which of our layers, and a *link*
which arrays are which, and how their axes are turned.
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
