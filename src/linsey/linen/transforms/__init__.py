"""Lifted transforms: JAX transforms of modules, with variables and random streams.

Each takes a module class and returns a class, or takes a function whose first argument
is a module, such as a method, and returns a function. The mechanism is in `lifting`;
the effect of each transform on variables is in `linsey.core.lift`.
"""

# ruff: noqa: F403 (each file lists the names that it offers)

from linsey.linen.transforms.control import *
from linsey.linen.transforms.execution import *
from linsey.linen.transforms.gradients import *
from linsey.linen.transforms.lifting import lift_class as lift_class
from linsey.linen.transforms.lifting import lift_function as lift_function
