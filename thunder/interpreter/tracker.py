"""Provenance hooks: what the interpreter tells about the values that a program reads and writes.

A `Tracker` is asked for every read of state that the interpreted code performs, and told of every write.  Each method
of the base class does what plain Python does; a subclass overrides what it wants to know.  Values are ordinary Python
objects: a tracker that wants to know where a value came from keeps its own table, for the types that it cares about.

Hooks that would be called very often are filtered by exact type: `touch` and its like are called only for values
whose type is in `container_types`, `wrap` only for values whose type is in `wrapped_types`, `identity` only when an
operand's type is in `container_types` or `wrapped_types`.
"""

from __future__ import annotations

from types import CellType, FunctionType
from typing import TYPE_CHECKING, Any

from . import messages

if TYPE_CHECKING:
    from .interpreter import Interpreter


class Tracker:
    """Plain Python behaviour for every hook."""

    container_types: frozenset[type] = frozenset()
    wrapped_types: frozenset[type] = frozenset()
    interp: Interpreter  # set by the interpreter that the tracker is given to

    def load_global(self, global_names: dict[str, Any], builtins: dict[str, Any], name: str) -> Any:
        """A global variable or a builtin is read."""
        if name in global_names:
            return global_names[name]
        if name in builtins:
            return builtins[name]
        raise messages.unknown_name(name)

    def store_global(self, global_names: dict[str, Any], name: str, value: Any) -> None:
        """A global variable is assigned."""
        global_names[name] = value

    def delete_global(self, global_names: dict[str, Any], name: str) -> None:
        """A global variable is deleted."""
        if name not in global_names:
            raise messages.unknown_name(name)
        del global_names[name]

    def load_cell(self, cell: CellType, name: str) -> Any:
        """A variable that closures share is read. `name` is the variable's."""
        try:
            return cell.cell_contents
        except ValueError:
            pass  # raised below, where the ValueError does not become the context
        raise messages.unbound_cell(self.interp.frame, name)

    def store_cell(self, cell: CellType, value: Any, name: str) -> None:
        """A variable that closures share is assigned."""
        cell.cell_contents = value

    def delete_cell(self, cell: CellType, name: str) -> None:
        """A variable that closures share is deleted."""
        if messages.is_empty(cell):
            raise messages.unbound_cell(self.interp.frame, name)
        del cell.cell_contents

    def new_cell(self, cell: CellType) -> None:
        """An interpreted frame made a cell."""

    def new_function(self, function: FunctionType) -> None:
        """An interpreted `def` or `lambda` made a function."""

    def enter_function(self, function: FunctionType) -> None:
        """A function is about to be called: its code and its defaults are read."""

    def enter_partial(self, function: Any) -> None:
        """A `functools.partial` is about to be called: its function and arguments are read."""

    def for_text(self, obj: Any) -> Any:
        """What a text is made of where the program puts `obj` into one."""
        return obj

    def load_attr(self, obj: Any, name: str) -> Any:
        """An attribute is read."""
        return self.interp.getattr(obj, name)

    def store_attr(self, obj: Any, name: str, value: Any) -> None:
        """An attribute is assigned."""
        self.interp.setattr(obj, name, value)

    def delete_attr(self, obj: Any, name: str) -> None:
        """An attribute is deleted."""
        self.interp.delattr(obj, name)

    def load_item(self, obj: Any, key: Any) -> Any:
        """A subscript or slice is read."""
        return self.interp.getitem(obj, key)

    def store_item(self, obj: Any, key: Any, value: Any) -> None:
        """A subscript or slice is assigned."""
        self.interp.setitem(obj, key, value)

    def delete_item(self, obj: Any, key: Any) -> None:
        """A subscript or slice is deleted."""
        self.interp.delitem(obj, key)

    def touch(self, obj: Any) -> None:
        """The whole content of a container is read."""

    def touch_deeply(self, obj: Any) -> None:
        """The whole content of a container is read, and that of its items: it is compared, shown or searched."""
        self.touch(obj)

    def search(self, container: Any, item: Any) -> Any:
        """`item` is looked for in a container; the answer is what to look for."""
        self.touch_deeply(container)
        return item

    def compare(self, left: Any, right: Any) -> None:
        """Two objects are compared; those without a method of their own by who they are, also within containers."""

    def seen(self, container: Any) -> Any:
        """A container is compared or searched by native code; the answer takes its place."""
        return container

    def text(self, text: str) -> str:
        """A text has been made of the texts of other values; the answer replaces it."""
        return text

    def insert(self, container: Any, key: Any) -> None:
        """A key that is no int and no text is put into a dict or a set that is being made."""

    def change(self, obj: Any) -> None:
        """A container is about to be changed by an in-place operator."""

    def identity(self, left: Any, right: Any) -> bool:
        """`left is right` is decided."""
        return left is right

    def truth(self, obj: Any) -> bool:
        """The truth value of something else than a bool, None, int, str or float is decided."""
        return self.interp.truth(obj)

    def wrap(self, value: Any) -> Any:
        """A value comes out of an opaque call or an iterator; the answer replaces it."""
        return value

    def call_opaque(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Something that is not interpreted is called."""
        return function(*arguments, **keywords)
