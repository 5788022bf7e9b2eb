"""The `linsey` command: train, evaluate and look into models from a terminal.

Nothing in here is imported by the library. Modules that the command line needs
before it knows what to do (`cli`, `config`, `config_file`) import no jax, so that
help and mistyped options answer at once.
"""
