"""Where numbers of a training are written to."""
