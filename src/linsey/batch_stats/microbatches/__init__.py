"""A function mapped over microbatches that see each other, with little memory.

`jax.vmap(function, axis_name=...)` holds all intermediate values of all microbatches at
once. Between two *collectives*, equations that combine values of all of them, they do
not know of each other, however. So the program is cut there into *segments*, and each
segment is a loop over the microbatches:

    level of a value = number of collectives, one after the other, that it depends on
    segment t = what is of level t

What a later segment needs is either *stored*, for all microbatches, or computed again
from what is stored. The results of collectives are the same for all and small; with
them everything follows from the inputs, however deep it lies. Whatever is stored, the
result is the same up to rounding.

- `flat_program`: a program with all its collectives on the surface.
- `dependencies`: which value depends on which, and its level.
- `storage`: the choice of what is stored.
- `sequential`: segments run one after the other.
- `division`: a batch divided, and results put together again.
- `synchronize`: batch norms that take their moments over the microbatches.
"""
