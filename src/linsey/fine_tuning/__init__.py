"""Training of a part of a pretrained model.

Models are changed without editing their source. The functions return a module of the
same class, with the same fields, methods and names, in which some layers behave
differently, and the variables for it. Changes compose in the order in which they are
made.

* `replace`, `insert`, `remove`: replace, insert and remove layers.
* `lora`, `merge`: add low-rank products to kernels, and merge them into the kernels.
* `freeze`, `trainable`: freeze layers, including their running statistics.
"""

from linsey.fine_tuning.freezing import freeze as freeze
from linsey.fine_tuning.freezing import trainable as trainable
from linsey.fine_tuning.low_rank import lora as lora
from linsey.fine_tuning.low_rank import merge as merge
from linsey.fine_tuning.replacement import insert as insert
from linsey.fine_tuning.replacement import remove as remove
from linsey.fine_tuning.replacement import replace as replace
