"""The handlers of the instructions, grouped by family; importing this package registers them all."""

from __future__ import annotations

from . import (
    attributes,
    blocks,
    calls,
    classes_and_imports,
    containers,
    control_flow,
    exceptions,
    formatting,
    generators,
    intrinsics,
    names,
    operators,
    patterns,
    stack,
)

__all__ = [
    "attributes",
    "blocks",
    "calls",
    "classes_and_imports",
    "containers",
    "control_flow",
    "exceptions",
    "formatting",
    "generators",
    "intrinsics",
    "names",
    "operators",
    "patterns",
    "stack",
]
