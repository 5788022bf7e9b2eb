"""A function mapped over microbatches that depend on each other, with little memory.

`jax.vmap(function, axis_name=...)` holds all intermediate values of all microbatches in
memory at once. However, microbatches depend on each other only at *collectives*, the
equations that combine values of all of them. The program is therefore split into
*segments* at the collectives, and each segment is a loop over the microbatches:

    level of a value = number of collectives, one after the other, that it depends on
    segment t = the values of level t

A value that a later segment needs is either *stored* for all microbatches, or
recomputed from stored values. The results of collectives are small and the same for all
microbatches; given these, every value can be computed from the inputs, in however late
a segment it is. The result does not depend on the choice of stored values, up to
rounding.

- `flat_program`: programs whose collectives are all at the top level.
- `dependencies`: the dependencies between values, and their levels.
- `storage`: the choice of the values that are stored.
- `sequential`: runs the segments one after the other.
- `division`: divides a batch, and combines the results.
- `synchronize`: batch norms that compute their moments over all microbatches.
"""
