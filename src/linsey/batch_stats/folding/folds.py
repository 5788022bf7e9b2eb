"""The choice of folds: products with the chains around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from linsey.batch_stats.folding.chains import Chain, chain_after, chain_before
from linsey.batch_stats.folding.graph import Graph, Leaves
from linsey.batch_stats.folding.products import Product, as_product


@dataclass(frozen=True, eq=False)
class Fold:
    """A product with the chains before and after it that are folded into its kernel."""

    product: Product
    before: Chain | None
    after: Chain

    def chains(self) -> Iterator[Chain]:
        """Yield the existing chains."""
        if self.before is not None:
            yield self.before
        yield self.after

    def leaves(self, graph: Graph) -> Leaves:
        """Return the leaves that the chains read."""
        return frozenset().union(*(chain.leaves(graph) for chain in self.chains()))

    def signature(self, graph: Graph) -> tuple[Leaves, Leaves]:
        """Return the leaves of the kernel and of the chains.

        They are the same for all shapes of the inputs.
        """
        return graph.depends[self.product.kernel], self.leaves(graph)


def find_folds(graph: Graph) -> list[Fold]:
    """Return the products of a program that have chains to fold.

    Example:
        >>> import jax.numpy as jnp
        >>> from linsey.batch_stats.folding.trace import trace
        >>> def function(variables, x):
        ...     return (x @ variables["kernel"] - variables["mean"]) * variables["rstd"]
        >>> shapes = {"kernel": jnp.ones((3, 2)), "mean": 1.0, "rstd": jnp.ones(2)}
        >>> fold, = find_folds(trace(function, shapes, jnp.ones((4, 3)))[0])
        >>> [link.operation for link in fold.after.links]
        ['sub', 'mul']
    """
    products = [p for step in graph.steps if (p := as_product(graph, step)) is not None]
    folds, taken = [], set()
    for product in products:
        axes = tuple(axis for axis, _ in product.channels)
        after = chain_after(graph, product.output, axes)
        if after.scales(graph):
            taken.add(product.output)
        folds.append(Fold(product, None, after))
    found = []
    for fold in folds:
        before = chain_before(graph, fold.product)
        if before is not None and before.scales(graph) and before.source not in taken:
            found.append(Fold(fold.product, before, fold.after))
        elif fold.after.scales(graph):
            found.append(fold)
    return found
