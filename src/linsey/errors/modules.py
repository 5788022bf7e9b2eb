"""Mistakes with module classes and with modules: names, phases, methods."""

from __future__ import annotations

from typing import ClassVar

from linsey.errors.base import LinseyError, Names, listed, named


class NameInUseError(LinseyError, ValueError):
    """Two variables, parameters or submodules of a module share one name."""

    def __init__(self, key_type: str, value: str, module_name: str) -> None:
        super().__init__(
            f'Could not create {key_type} "{value}" in Module {module_name}: Name in '
            "use.",
            "Parameters, variables and submodules of one module share one namespace; "
            "this name was taken before.",
            "Give one of them another name, or create it once and use it twice.",
        )


class AssignSubModuleError(LinseyError):
    """A submodule is created where no submodules may be created."""

    def __init__(self, cls: str) -> None:
        super().__init__(
            f"Submodule {cls} must be defined in `setup()` or in a method wrapped in "
            "`@compact`",
            "Only there can it be given a name, and so a place in the variables.",
            "Put `@nn.compact` above the method, or write "
            f"`self.layer = {cls}(...)` in `setup`.",
        )


class SetAttributeInModuleSetupError(LinseyError):
    """A constructor field is assigned inside `setup`."""

    def __init__(self, *, module: object = None, attr_name: str | None = None) -> None:
        attr = "" if attr_name is None else f" Found `self.{attr_name} = ...`"
        where = "" if attr_name is None else f" in {named(module)}."
        super().__init__(
            f"Module construction attributes are frozen.{attr}{where}",
            "A module is the value of its fields; were they to change, the same "
            "module would mean different things before and after `setup`.",
            "Store it under another name in `setup`, or build the module with it: "
            "`module.clone(field=value)`.",
        )


class SetAttributeFrozenModuleError(LinseyError):
    """An attribute is assigned outside of `setup`."""

    def __init__(self, module_cls: str, attr_name: str, attr_val: object) -> None:
        super().__init__(
            f"Can't set {attr_name}={attr_val} for Module of type {module_cls}: Module "
            "instance is frozen outside of setup method.",
            "Modules hold no state: what a call leaves in an attribute is lost, or "
            "leaks a traced value.",
            f"Use a local variable, assign it in `setup`, or keep it as state with "
            f"`self.variable('state', '{attr_name}', init_fn)`.",
        )


class MultipleMethodsCompactError(LinseyError):
    """More than one method of a class is compact."""

    def __init__(self, *, module: object = None, methods: Names = None) -> None:
        which = ""
        if methods is not None:
            owner = "It" if module is None else named(module)
            which = f". {owner} has: {listed(methods)}."
        super().__init__(
            f"Only one method per class can be @compact{which}",
            "Names are counted in the order in which a compact method makes its "
            "submodules; with two, the same submodule would get two names.",
            "Make the shared submodules in `setup`, or wrap the methods with "
            "`@nn.compact_name_scope`.",
        )


class ReservedModuleAttributeError(LinseyError):
    """A module class declares `parent` or `name` as a field of its own."""

    def __init__(self, annotations: object) -> None:
        super().__init__(
            f"properties `parent` and `name` are reserved: {annotations}",
            "Every module has these two fields already; they say where it stands.",
            "Give your field another name.",
        )


class ApplyModuleInvalidMethodError(LinseyError):
    """The `method` given to `init` or `apply` is not a function of the module."""

    def __init__(self, method: object) -> None:
        super().__init__(
            f"Cannot call apply(): {method} is not a valid function for apply().",
            "`method` says what to run: a method of the module, its name, or a "
            f"function whose first argument is the module; found a "
            f"value of type {type(method).__name__}.",
            "Write `module.apply(variables, x, method='encode')`.",
        )


class CallCompactUnboundModuleError(LinseyError):
    """A compact method is called on a module that holds no variables."""

    def __init__(self, *, module: object = None) -> None:
        what = "" if module is None else f", here {named(module)}"
        super().__init__(
            f"Can't call compact methods on unbound modules{what}",
            "A module is only the description; its parameters are held outside.",
            "Write `variables = module.init(key, x)`, then "
            "`module.apply(variables, x)`.",
        )


