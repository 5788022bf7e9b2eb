"""Differences that are on purpose, each with its row of `docs/compatibility.md`."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import flax.core
import flax.linen
import jax

from linsey.core import tracers
from tests.compat.programs.compare import Difference, find
from tests.compat.programs.outcome import FLAX, LINSEY, Outcome, run
from tests.compat.programs.syntax import Shape


@dataclass(frozen=True)
class Case:
    """A program and what both libraries did with it."""

    source: str
    shape: Shape
    numeric: bool
    theirs: Outcome
    ours: Outcome

    def has(self, *words: str) -> bool:
        return all(word in self.source for word in words)


@dataclass(frozen=True)
class Variation:
    """Another way to run Flax, in which it does what a row says of linsey.

    Attributes:
        change: what is done to the source.
        within: makes a context to run it in.
    """

    change: Callable[[str], str] = str
    within: Callable[[], AbstractContextManager[Any]] | None = None


Predicate = Callable[[Case, Difference], bool]


@dataclass(frozen=True)
class Known:
    """A difference on purpose.

    Attributes:
        row: how the first column of the row in `docs/compatibility.md` begins.
        applies: whether it explains a difference.
        variation: where given, how Flax must be run for the difference to be gone.
    """

    row: str
    applies: Predicate
    variation: Variation | None = None


def raises(name: str, *words: str) -> Predicate:
    """linsey raises an error of its own, in programs with one of the words."""

    def applies(case: Case, _: Difference) -> bool:
        found = type(case.ours.error).__name__ == name
        return found and (not words or any(word in case.source for word in words))

    return applies


def differs(pattern: str, *words: str) -> Predicate:
    """The cause has a form, in programs with all of the words."""

    def applies(case: Case, difference: Difference) -> bool:
        found = re.match(pattern, difference.cause, re.DOTALL)
        return bool(found) and case.has(*words)

    return applies


def shows(pattern: str, *words: str) -> Predicate:
    """The values that differ have a form, in programs with all of the words."""

    def applies(case: Case, difference: Difference) -> bool:
        text = f"{difference.cause} {difference.detail}"
        return bool(re.match(pattern, text, re.DOTALL)) and case.has(*words)

    return applies


def more_fields(case: Case, difference: Difference) -> bool:
    """Texts of modules differ by the fields that only linsey's `BatchNorm` has."""
    a, b = pair(difference)
    return a != b and a == re.sub(MORE_FIELDS, "", b)


def pair(difference: Difference) -> tuple[str, str]:
    """What Flax has, and what linsey has."""
    a, _, b = difference.detail.partition("Flax: ")[2].partition("\nlinsey: ")
    return a, b


MORE_FIELDS = (
    r"\n *(unbiased_variance|group_size|renorm|num_domains|frozen|nonfinite|"
    r"count_updates|activation|save_memory) = [^\n]*"
)


INIT_VARS = {"2.0", "3.0"}  # the values that the generator gives them


def private_calls(case: Case, difference: Difference) -> bool:
    """Calls of functions of the libraries, and of lambdas, are shown by one alone."""
    if not difference.cause.startswith(("facts", "keys")):
        return False
    lists = only_one_has(difference)
    if lists is None:
        a, b = pair(difference)
        return "'intermediates'" in a and public(a) == public(b)
    theirs, ours = lists
    paths = {NO_PATH} if case.has("intercept_methods", "module.path") else set()
    values = INIT_VARS if case.has("dataclasses.InitVar") else set()
    more = ({*theirs} ^ {*ours}) - paths - values
    return all(re.search(PRIVATE, one) for one in more)


def other_order(case: Case, difference: Difference) -> bool:
    """What interceptors saw is in one order but for what lifted functions stand in."""
    a, b = ([f for f in one.seen if f != NO_PATH] for one in (case.theirs, case.ours))
    return (
        "order of facts" in difference.cause and "intercept" in case.source and a == b
    )


