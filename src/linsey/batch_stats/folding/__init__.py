"""What `fold` is made of: program, chains, weights, and the program without chains."""