class CallSetupUnboundModuleError(LinseyError):
    """`setup` is called by hand on a module that holds no variables."""

    def __init__(self, *, module: object = None) -> None:
        what = "" if module is None else f" ({named(module)})"
        super().__init__(
            f"Can't call compact methods on unbound modules{what}",
            "`setup` runs by itself when a module with variables is first used.",
            "Write `module.init(key, x)` or `module.bind(variables)`.",
        )


class CallUnbindOnUnboundModuleError(LinseyError):
    """`unbind` is called on a module that holds no variables."""

    def __init__(self, *, module: object = None) -> None:
        what = "" if module is None else f" ({named(module)})"
        super().__init__(
            f"Can't call `unbind()` on unbound modules{what}",
            "There are no variables to take it apart from.",
            "Write `module.bind(variables).unbind()`, or use the module as it is.",
        )


class CallShareScopeOnUnboundModuleError(LinseyError):
    """`share_scope` is called on modules that hold no variables."""

    def __init__(self) -> None:
        super().__init__(
            "Can't call `share_scope` on unbound modules",
            "Only while a call runs do modules stand somewhere in the variables.",
            "Call `nn.share_scope(self, self.layer)` in `setup` or in a compact "
            "method.",
        )


class InvalidInstanceModuleError(LinseyError):
    """`init` or `apply` is called on the class instead of on an instance."""

    def __init__(self, *, module: object = None) -> None:
        name = module.__name__ if isinstance(module, type) else "Model"
        super().__init__(
            "Can only call init, init_with_output or apply methods on an instance of "
            "the Module class, not the Module class itself",
            "The fields of the module have no values yet.",
            f"Write `{name}(...).init(key, x)`, with parentheses after the class.",
        )


class IncorrectPostInitOverrideError(LinseyError):
    """A module overrides `__post_init__` without calling the original."""

    def __init__(self, *, module: object = None) -> None:
        what = "" if module is None else f" in {named(module)}"
        super().__init__(
            "Overrode `.__post_init__()` without calling `super().__post_init__()`"
            f"{what}",
            "Modules register themselves with their parent there.",
            "End the override with `super().__post_init__()`.",
        )


class DescriptorAttributeError(LinseyError):
    """The code of a property or descriptor of a module raises AttributeError."""

    def __init__(self, *, module: object = None, attr_name: str | None = None) -> None:
        which = "" if attr_name is None else f" `{attr_name}` of {named(module)}"
        super().__init__(
            "Trying to access a property that is accessing a non-existent attribute.",
            f"The property{which} runs code that raised AttributeError; the cause is "
            "shown above.",
            "Correct the attribute name in the property, or assign it in `setup`.",
        )


class UnboundModuleError(LinseyError, ValueError, AssertionError):
    """Something that needs variables is requested from a module that has none."""

    _WORDS: ClassVar = {  # programs match these words
        "make_rng": "use RNGs",
        "has_rng": "query for RNGs",
        "variables": "access variables",
        "has_variable": "access variables",
        "get_variable": "access variables",
        "put_variable": "access variables",
        "sow": "store variables",
        "perturb": "store variables",
        "is_mutable_collection": "check mutability",
        "is_initializing": "check if running under init()",
        "path": "access module paths",
    }

    def __init__(self, what: str, *, module: object = None) -> None:
        name = type(module).__name__
        super().__init__(
            f"Can't {self._WORDS.get(what, f'use `{what}`')} on unbound modules",
            f"This {name} has no variables. A module holds variables only inside"
            " `init` or `apply`, or after `bind`.",
            f"Write `module.apply(variables, ...)`, or `{name}(...).bind(variables)`.",
        )


class DeclarationOutsideSetupError(LinseyError, ValueError):
    """A parameter or variable is declared in a method that cannot declare any."""

    def __init__(self, what: str, *, module: object = None) -> None:
        kind = {"param": "Parameters", "variable": "Variables"}[what]
        name = type(module).__name__
        super().__init__(
            f"{kind} must be initialized in `setup()` or in a method wrapped in "
            f"`@compact`, but a plain method of {name} calls `self.{what}`.",
            "Names are given in order of declaration; a plain method may run any "
            "number of times in any order.",
            f"Mark the method with `@nn.compact`, or call `self.{what}` in `setup`.",
        )
