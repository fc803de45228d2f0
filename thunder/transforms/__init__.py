"""Passes over traces: functions `Trace -> Trace`, run in a literal list by the pipeline."""

from thunder.transforms.delete_dead_values import delete_dead_values
from thunder.transforms.transform import Transform, apply_transforms, level_of

__all__ = ["Transform", "apply_transforms", "delete_dead_values", "level_of"]
