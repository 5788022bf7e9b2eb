"""Examples without labels, read one by one in the way of the run that predicts them.

Each reader yields one example at a time, so that any number of files takes only the
memory of a batch. Nothing here imports jax, so that unreadable files show at once.
"""
