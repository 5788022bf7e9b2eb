"""Private names of Flax and treex, as programs use them; `private.py` lists them."""
