"""Exceptions for names that have no value, worded as the running Python words them."""

from __future__ import annotations

import sys
from types import CellType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .frame import Frame

_NEW_WORDING = sys.version_info >= (3, 11)


def is_empty(cell: CellType) -> bool:
    """Whether a variable that closures share has no value."""
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return True
    return False


def unknown_name(name: str) -> NameError:
    """Neither a global variable nor a builtin."""
    return NameError(f"name '{name}' is not defined", name=name)


def unbound_local(name: str) -> UnboundLocalError:
    """A local variable without a value."""
    if _NEW_WORDING:
        return UnboundLocalError(f"cannot access local variable '{name}' where it is not associated with a value")
    return UnboundLocalError(f"local variable '{name}' referenced before assignment")


def unbound_cell(frame: Frame | None, name: str) -> NameError:
    """A variable that closures share, without a value; an unbound local where the frame itself owns it."""
    if frame is None or name not in frame.program.code.co_freevars:
        return unbound_local(name)
    if _NEW_WORDING:
        return NameError(
            f"cannot access free variable '{name}' where it is not associated with a value in enclosing scope",
            name=name,
        )
    return NameError(f"free variable '{name}' referenced before assignment in enclosing scope", name=name)
