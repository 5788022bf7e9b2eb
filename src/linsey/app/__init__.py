"""The `linsey` command: train, evaluate and inspect models from a terminal.

The rest of the library imports nothing from here. Modules that the command line needs
before it knows what to do (`cli`, `config`, `options`) do not import jax, so that help
and errors about mistyped options appear at once.
"""
