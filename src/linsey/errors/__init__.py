"""Every mistake linsey can name, one class for each.

A message has three parts, one a line: *found* (what was met, with path and
shapes), *why* (why it cannot work) and *fix* (the line to write instead). They
are attributes of the exception too, so that a tool can show the first alone.
The opening sentence keeps the words that programs written for Flax match on.

Positional arguments of the constructors are those of Flax; keywords that follow
them only make a message richer. Every error can be pickled and copied, whatever
its arguments were: what travels is the finished text.
"""

from linsey.errors.base import (
    FlaxError,
    LinseyError,
)
from linsey.errors.misuse import (
    FeatureShapeChangedError,
    FrozenDictIsImmutableError,
    MissingBatchStatsError,
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
    PartitionNameMismatchError,
    ScopeCollectionNotFound,
    ScopeParamNotFoundError,
    ScopeParamShapeError,
    ScopeVariableNotFoundError,
    TraceContextError,
)
from linsey.errors.trees import (
    AlreadyExistsError,
    CursorFindError,
    InvalidCheckpointError,
    MalformedBytesError,
    MPACheckpointingRequiredError,
    MPARestoreDataCorruptedError,
    MPARestoreTargetRequiredError,
    StateDictMismatchError,
    TransformedMethodReturnValueError,
    TransformTargetError,
    TraverseTreeError,
)

__all__ = [
    "AlreadyExistsError",
    "ApplyModuleInvalidMethodError",
    "ApplyScopeInvalidVariablesStructureError",
    "ApplyScopeInvalidVariablesTypeError",
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
    "ImmutableVariableError",
    "IncorrectPostInitOverrideError",
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
    "MissingBatchStatsError",
    "ModifyScopeVariableError",
    "MultipleMethodsCompactError",
    "NameInUseError",
    "PartitionNameMismatchError",
    "PartitioningUnspecifiedError",
    "ReservedModuleAttributeError",
    "ScopeCollectionNotFound",
    "ScopeParamNotFoundError",
    "ScopeParamShapeError",
    "ScopeVariableNotFoundError",
    "SetAttributeFrozenModuleError",
    "SetAttributeInModuleSetupError",
    "SingleValuePerChannelError",
    "StateDictMismatchError",
    "TraceContextError",
    "TracedFlagError",
    "TransformTargetError",
    "TransformedMethodReturnValueError",
    "TraverseTreeError",
    "UnboundAxisNameError",
    "UnboundModuleError",
]
