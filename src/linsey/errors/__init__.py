"""Every mistake linsey can name, one class for each.

A message has three parts, one a line: *found* (what was met, with path and
shapes), *why* (why it cannot work) and *fix* (the line to write instead). They
are attributes of the exception too, so that a tool can show the first alone.
The opening sentence keeps the words that programs written for Flax match on.

Positional arguments of the constructors are those of Flax; keywords that follow
them only make a message richer. Every error can be pickled and copied, whatever
its arguments were: what travels is the finished text.

The errors of single layers, of names of axes and of objects are here too. Their files
are imported when one of them is asked for.
"""

# ruff: noqa: F403 (each file holds nothing but its errors)

import importlib
from typing import TYPE_CHECKING

from linsey.errors.base import (
    ArgumentTypeError,
    FlaxError,
    LinseyError,
    MismatchError,
    OptionError,
    ShapeError,
    UnsupportedError,
    UsageError,
)
from linsey.errors.files import (
    AlreadyExistsError,
    InputError,
    InvalidCheckpointError,
    MPACheckpointingRequiredError,
    MPARestoreDataCorruptedError,
    MPARestoreTargetRequiredError,
)
from linsey.errors.misuse import (
    FeatureShapeChangedError,
    FrozenDictIsImmutableError,
    HalfPrecisionStatisticsError,
    MissingBatchStatsError,
    NonFiniteBatchError,
    SingleValuePerChannelError,
    TracedFlagError,
    UnboundAxisNameError,
)
from linsey.errors.modules import (
    ApplyModuleInvalidMethodError,
    AssignSubModuleError,
    CallCompactUnboundModuleError,
    CallSetupUnboundModuleError,
    CallShareScopeOnUnboundModuleError,
    CallUnbindOnUnboundModuleError,
    DeclarationOutsideSetupError,
    DescriptorAttributeError,
    IncorrectPostInitOverrideError,
    InvalidInstanceModuleError,
    MultipleMethodsCompactError,
    NameInUseError,
    ReservedModuleAttributeError,
    SetAttributeFrozenModuleError,
    SetAttributeInModuleSetupError,
    UnboundModuleError,
)
from linsey.errors.optimizers import (
    GradientStructureError,
    HyperParamUnknownError,
    OptimizerStateDictError,
)
from linsey.errors.scopes import (
    ApplyScopeInvalidVariablesStructureError,
    ApplyScopeInvalidVariablesTypeError,
    ImmutableVariableError,
    InvalidFilterError,
    InvalidRngError,
    InvalidScopeError,
    JaxTransformError,
    LazyInitError,
    ModifyScopeVariableError,
    PartitioningUnspecifiedError,
    ScopeCollectionNotFound,
    ScopeParamNotFoundError,
    ScopeParamShapeError,
    ScopeVariableNotFoundError,
    TraceContextError,
)
from linsey.errors.trees import (
    CursorFindError,
    MalformedBytesError,
    StateDictMismatchError,
    TransformedMethodReturnValueError,
    TransformTargetError,
    TraverseTreeError,
)

if TYPE_CHECKING:
    from linsey.errors.layers import *
    from linsey.errors.treex import *

_LATER = ("layers", "treex")


if not TYPE_CHECKING:  # type checkers would take every name for an error

    def __getattr__(name: str) -> object:
        if name.endswith("Error"):  # else the name of a file would import all of them
            for file in _LATER:
                found = vars(importlib.import_module(f"{__name__}.{file}")).get(name)
                if found is not None:
                    globals()[name] = found
                    return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    files = [importlib.import_module(f"{__name__}.{file}") for file in _LATER]
    later = {name for file in files for name in vars(file) if name.endswith("Error")}
    return sorted({*globals(), *later})


__all__ = [
    "AlreadyExistsError",
    "ApplyModuleInvalidMethodError",
    "ApplyScopeInvalidVariablesStructureError",
    "ApplyScopeInvalidVariablesTypeError",
    "ArgumentTypeError",
    "AssignSubModuleError",
    "CallCompactUnboundModuleError",
    "CallSetupUnboundModuleError",
    "CallShareScopeOnUnboundModuleError",
    "CallUnbindOnUnboundModuleError",
    "CursorFindError",
    "DeclarationOutsideSetupError",
    "DescriptorAttributeError",
    "FeatureShapeChangedError",
    "FlaxError",
    "FrozenDictIsImmutableError",
    "GradientStructureError",
    "HalfPrecisionStatisticsError",
    "HyperParamUnknownError",
    "ImmutableVariableError",
    "IncorrectPostInitOverrideError",
    "InputError",
    "InvalidCheckpointError",
    "InvalidFilterError",
    "InvalidInstanceModuleError",
    "InvalidRngError",
    "InvalidScopeError",
    "JaxTransformError",
    "LazyInitError",
    "LinseyError",
    "MPACheckpointingRequiredError",
    "MPARestoreDataCorruptedError",
    "MPARestoreTargetRequiredError",
    "MalformedBytesError",
    "MismatchError",
    "MissingBatchStatsError",
    "ModifyScopeVariableError",
    "MultipleMethodsCompactError",
    "NameInUseError",
    "NonFiniteBatchError",
    "OptimizerStateDictError",
    "OptionError",
    "PartitioningUnspecifiedError",
    "ReservedModuleAttributeError",
    "ScopeCollectionNotFound",
    "ScopeParamNotFoundError",
    "ScopeParamShapeError",
    "ScopeVariableNotFoundError",
    "SetAttributeFrozenModuleError",
    "SetAttributeInModuleSetupError",
    "ShapeError",
    "SingleValuePerChannelError",
    "StateDictMismatchError",
    "TraceContextError",
    "TracedFlagError",
    "TransformTargetError",
    "TransformedMethodReturnValueError",
    "TraverseTreeError",
    "UnboundAxisNameError",
    "UnboundModuleError",
    "UnsupportedError",
    "UsageError",
]
