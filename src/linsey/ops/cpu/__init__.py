"""What depends on the processor: what a CPU computes in another way than XLA, and how.

`dispatch` decides where that is. `primitive` makes an operation of a definition in
`jax.lax` and a kernel; `conv_kernels` and `channel_kernels` are such operations, whose
kernels `codegen` compiles. `conv` chooses between these, `conv_xla` and sums of shifted
products.
"""
