"""linsey: neural networks for JAX, two faces on one state core."""
