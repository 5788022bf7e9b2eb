"""Numerics: pure functions, arrays in and arrays out, for anyone who uses JAX."""
