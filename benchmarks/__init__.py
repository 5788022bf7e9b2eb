"""Benchmarks of linsey against raw JAX and its peers; see README.md."""
