"""What a training program needs beside its model: state, and checkpoints of it."""
