"""The parts of `fold`: programs, chains, folded weights, and the folded program."""
