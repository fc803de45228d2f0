"""Variables: globals, the cells of closures, and the code and defaults of functions that are entered."""

from __future__ import annotations

import types
from typing import Any

import torch

from thunder.acquire.containers import ContainerTracker
from thunder.acquire.guards import Prologue, is_plain
from thunder.acquire.heap import EMPTY_CELL, Heap, content_of
from thunder.acquire.sources import ATTRIBUTE, CELL, CLOSURE, ITEM, constant

_UNSET = object()


class VariableTracker(ContainerTracker):
    """Reads and changes of variables."""

    def __init__(self, prologue: Prologue, heap: Heap, unstable: frozenset[str] = frozenset()) -> None:
        super().__init__(prologue, heap, unstable)
        self._globals_seen: dict[tuple[int, str], Any] = {}
        self._entered: set[int] = set()

    def load_global(self, global_names: dict[str, Any], builtins: dict[str, Any], name: str) -> Any:
        key = (id(global_names), name)
        if key in self._globals_seen:
            value = global_names.get(name, _UNSET)
            if value is _UNSET:
                value = builtins.get(name, _UNSET)
            if value is _UNSET:
                return super().load_global(global_names, builtins, name)
            return self.wrap(value) if isinstance(value, torch.Tensor) else value
        self._globals_seen[key] = None
        if id(global_names) in self._new:
            return super().load_global(global_names, builtins, name)
        source = self.source_of(global_names)
        if name in global_names:
            return self.read(source.child(ITEM, name), global_names[name])
        self._guard_absent(source, name)
        if name not in builtins:
            self._guard_absent(self.source_of(builtins), name)
        value = super().load_global(global_names, builtins, name)
        return self.read(self.source_of(builtins).child(ITEM, name), value)

    def store_global(self, global_names: dict[str, Any], name: str, value: Any) -> None:
        self._change_item(global_names, name)
        global_names[name] = value

    def delete_global(self, global_names: dict[str, Any], name: str) -> None:
        source = self.source_of(global_names)
        if name not in global_names:
            self._guard_absent(source, name)
        else:
            self.load_item(global_names, name)
            self._delete_item(global_names, name)
        super().delete_global(global_names, name)

    def load_cell(self, cell: types.CellType, name: str) -> Any:
        if id(cell) in self._new:
            return super().load_cell(cell, name)
        source = self.source_of(cell)
        place = source.child(CELL, name)
        if content_of(cell) is EMPTY_CELL and not place.seen and not place.written:
            place.seen, place.value = True, EMPTY_CELL
            self.prologue.check(
                f"_is_empty({self.prologue.expression(source)})", lambda: f"{place.describe()} has no value"
            )
        return self.read(place, super().load_cell(cell, name))

    def store_cell(self, cell: types.CellType, value: Any, name: str) -> None:
        if id(cell) not in self._new:
            place = self.source_of(cell).child(CELL, name)
            self.heap.assign(cell, None, blind=not place.seen)
            place.written = True
        cell.cell_contents = value

    def delete_cell(self, cell: types.CellType, name: str) -> None:
        if id(cell) not in self._new:
            self.load_cell(cell, name)
            self.heap.before_change(cell)
            self.source_of(cell).child(CELL, name).written = True
        super().delete_cell(cell, name)

    def new_cell(self, cell: types.CellType) -> None:
        self._new.add(id(cell))
        self._keep.append(cell)

    def new_function(self, function: types.FunctionType) -> None:
        self._new.add(id(function))
        self._keep.append(function)

    def enter_function(self, function: types.FunctionType) -> None:
        if id(function) in self._new or id(function) in self._entered:
            return
        self._entered.add(id(function))
        source = self.source_of(function)
        name, bind = self.prologue.expression(source), self.prologue.bind
        defaults, keyword_defaults = function.__defaults__, function.__kwdefaults__
        if not source.stable:
            self.prologue.check(f"{name}.__code__ is {bind(function.__code__)}", f"code of {source.describe()}")
            for index, cell in enumerate(function.__closure__ or ()):
                self.make_known(cell, source.child(CLOSURE, index))
            if defaults:
                self.read(source.child(ATTRIBUTE, "__defaults__"), defaults)
                self.touch(defaults)
            if keyword_defaults:
                self.read(source.child(ATTRIBUTE, "__kwdefaults__"), keyword_defaults)
                self.touch(keyword_defaults)
            return
        condition = f"{name}.__code__ is {bind(function.__code__)}"
        condition += f" and {name}.__defaults__ is {bind(defaults)}"
        condition += f" and {name}.__kwdefaults__ is {bind(keyword_defaults)}"
        self.prologue.functions[len(self.prologue.lines)] = (
            function, function.__code__, defaults, keyword_defaults,
        )  # fmt: skip
        self.prologue.check(condition, lambda: f"code and defaults of {source.describe()} are unchanged")
        for value in defaults or ():
            if not is_plain(value) and id(value) not in self.known and not isinstance(value, torch.Tensor):
                self.make_known(value, constant(value))
        if keyword_defaults:
            self.source_of(keyword_defaults)
            self.touch(keyword_defaults)
