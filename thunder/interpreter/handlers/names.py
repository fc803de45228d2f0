"""Global variables, names of class bodies and modules, and variables that closures share (cells)."""

from __future__ import annotations

from types import CellType
from typing import Any

from ..frame import NULL, Frame
from ..instructions import Operand, instruction, tracked
from ..messages import is_empty, unbound_cell, unknown_name


def _global(frame: Frame, name: str) -> Any:
    """The global variable or builtin `name`, for frames whose namespaces may be any mapping."""
    tracker = frame.tracker
    if tracker is not None:
        return tracker.load_global(frame.globals, frame.builtins, name)
    try:
        return frame.globals[name]
    except KeyError:
        pass
    try:
        return frame.builtins[name]
    except KeyError:
        pass  # raised below, where the KeyError does not become the context
    raise unknown_name(name)


@instruction("LOAD_GLOBAL", Operand.NAME)
def load_global(frame: Frame, stack: list[Any], name: str) -> None:
    try:
        value = frame.globals[name]
    except KeyError:
        value = NULL
    if value is NULL:
        try:
            value = frame.builtins[name]
        except KeyError:
            value = NULL
        if value is NULL:
            raise unknown_name(name)
    stack.append(value)


@tracked("LOAD_GLOBAL")
def load_global_tracked(frame: Frame, stack: list[Any], name: str) -> None:
    stack.append(frame.tracker.load_global(frame.globals, frame.builtins, name))


@instruction("STORE_GLOBAL", Operand.NAME)
def store_global(frame: Frame, stack: list[Any], name: str) -> None:
    frame.globals[name] = stack.pop()


@tracked("STORE_GLOBAL")
def store_global_tracked(frame: Frame, stack: list[Any], name: str) -> None:
    frame.tracker.store_global(frame.globals, name, stack.pop())


@instruction("DELETE_GLOBAL", Operand.NAME)
def delete_global(frame: Frame, stack: list[Any], name: str) -> None:
    if name not in frame.globals:
        raise unknown_name(name)
    del frame.globals[name]


@tracked("DELETE_GLOBAL")
def delete_global_tracked(frame: Frame, stack: list[Any], name: str) -> None:
    frame.tracker.delete_global(frame.globals, name)


def _namespace(frame: Frame, name: str) -> Any:
    """`name` in the frame's own namespace, or NULL. A module's namespace is its globals, and tracked as such."""
    names = frame.names
    if type(names) is dict:
        if names is frame.globals and frame.tracker is not None:
            return NULL
        return names.get(name, NULL)
    try:
        return frame.interpreter.getitem(names, name)
    except KeyError:
        return NULL


@instruction("LOAD_NAME", Operand.NAME)
def load_name(frame: Frame, stack: list[Any], name: str) -> None:
    value = _namespace(frame, name)
    stack.append(_global(frame, name) if value is NULL else value)


@instruction("STORE_NAME", Operand.NAME)
def store_name(frame: Frame, stack: list[Any], name: str) -> None:
    names = frame.names
    if type(names) is dict:
        if names is frame.globals and frame.tracker is not None:
            frame.tracker.store_global(names, name, stack.pop())
        else:
            names[name] = stack.pop()
    else:
        frame.interpreter.setitem(names, name, stack.pop())


@instruction("DELETE_NAME", Operand.NAME)
def delete_name(frame: Frame, stack: list[Any], name: str) -> None:
    names = frame.names
    if names is frame.globals and frame.tracker is not None:
        frame.tracker.delete_global(names, name)
        return
    try:
        frame.interpreter.delitem(names, name)
        return
    except KeyError:
        pass
    raise unknown_name(name)


@instruction("LOAD_LOCALS")
def load_locals(frame: Frame, stack: list[Any], _: int) -> None:
    stack.append(frame.names)


@instruction("LOAD_FROM_DICT_OR_GLOBALS", Operand.NAME)
def load_from_dict_or_globals(frame: Frame, stack: list[Any], name: str) -> None:
    names = stack.pop()
    if type(names) is dict:
        value = names.get(name, NULL)
    else:
        try:
            value = frame.interpreter.getitem(names, name)
        except KeyError:
            value = NULL
    stack.append(_global(frame, name) if value is NULL else value)


