"""The phases of a module instance, in the order it passes through them.

`CONSTRUCTING` until `__post_init__` is over; then `UNBOUND`, or with a scope `FRESH`,
`SETTING_UP` while `setup` runs and `READY` when it succeeded (a failed `setup` leaves
the module `FRESH`). A class without `setup` goes from constructing to `READY`.
"""

CONSTRUCTING, UNBOUND, FRESH, SETTING_UP, READY = range(5)
