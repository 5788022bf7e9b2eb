"""Examples without labels, read one by one in the terms of the run that is asked.

Each reader yields examples as they come, so that any number of files takes the memory
of a batch. Nothing here imports jax: what cannot be read shows at once.
"""
