"""Implementations of private names of Flax and treex; `private.py` lists them."""