def public(text: str) -> Any:
    """A tree that is shown as a text, without calls that one library alone shows."""

    def prune(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {
                k: prune(v) for k, v in tree.items() if not re.search(PRIVATE, str(k))
            }
        if isinstance(tree, list | tuple):
            return [prune(one) for one in tree]
        return tree

    try:
        return prune(ast.literal_eval(text))
    except (SyntaxError, ValueError):
        return text


def only_one_has(difference: Difference) -> tuple[list[str], list[str]] | None:
    """What only Flax has, and what only linsey has, where these are lists."""
    found = re.search(r"Flax: (\[.*\])\nlinsey: (\[.*\])$", difference.detail)
    if not found:
        return None
    return ast.literal_eval(found[1]), ast.literal_eval(found[2])


def more_children(case: Case, difference: Difference) -> bool:
    """Texts of modules differ by the modules in fields that only linsey's show."""
    a, b = pair(difference)
    return is_part(a, b) and "# children" in b and lifts(case)


def fewer_children(case: Case, difference: Difference) -> bool:
    """Texts of modules differ by what `setup`, run once more, made in Flax's."""
    a, b = pair(difference)
    if not (case.has("nn.jit") or case.has("nn.fold_rngs")) or "# children" not in a:
        return False
    lists = only_one_has(difference)
    if lists is None:
        return is_part(b, a)
    theirs, ours = lists  # a text that linsey shows elsewhere too is in neither
    return not ours and all(
        any(is_part(fact, text) for fact in case.ours.seen) for text in theirs
    )


def setup_twice(case: Case, difference: Difference) -> bool:
    """Texts of intermediates differ by what `setup`, run once more, gave in Flax."""
    a, b = pair(difference)
    once = re.sub(r"('setup': \('tuple', \[)([^,\]]+)(, \2)+\]", r"\1\2]", a)
    return a != b and once == b and (case.has("nn.jit") or case.has("nn.fold_rngs"))


def is_part(part: str, whole: str) -> bool:
    """Whether a text is another one without some of its lines."""
    rows = (re.sub(r"(?m)^( *)(.*)\(\)$", r"\1\2(\n\1)", one) for one in (part, whole))
    few, all_of_them = (one.split("\n") for one in rows)
    lines = iter(all_of_them)
    return part != whole and all(line in lines for line in few)


def forwarded(case: Case, difference: Difference) -> bool:
    """A number, which has no partition spec, went through a compiled function."""
    if not re.search(r"nn\.(jit|remat|checkpoint)\b", case.source):
        return False
    a, b = (text.replace("'P()'", "None") for text in pair(difference))
    specs = a == b and case.has("get_partition_spec")
    return specs or bool(re.match(FORWARDED, difference.cause))


def lifts(case: Case) -> bool:
    """Whether a program has a lifted transform."""
    return bool(re.search(LIFTED, case.source))


def field_named_scope(case: Case, difference: Difference) -> bool:
    """What a field of this name holds differs, or whether it can be hashed."""
    hashed = "Flax TypeError: Can't call __hash__ on modules that hold variables."
    found = difference.cause.startswith(hashed) or SCOPE in difference.detail
    return found and case.has("scope: Any")


SCOPE = "scope = < object>"


def moved(case: Case, difference: Difference) -> bool:
    """Messages differ by the path of a module in a shared scope."""
    words = re.match(r"words: Flax (.*?) *\| linsey (.*)", difference.cause)
    return bool(words) and words[1] == words[2] and case.has("nn.share_scope")


def moved_paths(case: Case, difference: Difference) -> bool:
    """Paths differ by the names of modules whose scope another one shares."""
    facts = difference.cause.startswith("facts")
    if not facts or not case.has("nn.share_scope", "path"):
        return False
    theirs, ours = ({*one.seen} for one in (case.theirs, case.ours))
    more = {one for one in theirs - ours if not re.search(PRIVATE, one)} - {NO_PATH}
    fewer = {shorter for shorter in ours if any(names_fewer(shorter, m) for m in more)}
    found = all(any(names_fewer(one, m) for one in ours) for m in more)
    return bool(more) and found and ours - theirs <= fewer


def names_fewer(path: str, other: str) -> bool:
    """Whether a path, as it is shown, is another one without some of its names."""
    few, names = (re.findall(r"'(\w+)'", one) for one in (path, other))
    rest = iter(names)
    return len(few) < len(names) and all(name in rest for name in few)


def without_path(case: Case, difference: Difference) -> bool:
    """Messages differ by the path that only linsey has for a module made in `setup`."""
    theirs, ours = pair(difference)
    words = re.match(r"(.*? in \")/\"", theirs)
    return bool(words) and ours.startswith(f"{words[1]}/") and case.has("def setup")


def path_of_another(case: Case, difference: Difference) -> bool:
    """Messages of Flax lack the module that has the `compact_name_scope` method."""
    theirs, ours = (re.search(r'in "(.*?)"', one) for one in pair(difference))
    found = bool(theirs and ours) and case.has("nn.compact_name_scope")
    return found and ours[1].endswith(re.sub(r".*(?=/part/|/part$)", "", theirs[1]))


def name_of_another(case: Case, difference: Difference) -> bool:
    """Flax has the name of such a method taken in the module outside."""
    found = re.search(r'Could not create submodule "(\w+)"', str(case.theirs.error))
    if not found or "Flax NameInUseError" not in difference.cause:
        return False
    method = rf"@nn\.compact_name_scope\s+def {found[1]}\b"
    return bool(re.search(method, case.source))


def variables_of_another(case: Case, difference: Difference) -> bool:
    """Flax has a name scope also in the module that uses another one."""
    if not difference.cause.startswith("keys at "):
        return False
    theirs, ours = (set(re.findall(r"'(\w+)'", one)) for one in pair(difference))
    captured = theirs - ours == {"__call__"} and all(
        re.match(r"Wrap\d+_\d+$", one) for one in ours - theirs
    )
    moved = theirs > ours or captured
    return moved and case.has("nn.compact_name_scope", "Wrap")


def frozen(*words: str) -> Predicate:
    """Only one library shows `FrozenDict`s, in programs with all of the words."""

    def plain(facts: list[str]) -> set[str]:
        facts = [fact for fact in facts if not re.search(PRIVATE, fact)]
        return {fact.replace("FrozenDict", "dict") for fact in facts}

    def applies(case: Case, difference: Difference) -> bool:
        a, b = (text.replace("FrozenDict", "dict") for text in pair(difference))
        listed = only_one_has(difference) and difference.cause.startswith("facts")
        same = listed and plain(case.theirs.seen) == plain(case.ours.seen)
        shown = "FrozenDict" in difference.detail
        return bool(shown and (a == b or same)) and case.has(*words)

    return applies


def modules_in_tables(case: Case, difference: Difference) -> bool:
    """Texts of modules in tables are long in Flax, and classes in linsey."""

    def short(fact: str) -> str:
        fact = re.sub(r'"(\w+)\(.*?\)"', r"\1", fact)
        return re.sub(r"'', |, ''", "", re.sub(r"\b(\w+)\(\)", r"\1", fact))

    a, b = ({*map(short, one.seen)} for one in (case.theirs, case.ours))
    return "facts" in difference.cause and case.has("tabulate") and a == b


def shared_name(case: Case, difference: Difference) -> bool:
    """The cells of a table are the same, those of a variable in another row."""

    def cells(fact: str) -> list[str]:
        return sorted({*re.findall(r"[\w.,-]+", fact)})

    a, b = ([*map(cells, one.seen)] for one in (case.theirs, case.ours))
    found = "facts" in difference.cause and case.has("tabulate", "nn.jit")
    return found and a == b


def broken_lines(case: Case, difference: Difference) -> bool:
    """Tables are the same but for the places where their lines are broken."""

    def joined(fact: str) -> str:
        return re.sub(r" +(?=')", "", re.sub(r"(', '| )+", " ", fact))

    a, b = ({*map(joined, one.seen)} for one in (case.theirs, case.ours))
    calls = all(re.match(rf"\('tuple'.*({PRIVATE})", one) for one in a ^ b)
    return "facts" in difference.cause and case.has("tabulate") and calls


def init_vars(case: Case, difference: Difference) -> bool:
    """The values of `InitVar`s differ, those that the generator knows."""
    if re.match(r"Flax .*__post_init__\(\) missing", difference.cause):
        return True
    found = {*case.theirs.seen} ^ {*case.ours.seen} <= INIT_VARS
    return "facts" in difference.cause and found and case.has("dataclasses.InitVar")


def lifted_order(case: Case, difference: Difference) -> bool:
    """Keys are in another order, in a program with a lifted transform."""
    transformed = lifts(case) or case.has("lazy_init")
    return difference.cause.startswith("order of keys") and transformed


LIFTED = (
    r"nn\.(jit|remat|checkpoint|vmap|scan|remat_scan|fold_rngs|map_variables|vjp|jvp|"
    r"custom_vjp|grad|value_and_grad|while_loop|cond|switch|add_metadata_axis)\b"
)


def leaks(case: Case, _: Difference) -> bool:
    """linsey refuses what leaves values of an inner transform behind in Flax."""
    refused = "Jax transforms and Flax models|broadcasted variable has a data depend"
    if not re.match(refused, str(case.ours.error)):
        return False
    found: list[bool] = []
    with watching(found):
        run(case.source, FLAX, case.shape, case.numeric)
    return any(found)


@contextmanager
def watching(found: list[bool]) -> Iterator[None]:
    """Notes of each value that Flax writes whether an inner transform will end it."""
    scope = flax.core.Scope
    begin, put = scope.__init__, scope.put_variable
    traces: dict[int, Any] = {}
    kept: list[Any] = []  # or another scope could have the same id

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        kept.append(self)
        traces[id(self)] = tracers.current_trace()

    def put_variable(self: Any, col: str, name: str, value: Any) -> None:
        found.append(tracers.leaks(traces[id(self.root)], value))
        put(self, col, name, value)

    with mock.patch.multiple(scope, __init__=__init__, put_variable=put_variable):
        yield


@functools.lru_cache(maxsize=1)
def with_other_keys(source: str, shape: Shape, numeric: bool) -> Outcome:
    """What linsey does with other keys. A case asks once for each difference."""
    other = re.sub(r"random\.key\((\d+)\)", r"random.key(7\1)", source)
    return run(other, LINSEY, shape, numeric, seed=7)


def from_keys(*words: str) -> Predicate:
    """A value that depends on the keys, in programs with all of the words."""

    def applies(case: Case, difference: Difference) -> bool:
        if not case.has(*words) or not difference.cause.startswith(("bits", "num")):
            return False
        moved = with_other_keys(case.source, case.shape, case.numeric)
        a, b = (find(one.out, difference.path) for one in (case.ours, moved))
        return bool((a.values != b.values).any())

    return applies


def traced_anew(function: Any = None, **options: Any) -> Any:
    """Stands for `jax.jit`: the function is traced at each call."""
    if function is None:
        return functools.partial(traced_anew, **options)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        another = functools.wraps(function)(lambda *a, **k: function(*a, **k))
        return JIT(another, **options)(*args, **kwargs)

    return call


JIT = jax.jit
TRACED_EACH_TIME = Variation(
    within=lambda: mock.patch.object(jax, "jit", traced_anew),
)


@contextmanager
def made_once() -> Iterator[None]:
    """Has `map_variables(..., init=True)` create variables only where none exist."""
    lift = flax.core.lift.map_variables
    signature = inspect.signature(lift)

    def map_variables(*args: Any, **kwargs: Any) -> Any:
        options = signature.bind(*args, **kwargs).arguments

        def call(scopes: Any, *args: Any, **kwargs: Any) -> Any:
            mapped = options["mapped_collections"]
            exist = any(
                tree and flax.core.scope.in_filter(mapped, name)
                for scope in jax.tree.leaves(scopes)
                for name, tree in scope.variables().items()
            )
            init = bool(options.get("init")) and not exist
            writes = init or bool(options.get("init") or options.get("mutable"))
            lifted = lift(**options | {"init": init, "mutable": writes})
            return lifted(scopes, *args, **kwargs)

        return call

    with mock.patch.object(flax.core.lift, "map_variables", map_variables):
        yield


MADE_ONCE = Variation(within=made_once)
# Two bound modules are never equal.
NOT_COMPARED = Variation(
    lambda source: source.replace("bound == model.bind(variables)", "False")
)


MADE_TWICE = (
    "Flax ScopeParamShapeError: For parameter |(values|bits|numbers|lengths) at init"
)
TWICE = "(lengths at|facts:) .*intermediates"
SETUP_TWICE = "lengths at .*/setup$|keys at .*/setup: Flax"
SCALES = "(Flax ScopeParamNotFoundError: |keys at .*params).*/scale|Flax InvalidRngE"
LENGTHS = r"Flax \w+: .* \| linsey ShapeError: Inconsistent batch axis sizes"
CARRY = "Flax TypeError: scan body function carry input and carry output must"
AXES = "values at .*names|facts|Flax AssertionError|words: Flax PartitioningUnspecifi"
NAME_SCOPES = (
    "(words: )?Flax AssignSubModuleError: Submodule CompactNameScope|"
    '(words: )?Flax NameInUseError: Could not create submodule "(part|__call__)"|'
    r"Flax TypeError: unsupported operand type\(s\) for \+: 'dict' and 'tuple'|"
    "(keys|facts).*('part'|CompactNameScope)|keys at [^:]*params: .*'__call__'"
)
TREES = "Flax (AttributeError: '(tuple|list)' .*_state|AssertionError: scope list mism)"
PRIVATE = (
    "<lambda>|scan_fn|layer_forward|shared_forward_fn|_l2_normalize|_get_bias_shape|"
    "_spectral_normalize|"
    "'(Jit|Fold_rngs|Map_variables|Checkpoint|Vmap|Scan|Remat_scan)[A-Z].*'setup'"
)
NO_PATH = "('tuple', [])"  # of what surrounds a lifted function
NO_ARRAY = (
    r"Flax AttributeError: '\w+' object has no attribute '(ndim|shape|dtype)' *\| "
    "linsey (InputRank|AxisOutOfRange|IntegerInput|Shape)Error|"
    "Flax TypeError: '>=' not supported between instances of 'NoneType'"  # PReLU
)
SHARED_NAME = (
    "Flax (passes|TypeError: .* object is not iterable) . "
    'linsey NameInUseError: Could not create submodule "[^"]*" in Module PATH'
)
LEAKED = r"Flax UnexpectedTracerError: .*\| linsey passes"
NORMED = "words: Flax ScopeParamShapeError"
CALLED_UNBOUND = (
    r"Flax (CallCompactUnboundModuleError|TypeError: [\w#]+\.__call__\(\) takes)"
)
UNBOUND = (
    "Flax (ValueError: (not enough values|pytree structure|vmap in_axes spec)|"
    "IndexError: tuple index).*"
    "linsey (CallCompactUnboundModuleError|AttributeError)"
)
PARTIALS = "Flax AttributeError: 'functools.partial' object has no attribute '__name__'"
FORWARDED = r"values at .*Flax #(\.#)? \| linsey Array\(shape=\(\)"
COMPARED = r"Flax .* \| linsey (ValueError: The truth value of|TracerBoolConversion)"
LIFTED_CLASS = (
    r"words: Flax NameInUseError: .* in Module (Jit|Vmap|Checkpoint|Remat|Scan|Map_)"
)
NUMBERS = "Flax TypeError: iteration over a #-d array|Flax TypeError: '(int|float)' ob"
SYMBOLIC = (
    r"Flax (InconclusiveDim|TypeError: .* for \*: 'DynamicJaxprTracer' and 'list')"
)
EAGER = r"Flax (passes|LazyInitError: .*) \| linsey JaxTransformError"
UNPACKED = (
    "Flax (ValueError: (too many|not enough) values to unpack|TypeError: .*linsey "
    r"(IndexError: Too many indices|TypeError: '\w+' object is not subscriptable))"
)
CALLS = "(keys|lengths|facts|order of facts)"

KNOWN = (
    Known(
        "A training call without `batch_stats`",
        raises("MissingBatchStatsError", "BatchNorm"),
    ),
    Known("An axis name that is not bound", raises("UnboundAxisNameError")),
    Known("A traced `use_running_average`", raises("TracedFlagError")),
    Known(
        "An input whose number of channels differs from",
        raises("FeatureShapeChangedError"),
    ),
    Known("A training step on one value", raises("SingleValuePerChannelError")),
    Known(
        "Running averages that were cast to half precision",
        raises("HalfPrecisionStatisticsError"),
    ),
    Known("`Dropout` accepts a rate that is not a", raises("DropoutRateError")),
    Known(
        "Keys drawn inside `nn.jit`",
        differs("(bits|numbers) ", "nn.jit"),
        TRACED_EACH_TIME,
    ),
    Known(
        "If `nn.jit` has compiled a program before, interceptors",
        differs(CALLS, "nn.jit", "capture_inter"),
        TRACED_EACH_TIME,
    ),
    Known(
        "If `nn.jit` has compiled a program before, interceptors",
        differs(CALLS, "nn.jit", "intercept_methods"),
        TRACED_EACH_TIME,
    ),
    Known(
        "`nn.map_variables(..., init=True)`",
        lambda case, _: case.has("nn.map_variables", "init=True"),
        MADE_ONCE,
    ),
    Known(
        "`nn.map_variables(..., init=True)`",
        differs(MADE_TWICE, "nn.map_variables", "init=self.is_initializing()"),
    ),
    Known(
        "Modules with JAX arrays in their fields fail",
        differs("Flax TypeError: iteration over a #-d array", "nn.jit"),
    ),
    Known(
        "If `nn.jit` or `nn.fold_rngs` lifts a method, `setup`",
        differs(SETUP_TWICE, "nn.jit"),
    ),
    Known(
        "If `nn.jit` or `nn.fold_rngs` lifts a method, `setup`",
        differs(SETUP_TWICE, "nn.fold_rngs"),
    ),
    Known("If `nn.jit` or `nn.fold_rngs` lifts a method, `setup`", fewer_children),
    Known("If `nn.jit` or `nn.fold_rngs` lifts a method, `setup`", setup_twice),
    Known("Inside a lifted function, the `repr` of a", more_children),
    Known(
        "Inside `while_loop`, collections that are only read are",
        frozen("nn.while_loop"),
    ),
    Known("If the scanned axes have different lengths, a", differs(LENGTHS, "nn.scan")),
    Known("After `share_scope`, errors inside a lifted layer, such", moved),
    Known("After `share_scope`, errors inside a lifted layer, such", moved_paths),
    Known("Errors in `setup` of a lifted module", without_path),
    Known(
        "A `compact_name_scope` method that is a property",
        differs("Flax KeyError: '[\\w#]+'", "nn.compact_name_scope", "super()."),
    ),
    Known(
        "A `compact_name_scope` method that is a property",
        differs("Flax KeyError: '[\\w#]+'", "nn.compact_name_scope", "property"),
    ),
    Known(
        "`WeightNorm(variable_filter=None)` normalizes state and captured",
        shows(SCALES, "nn.WeightNorm", "variable_filter=None"),
    ),
    Known("A field named `scope`", field_named_scope),
    Known(
        "A field named `init`",
        differs("Flax TypeError: 'int' object is not callable", "init: int"),
    ),
    Known(
        "A layer with an unbound `parent`",
        differs("Flax AssertionError: -.*linsey AssignSubModuleError", "parent="),
    ),
    Known(
        "Circular and mirrored padding fail",
        differs(SYMBOLIC, "CIRCULAR", "symbolic_shape"),
    ),
    Known("A bare `nn.Module()`", differs("Flax RecursionError", "nn.Module().")),
    Known(
        "An axis added at position -1",
        differs(AXES, "nn.PARTITION_NAME", ": -1}"),
    ),
    Known(
        "`WeightNorm` prevents the inner layer from updating state,",
        shows("keys at .*intermediates", "nn.WeightNorm", "capture_intermediates"),
    ),
    Known(
        "`nn.map_variables(..., init=True)`",
        shows(TWICE, "nn.WeightNorm", "capture_intermediates"),
    ),
    Known(
        "`nn.map_variables(..., init=True)`",
        shows(TWICE, "nn.SpectralNorm", "capture_intermediates"),
    ),
    Known("| Additional fields, whose defaults", more_fields),
    Known("Writing a value of an inner JAX transform", leaks),
    Known(
        "`vjp`, `jvp` and `custom_vjp` refuse",
        differs("Flax NotImplementedError: This transform does not yet support Mod"),
    ),
    Known(
        "`while_loop` fails if it carries an immutable collection",
        differs("Flax TypeError: while_loop body", "nn.while_loop", "carry_variables"),
    ),
    Known(
        "`nn.jit` of a function fails with `TypeError` if",
        differs("Flax TypeError: 'InstancePlaceholder' object is", "nn.jit(lambda m"),
    ),
    Known(
        "While variables are created, `nn.remat_scan` may run in",
        differs("Flax passes . linsey JaxTransf", "nn.remat_scan", "jax.checkpoint("),
    ),
    Known(
        "`lazy_init` computes initial values while",
        differs("Flax NotImplementedError: .*Unsupported dtype", "lazy_init"),
    ),
    Known(
        "In `lazy_init`, a function under `custom_jvp` or `custom_vjp`",
        differs(EAGER, "nn.custom_vjp", "lazy_init"),
    ),
    Known(
        "`Module.init(..., mutable=False)`",
        differs(UNPACKED, "init(", "mutable=False"),
    ),
    Known("A `compact_name_scope` method of a submodule", path_of_another),
    Known("A `compact_name_scope` method of a submodule", name_of_another),
    Known("A `compact_name_scope` method of a submodule", variables_of_another),
    Known(
        "A `compact_name_scope` method of a submodule",
        shows(NAME_SCOPES, "nn.compact_name_scope"),
    ),
    Known("`cond`, `switch`, `vjp`, ... take one module.", differs(TREES)),
    Known(
        "The message of `LazyInitError` lacks two words and",
        differs("words: Flax LazyInitError", "lazy_init"),
    ),
    Known(
        "Interceptors and captured intermediates also see internal functions,",
        private_calls,
    ),
    Known(
        "Interceptors and captured intermediates also see internal functions,",
        differs("Flax IndexError: tuple index", "nn.intercept_methods"),
    ),
    Known(
        "Interceptors and captured intermediates also see internal functions,",
        differs("Flax IndexError: tuple index", "nn.WeightNorm", "capture_inter"),
    ),
    Known(
        "Interceptors and captured intermediates also see internal functions,",
        differs("Flax AttributeError: '(int|Typed.*)' object has no.*size", "capture_"),
    ),
    Known(
        "Interceptors and captured intermediates also see internal functions,",
        differs("order of facts", "nn.intercept_methods", "nn.fold_rngs"),
    ),
    Known(
        "Interceptors and captured intermediates also see internal functions,",
        other_order,
    ),
    Known(
        '`method="head"` fails in `init` if `head` is a',
        differs(CALLED_UNBOUND, "method='inner"),
    ),
    Known("An input that is not an array, such", differs(NO_ARRAY)),
    Known(
        "A lifted function whose first arg", differs("Flax Attr.*attribute '?_state")
    ),
    Known("A lifted function of an unbound module", differs(UNBOUND)),
    Known("Keys that are drawn in `vjp` inside", differs(LEAKED, "nn.custom_vjp")),
    Known(
        "In `WeightNorm`, a kernel of the wrong shape", differs(NORMED, "nn.WeightNorm")
    ),
    Known(
        "A completely masked example becomes NaN in layer,",
        differs("finite num", "mask="),
    ),
    Known(
        "After `del self.name`, the name is None.",
        differs(".*has no attribute 'name'", "del self"),
    ),
    Known(
        "Inside a lifted function, giving a submodule the",
        differs("Flax TypeError: Array.__cont"),
    ),
    Known(
        "Inside a lifted function, giving a submodule the",
        differs(SHARED_NAME, ".sow("),
    ),
    Known("In `lazy_init`, a variable that is a Python", forwarded),
    Known(
        "If `nn.scan` or `nn.remat_scan` broadcasts a variable that",
        differs(FORWARDED, "variable_broadcast", "nn.remat"),
    ),
    Known(
        "If `nn.scan` or `nn.remat_scan` broadcasts a variable that",
        differs(COMPARED, "variable_broadcast", "nn.remat", "== bound.variables"),
    ),
    Known("Tables and interceptors fail if a program lifts", differs(PARTIALS)),
    Known("Errors inside a lifted class call the class", differs(LIFTED_CLASS)),
    Known("`fold_rngs` of a method fails", differs(NUMBERS, "nn.fold_rngs")),
    Known(
        "`DenseGeneral` fails if the number of channels is",
        differs("Flax Concretization", "nn.DenseGeneral", "symbolic_shape"),
    ),
    Known("A table wraps the texts of partitioned variables", broken_lines),
    Known("If a variable has the same name as", shared_name),
    Known(
        "`RNN` accepts `seq_lengths` with more axes than the",
        differs(".*linsey ShapeError: `seq_lengths`", "seq_lengths"),
    ),
    Known(
        "Inside `nn.add_metadata_axis` and `nn.map_variables`, immutable collections",
        differs("facts: .*FrozenDi", "nn.add_metadata_axis", "FrozenDict"),
    ),
    Known(
        "Inside `nn.add_metadata_axis` and `nn.map_variables`, immutable collections",
        frozen("nn.map_variables", "FrozenDict"),
    ),
    Known(
        "A table shows a layer in a shared",
        differs("facts", "nn.tabulate", "nn.share_scope"),
    ),
    Known("A table shows a module among the arguments", modules_in_tables),
    Known(
        "A `setup` that is marked with `compact` or", raises("UsageError", "def setup")
    ),
    Known("The value of an `InitVar`", init_vars),
    Known(
        "Comparing bound modules that hold other modules raises",
        differs("Flax RecursionError: ", "== model.bind"),
        NOT_COMPARED,
    ),
    Known(
        "`SpectralNorm` fails for a layer with a partitioned",
        differs("Flax AttributeError: '(Sequence|GetAttr)Key'", "nn.SpectralNorm"),
    ),
    Known(
        "A collection in `variable_carry` must exist",
        differs(f"{CARRY} have the same pytree", "variable_carry"),
    ),
    Known(
        "`RNN` fails in `scan` if a step widens",
        differs(f"{CARRY} have equal types", "nn.RNN"),
    ),
    Known(
        "`remat_scan` refuses partitioned",
        differs("(words: )?Flax PartitioningUnspecified", "nn.remat_scan"),
    ),
    Known("`static_argnums` of `nn.remat` fail", differs("Flax ValueError: the `stat")),
    Known(
        "`bind` does not accept a single key as",
        differs("Flax InvalidRngError: rngs should be a dict", "model.bind"),
    ),
    Known("A body under `nn.jit` that", differs("facts", "nn.jit"), TRACED_EACH_TIME),
    Known(
        "`fold_rngs` of a function whose module holds other", from_keys("nn.fold_rngs")
    ),
    Known(
        "`fold_rngs` of a function whose module holds other",
        from_keys("nn.jit", "other"),
    ),
    Known(
        "`fold_rngs` of a function whose module holds other",
        from_keys("nn.jit", "lambda m, o"),
    ),
    Known(
        "`fold_rngs` of a function whose module holds other",
        from_keys("nn.jit(lambda m"),
    ),
    Known(
        "`fold_rngs` of a function whose module holds other",
        from_keys("nn.jit(nn.RNN)(nn."),
    ),
    Known("An outer module that draws keys in the", from_keys("nn.scan")),
    Known("An outer module that draws keys in the", from_keys("nn.vmap")),
    Known("Variables that passed through lifted transforms have sorted", lifted_order),
    Known(
        "Statistics start as float32 and become float64 or",
        differs("values at .*(mean|var): .*complex|Flax .*Error", "1j * x", "BatchNo"),
    ),
    Known(
        "Statistics start as float32 and become float64 or",
        shows("facts.*\nlinsey: .*mean: complex", "1j * x", "BatchNo", "tabulate"),
    ),
)


def explain(case: Case, difference: Difference) -> list[Known]:
    """The rows that explain a difference."""
    return [known for known in KNOWN if known.applies(case, difference)]
