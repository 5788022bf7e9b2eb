"""Trained weights from other libraries, and back, with a proof."""

from linsey.weights.formats import read as read
from linsey.weights.formats import write as write
