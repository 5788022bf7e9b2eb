"""Operations that are computed on a CPU in another way than XLA would, and faster.

`dispatch` decides when. `primitive` makes an operation from a definition in `jax.lax`
and a kernel; `conv_kernels` and `channel_kernels` contain such operations, whose
kernels `codegen` compiles. `conv` chooses between these, `conv_xla` and sums of shifted
products.
"""
