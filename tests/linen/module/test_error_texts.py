"""The full texts of the errors whose text stands beside the check, by provoking them.

Each program makes one mistake in the core, in a module or in a lifted transform. The
texts are in `error_texts.txt`; what a message tells to write instead is run where a
program can.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import linsey.core as core
import linsey.linen as nn
from linsey import errors
from linsey.core import frozen_dict
from linsey.core.meta import PARTITION_NAME, Partitioned
from tests.compat.agreement import KEY, X

TEXTS = Path(__file__).parent / "error_texts.txt"
PROGRAMS: dict[str, tuple[Any, type, tuple[type, ...]]] = {}


def mistake(kind: type, *caught_by: type) -> Any:
    """Registers a program under its name, with what its error is."""

    def register(program: Any) -> Any:
        PROGRAMS[program.__name__] = (program, kind, caught_by)
        return program

    return register


def run(body: Any, **apply_options: Any) -> Any:
    """Initializes a module whose compact call is `body(module, x)`."""

    class Net(nn.Module):
        field: Any = 0

        @nn.compact
        def __call__(self, x):
            return body(self, x)

    return Net().init(KEY, X, **apply_options)


# -- core ----------------------------------------------------------------------------


@mistake(errors.ArgumentTypeError, TypeError)
def name_of_a_scope_is_no_text():
    core.init(lambda scope: scope.push(3))(KEY)


@mistake(errors.OptionError, ValueError)
def name_of_a_scope_is_taken():
    core.init(lambda scope: (scope.push("a"), scope.push("a")))(KEY)


@mistake(errors.ArgumentTypeError, TypeError)
def copy_of_what_is_no_dictionary():
    frozen_dict.copy([1])  # type: ignore[arg-type]


@mistake(errors.OptionError, ValueError, AssertionError)
def removed_axis_has_another_name():
    Partitioned(X, ("a", None)).remove_axis(0, {PARTITION_NAME: "b"})


# -- transforms ----------------------------------------------------------------------


@mistake(errors.ShapeError, ValueError)
def mapped_lengths_differ():
    over = nn.vmap(lambda module, x, y: x + y)
    run(lambda module, x: over(module, jnp.ones((2, 3)), jnp.ones((4, 3))))


@mistake(errors.OptionError, ValueError)
def nothing_is_mapped():
    over = nn.vmap(lambda module, x: x, in_axes=None)
    run(lambda module, x: over(module, x))


@mistake(errors.OptionError, ValueError)
def nothing_is_scanned():
    step = nn.scan(lambda module, carry: (carry, None))
    run(lambda module, x: step(module, x))


@mistake(errors.ArgumentTypeError, TypeError)
def step_returns_no_pair():
    step = nn.scan(lambda module, carry: None, length=2)
    run(lambda module, x: step(module, x))


@mistake(errors.MismatchError, ValueError)
def step_returns_three():
    step = nn.scan(lambda module, carry: (carry, 1, 2), length=2)
    run(lambda module, x: step(module, 0))


@mistake(errors.OptionError, ValueError, AssertionError)
def collection_is_stacked_along_no_axis():
    step = nn.scan(lambda module, carry: (carry, None), {"params": None}, length=2)
    run(lambda module, x: step(module, x))


@mistake(errors.ShapeError, ValueError, IndexError, AssertionError)
def array_lacks_the_axis():
    over = nn.vmap(lambda module, x: x, in_axes=2)
    run(lambda module, x: over(module, x))


@mistake(errors.ShapeError, ValueError, AssertionError)
def axis_to_scan_is_no_number():
    over = nn.scan(lambda module, c, x: (c, x), in_axes=None, length=2)
    run(lambda module, x: over(module, x, x))


@mistake(errors.OptionError, ValueError)
def constant_result_without_a_check():
    step, options = lambda module, c: (c, 1.0), {"check_constancy_invariants": False}
    over = nn.scan(step, out_axes=nn.broadcast, length=2, **options)
    run(lambda module, x: over(module, 0))


@mistake(errors.MismatchError, ValueError)
def broadcast_depends_on_the_step():
    def step(module, carry, x):
        module.variable("state", "seen", lambda: x)
        return carry, None

    over = nn.scan(step, variable_broadcast="state")
    run(lambda module, x: over(module, 0, x))


@mistake(errors.ShapeError, ValueError)
def gradient_of_no_scalar():
    run(lambda module, x: nn.grad(lambda module, x: x, module, x))


@mistake(errors.ArgumentTypeError, TypeError)
def field_without_a_hash_under_jit():
    class Scale(nn.Module):
        by: Any

        @nn.jit
        @nn.compact
        def __call__(self, x):
            return x * self.by.factor

    def init(factor):
        return Scale(SimpleNamespace(factor=factor)).init(KEY, X)

    jax.jit(init)(jnp.ones(3))


# -- modules -------------------------------------------------------------------------


@mistake(errors.OptionError, ValueError)
def parent_is_no_module():
    nn.Dense(2, parent=3)


@mistake(errors.ArgumentTypeError, TypeError)
def hash_of_a_bound_module():
    hash(nn.Dense(2).bind({}))


@mistake(errors.MismatchError, ValueError)
def perturbation_is_missing():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.perturb("hidden", x)

    Net().apply({"perturbations": {"other": X}}, X)


@mistake(errors.ArgumentTypeError, TypeError)
def method_is_no_function():
    nn.Dense(2).init(KEY, X, method="features")


@mistake(errors.OptionError, ValueError)
def setting_is_given_twice():
    nn.merge_param("deterministic", True, False)


@mistake(errors.OptionError, ValueError)
def setting_is_given_nowhere():
    nn.merge_param("deterministic", None, None)


@mistake(errors.UnboundModuleError, ValueError)
def variables_of_an_unbound_module():
    nn.Dense(2).variables


@mistake(errors.UnboundModuleError, ValueError)
def path_of_an_unbound_module():
    nn.Dense(2).path


@mistake(errors.UnboundModuleError, AssertionError)
def parameter_of_an_unbound_module():
    nn.Dense(2).param("scale", nn.initializers.ones, ())


@mistake(errors.UnboundModuleError, ValueError)
def key_of_an_unbound_module():
    nn.Dense(2).make_rng("dropout")


@mistake(errors.DeclarationOutsideSetupError, ValueError)
def parameter_in_a_plain_method():
    class Net(nn.Module):
        def __call__(self, x):
            return self.param("scale", nn.initializers.ones, ())

    Net().init(KEY, X)


# -- the laws ------------------------------------------------------------------------


def raised(name: str) -> BaseException:
    with pytest.raises(errors.LinseyError) as caught:
        PROGRAMS[name][0]()
    return caught.value


def test_the_text_of_every_error():
    texts = "\n".join(f"# {name}\n{raised(name)}\n" for name in PROGRAMS)
    assert texts == TEXTS.read_text()


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_error_is_of_its_kind_and_has_three_parts(name):
    found, (_, kind, caught_by) = raised(name), PROGRAMS[name]
    assert type(found) is kind
    assert all(isinstance(found, builtin) for builtin in caught_by)
    assert all((found.found, found.why, found.fix))


# -- what the messages tell to write works -------------------------------------------


def test_the_number_of_instances_can_be_given():
    over = nn.vmap(lambda module, x: x, in_axes=None, axis_size=8)
    run(lambda module, x: over(module, x))


def test_the_number_of_steps_can_be_given():
    step = nn.scan(lambda module, carry: (carry, None), length=8)
    run(lambda module, x: step(module, x))


def test_what_depends_on_the_step_can_have_a_scan_axis():
    def step(module, carry, x):
        module.variable("state", "seen", lambda: x)
        return carry, None

    over = nn.scan(step, variable_axes={"state": 0})
    found = run(lambda module, x: over(module, 0, x))
    jax.tree.map(lambda a: None if (a == X).all() else pytest.fail(), found["state"])


def test_what_is_shared_can_have_no_axis():
    over = nn.vmap(lambda module, x, y: x + y.sum(), in_axes=(0, None))
    run(lambda module, x: over(module, jnp.ones((2, 3)), jnp.ones((4, 3))))


def test_a_child_scope_is_shared_by_calling_it_twice():
    def scale(scope, x):
        return x * scope.param("w", lambda key: jnp.full((), 2.0))

    def twice(scope, x):
        child = scope.child(scale, "a")
        return child(child(x))

    y, variables = core.init(twice)(KEY, X)
    assert (y == 4 * X).all()
    assert list(variables["params"]) == ["a"]


def test_an_unbound_module_has_a_hash():
    module = nn.Dense(2).bind({})
    assert hash(module.unbind()[0]) == hash(nn.Dense(2))


def test_the_axis_is_removed_by_the_name_under_which_it_was_added():
    box = Partitioned(X, (None, None)).add_axis(0, {PARTITION_NAME: "b"})
    assert box.remove_axis(0, {PARTITION_NAME: "b"}).names == (None, None)


def test_the_perturbations_of_init_fit():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.perturb("hidden", x)

    variables = Net().init(KEY, X)
    Net().apply({"perturbations": variables["perturbations"]}, X)