# Cells.


def _cell_value(frame: Frame, cell: CellType, slot: int) -> Any:
    name = frame.program.local_names[slot]
    if frame.tracker is not None:
        return frame.tracker.load_cell(cell, name)
    try:
        return cell.cell_contents
    except ValueError:
        pass
    raise unbound_cell(frame, name)


@instruction("MAKE_CELL", Operand.LOCAL)
def make_cell(frame: Frame, stack: list[Any], slot: int) -> None:
    value = stack[slot]
    stack[slot] = CellType() if value is NULL else CellType(value)


@tracked("MAKE_CELL")
def make_cell_tracked(frame: Frame, stack: list[Any], slot: int) -> None:
    make_cell(frame, stack, slot)
    frame.tracker.new_cell(stack[slot])


@instruction("MAKE_CELL_OF_ARGUMENT")
def make_cell_of_argument(frame: Frame, stack: list[Any], slots: tuple[int, int]) -> None:
    """3.10: a cell has a slot of its own, into which an argument moves."""
    cell_slot, argument_slot = slots
    value = stack[argument_slot]
    stack[argument_slot] = NULL
    stack[cell_slot] = CellType() if value is NULL else CellType(value)
    if frame.tracker is not None:
        frame.tracker.new_cell(stack[cell_slot])


@instruction("COPY_FREE_VARS")
def copy_free_vars(frame: Frame, stack: list[Any], count: int) -> None:
    base = frame.program.base
    stack[base - count : base] = frame.function.__closure__ or ()


@instruction("LOAD_DEREF", Operand.LOCAL)
def load_deref(frame: Frame, stack: list[Any], slot: int) -> None:
    try:
        stack.append(stack[slot].cell_contents)
        return
    except ValueError:
        pass
    raise unbound_cell(frame, frame.program.local_names[slot])


@tracked("LOAD_DEREF")
def load_deref_tracked(frame: Frame, stack: list[Any], slot: int) -> None:
    stack.append(frame.tracker.load_cell(stack[slot], frame.program.local_names[slot]))


@instruction("STORE_DEREF", Operand.LOCAL)
def store_deref(frame: Frame, stack: list[Any], slot: int) -> None:
    stack[slot].cell_contents = stack.pop()


@tracked("STORE_DEREF")
def store_deref_tracked(frame: Frame, stack: list[Any], slot: int) -> None:
    frame.tracker.store_cell(stack[slot], stack.pop(), frame.program.local_names[slot])


@instruction("DELETE_DEREF", Operand.LOCAL)
def delete_deref(frame: Frame, stack: list[Any], slot: int) -> None:
    cell = stack[slot]
    if is_empty(cell):
        raise unbound_cell(frame, frame.program.local_names[slot])
    del cell.cell_contents


@tracked("DELETE_DEREF")
def delete_deref_tracked(frame: Frame, stack: list[Any], slot: int) -> None:
    frame.tracker.delete_cell(stack[slot], frame.program.local_names[slot])


@instruction("LOAD_CLASS_CELL", Operand.LOCAL)
def load_class_cell(frame: Frame, stack: list[Any], slot: int) -> None:
    """In a class body: the body's own namespace first, then the cell."""
    value = _class_namespace(frame, frame.names, frame.program.local_names[slot])
    stack.append(_cell_value(frame, stack[slot], slot) if value is NULL else value)


@instruction("LOAD_FROM_DICT_OR_DEREF", Operand.LOCAL)
def load_from_dict_or_deref(frame: Frame, stack: list[Any], slot: int) -> None:
    value = _class_namespace(frame, stack.pop(), frame.program.local_names[slot])
    stack.append(_cell_value(frame, stack[slot], slot) if value is NULL else value)


def _class_namespace(frame: Frame, names: Any, name: str) -> Any:
    if type(names) is dict:
        return names.get(name, NULL)
    try:
        return frame.interpreter.getitem(names, name)
    except KeyError:
        return NULL
