"""Equivariant layers of `e3x`: tensor products, message passing and attention."""

import e3x
import flax.linen as nn
import jax
import jax.numpy as jnp
import report

key = jax.random.PRNGKey(1)
x = jax.random.normal(key, (5, 2, 9, 8))
graph = e3x.ops.sparse_pairwise_indices(5)
distances = jax.random.normal(jax.random.PRNGKey(2), (len(graph[0]), 3))


class Potential(nn.Module):
    """A small network of messages, as in the documentation of the package."""

    @nn.compact
    def __call__(self, numbers, displacements):
        x = e3x.nn.Embed(10, 8)(numbers)
        for _ in range(2):
            basis = e3x.nn.basis(
                displacements,
                num=4,
                max_degree=2,
                radial_fn=e3x.nn.reciprocal_bernstein,
                cutoff_fn=e3x.nn.smooth_cutoff,
            )
            y = e3x.nn.MessagePass(max_degree=2)(
                x, basis, dst_idx=graph[0], src_idx=graph[1], num_segments=5
            )
            x = e3x.nn.add(x, y)
            x = e3x.nn.silu(e3x.nn.TensorDense(max_degree=2)(x))
        x = e3x.nn.change_max_degree_or_type(x, 0, include_pseudotensors=False)
        return jnp.sum(nn.Dense(1, use_bias=False)(x))


report.model("dense", e3x.nn.Dense(4), x)
report.model("tensor", e3x.nn.Tensor(max_degree=2), x, x + 1)
report.model("fused", e3x.nn.FusedTensor(max_degree=2), x, x + 1)
report.model("tensor_dense", e3x.nn.TensorDense(4, max_degree=1), x)
report.model("potential", Potential(), jnp.array([1, 6, 8, 1, 1]), distances)

basis, cutoff = e3x.nn.basis(
    distances,
    num=4,
    max_degree=2,
    radial_fn=e3x.nn.reciprocal_bernstein,
    cutoff_fn=e3x.nn.smooth_cutoff,
    return_cutoff=True,
)
report.model(
    "attention",
    e3x.nn.SelfAttention(max_degree=2, num_heads=2),
    x,
    basis,
    cutoff,
    dst_idx=graph[0],
    src_idx=graph[1],
    num_segments=5,
)
report.save()
