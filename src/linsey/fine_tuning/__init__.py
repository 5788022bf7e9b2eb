"""Train a part of a model that is trained already.

A model is changed without its source: what comes back is a module of the same class,
with the same fields, methods and names, whose layers run otherwise, and the variables
that go with it. Changes compose, in the order in which they are made.

* `replace`, `insert`, `remove`: other layers in place of those of the model.
* `lora`, `merge`: products of low rank beside kernels, and back into them.
* `freeze`, `trainable`: layers that training leaves alone, running statistics included.
"""

from linsey.fine_tuning.freezing import freeze as freeze
from linsey.fine_tuning.freezing import trainable as trainable
from linsey.fine_tuning.low_rank import lora as lora
from linsey.fine_tuning.low_rank import merge as merge
from linsey.fine_tuning.replacement import insert as insert
from linsey.fine_tuning.replacement import remove as remove
from linsey.fine_tuning.replacement import replace as replace
