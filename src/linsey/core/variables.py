"""Variables, under the name that Flax uses."""

from linsey.core.scope import Variable as Variable
