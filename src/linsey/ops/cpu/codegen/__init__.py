"""Code that numba and LLVM compile; imported when a program first needs a kernel."""
