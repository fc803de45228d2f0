"""Passes over traces: functions `Trace -> Trace`, run in a literal list by the pipeline."""

from thunder.transforms.delete_dead_values import delete_dead_values
from thunder.transforms.drop_absent_inputs import drop_absent_inputs
from thunder.transforms.drop_empty_parts import drop_empty_parts
from thunder.transforms.eliminate_common_subexpressions import eliminate_common_subexpressions
from thunder.transforms.eliminate_dead_code import eliminate_dead_code
from thunder.transforms.fold_constants import fold_constants
from thunder.transforms.rematerialise import rematerialise
from thunder.transforms.transform import Transform, apply_transforms, level_of

__all__ = [
    "Transform",
    "apply_transforms",
    "delete_dead_values",
    "drop_absent_inputs",
    "drop_empty_parts",
    "eliminate_common_subexpressions",
    "eliminate_dead_code",
    "fold_constants",
    "level_of",
    "rematerialise",
]
