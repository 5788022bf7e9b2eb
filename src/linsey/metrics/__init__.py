"""Writers for the numbers of a training run."""
