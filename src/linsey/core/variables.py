"""Variables, under the name that Flax has for them."""

from linsey.core.scope import Variable as Variable
