"""The epilogue: builds what the call returns and replays what the program changed.

Input: the result of the acquired call and the changes of the heap, with shadows where tensors will be.  Output:
statements that make the same objects anew from the computation's results.  An object that existed before the call
is named (a constant, or read from the arguments by the prologue); one that the call made is made again, once,
however often it is referred to.  No user code runs: instances are made by `object.__new__` and filled.
"""

from __future__ import annotations

import collections
import functools
import types
import weakref
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from thunder.acquire.drawn_numbers import DrawnNumber, use
from thunder.acquire.guards import Prologue, is_plain, items_of
from thunder.acquire.heap import EMPTY_CELL, Heap, content_of, instance_dict, slot_names
from thunder.acquire.sources import Source
from thunder.acquire.texts import is_tensor_text
from thunder.errors import DataDependentError, ImpureCallError, Location, UnsupportedError

_CONSTANT_TYPES = (
    type, types.ModuleType, types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType,
    types.GetSetDescriptorType, types.MemberDescriptorType, types.CodeType, property,
)  # fmt: skip
_BASES: tuple[Any, ...] = (
    collections.OrderedDict, collections.defaultdict, dict, list, set, collections.deque, bytearray, tuple, frozenset,
    str, bytes, int, float, complex, BaseException, types.SimpleNamespace,
)  # fmt: skip
"""C classes whose instances, and those of their subclasses, can be made anew: by `__new__`, then filled."""
_ITERATORS: tuple[Any, ...] = (
    types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, type(iter([])), type(iter(())), map, filter,
    zip, enumerate, type(iter({}.items())), type(iter({}.values())), type(iter({})),
)  # fmt: skip


class Epilogue:
    """Writes the statements after the computation.

    Args:
        prologue: names constants and arguments.
        known: sources of objects that existed before the call, by id.
        tensors: expression for a shadow, or None when the object is no tensor of the program.
        numbers: expression for a symbolic number.
        attributes: what the program has set on a tensor that it made.
        location: the line of the call, for errors.
        made_classes: classes that the program makes, by id.
    """

    def __init__(
        self,
        prologue: Prologue,
        known: dict[int, Source],
        tensors: Any,
        numbers: Any,
        attributes: Callable[[torch.Tensor], dict[str, Any]],
        location: Location | None = None,
        made_classes: Container[int] = (),
    ) -> None:
        self.prologue = prologue
        self.lines: list[str] = []
        self._known = known
        self._tensor = tensors
        self._number = numbers
        self._attributes = attributes
        self._location = location
        self._made_classes = made_classes
        self._made: dict[int, str] = {}
        self._keep: list[Any] = []
        self._unfinished = 0
        self._fillings: list[Callable[[], None]] = []
        self._uses: collections.Counter[int] = collections.Counter()

    # Expressions ------------------------------------------------------------------------------------------------
    def count_uses(self, value: Any) -> None:
        """Finds the objects that are referred to more than once: they are made in a statement of their own."""
        if is_plain(value) or id(value) in self._known:
            return
        if isinstance(value, torch.Tensor) and not self._attributes(value):
            return
        self._uses[id(value)] += 1
        if self._uses[id(value)] > 1:
            return
        for part in self._attributes(value).values() if isinstance(value, torch.Tensor) else _parts(value):
            self.count_uses(part)

    def expression(self, value: Any) -> str:
        """An expression that makes, or names, `value`."""
        if isinstance(value, torch.Tensor):
            name = self._tensor(value)
            if name is None:
                raise UnsupportedError(
                    "a tensor leaves the program that thunder did not record", self._location,
                    "make it with torch calls inside of the compiled function",
                )  # fmt: skip
            return self._decorate(value, str(name)) if self._attributes(value) else str(name)
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self._number(value)
        made = self._made.get(id(value))
        if made is not None:
            return made
        if isinstance(value, torch.Generator) and self._tensor(value) is not None:
            return str(self._tensor(value))  # the program has made it
        source = self._known.get(id(value))
        if source is not None:
            return self.prologue.expression(source)
        if is_plain(value) or isinstance(value, str):
            if is_tensor_text(value):
                raise DataDependentError(
                    f"a text made from a tensor's values leaves the program: {value}",
                    self._location,
                    "return the tensor and make the text outside of the compiled function",
                )
            if is_plain(value):
                return self.prologue.literal(value)
        kind = type(value)
        if kind is DrawnNumber:
            use(value)
        once = self._uses[id(value)] <= 1
        if kind is tuple and once:
            return self._tuple(value)
        once = once and not self._unfinished
        if once and kind is list:
            return "[" + ", ".join([self.expression(item) for item in value]) + "]"
        if once and kind is dict:
            return "{" + ", ".join([f"{self.expression(k)}: {self.expression(v)}" for k, v in value.items()]) + "}"
        return self._make(value, kind)

    def _decorate(self, tensor: torch.Tensor, text: str) -> str:
        """Names a tensor that the program made, and gives it the attributes that the program has set."""
        made = self._made.get(id(tensor))
        if made is not None:
            return made
        name = self._bind(tensor, text)

        def fill() -> None:
            for key, item in self._attributes(tensor).items():
                self.lines.append(f"{name}.__dict__[{key!r}] = {self.expression(item)}")

        self._fill(fill)
        return name

    def _tuple(self, items: Iterable[Any]) -> str:
        inner = "".join([f"{self.expression(item)}, " for item in items])
        return f"({inner})" if inner else "()"

    def _finish(self, value: Any, text: Callable[[], str]) -> str:
        """Makes an object that cannot be changed once it is made.

        What it is made of may refer to it again, through something that can be changed: that is filled afterwards.
        """
        self._unfinished += 1
        written = text()
        self._unfinished -= 1
        name = self._bind(value, written)
        while self._fillings and not self._unfinished:
            self._fillings.pop(0)()
        return name

    def _fill(self, filling: Callable[[], None]) -> None:
        """Gives an object that has been made empty its content: at once, or when what is unfinished is there."""
        if self._unfinished:
            self._fillings.append(filling)
        else:
            filling()

    def _bind(self, value: Any, text: str) -> str:
        name = f"m{len(self._made)}"
        self._made[id(value)] = name
        self._keep.append(value)
        self.lines.append(f"{name} = {text}")
        return name

    def _make(self, value: Any, kind: type) -> str:
        """Makes a new object in statements; a container is named before it is filled, so cycles are no trouble."""
        const = self.prologue.bind
        if id(kind) in self._made_classes or id(value) in self._made_classes:
            name = (value if isinstance(value, type) else kind).__qualname__
            raise UnsupportedError(
                f"{name}, a class that the program makes at every call, leaves it, or an instance does", self._location,
                "define the class outside of the compiled function",
            )  # fmt: skip
        if kind is tuple:
            return self._finish(value, lambda: self._tuple(value))
        if kind.__module__ == "torch.return_types" or kind is torch.Size:
            return self._finish(value, lambda: f"{const(kind)}({self._tuple(value)})")
        if kind is frozenset:
            return self._finish(value, lambda: f"frozenset({self._tuple(value)})")
        if kind in (list, dict, set):
            name = self._bind(value, {list: "[]", dict: "{}", set: "set()"}[kind])
            self._fill(lambda: self._fill_container(name, value, kind))
            return name
        if isinstance(value, _ITERATORS):
            raise UnsupportedError(
                f"the program returns or stores a {kind.__qualname__} that it made", self._location,
                "return a list or tuple instead",
            )  # fmt: skip
        if isinstance(value, weakref.ReferenceType) and id(value()) not in self._known:
            raise UnsupportedError(
                "a weak reference leaves the program, to an object that the program made", self._location,
                "make it outside of the compiled function",
            )  # fmt: skip
        if isinstance(value, types.FunctionType):
            return self._make_function(value)
        if isinstance(value, types.MethodType):
            parts = (value.__func__, value.__self__)
            return self._finish(value, lambda: f"{const(types.MethodType)}(*{self._tuple(parts)})")
        if isinstance(value, types.CellType):
            name = self._bind(value, f"{const(types.CellType)}()")
            if content_of(value) is not EMPTY_CELL:
                content = value.cell_contents
                self._fill(lambda: self.lines.append(f"{name}.cell_contents = {self.expression(content)}"))
            return name
        if isinstance(value, functools.partial):
            return self._finish(
                value,
                lambda: (
                    f"{const(kind)}({self.expression(value.func)}, *{self._tuple(value.args)}, "
                    f"**{{{', '.join(f'{key!r}: {self.expression(item)}' for key, item in value.keywords.items())}}})"
                ),
            )
        if isinstance(value, slice):
            parts = (value.start, value.stop, value.step)  # type: ignore[assignment]
            return self._finish(value, lambda: f"slice(*{self._tuple(parts)})")
        if isinstance(value, _CONSTANT_TYPES) or not self._holds_state(value):
            return const(value)
        return self._make_instance(value, kind)

    def _holds_state(self, value: Any) -> bool:
        """Whether a fresh copy has to be made: only objects with attributes or items can hold tensors."""
        return hasattr(value, "__dict__") or isinstance(value, _BASES) or bool(slot_names(type(value)))

    def _make_instance(self, value: Any, kind: type) -> str:
        const = self.prologue.bind
        base: Any = next((base for base in _BASES if issubclass(kind, base)), object)
        if base is object and kind.__new__ is not object.__new__ and kind.__flags__ & (1 << 8):
            return const(value)  # an immutable or C type that is not made by object.__new__
        if issubclass(base, (str, bytes, int, float, complex)) and not kind.__flags__ & (1 << 9):
            return const(value)  # a number of NumPy's
        if kind is RemovableHandle:
            raise ImpureCallError("a hook is registered that stays, under another number at every call", self._location)
        if issubclass(base, (tuple, frozenset)):
            name = self._finish(value, lambda: f"{const(base)}.__new__({const(kind)}, {self._tuple(items_of(value))})")
        elif issubclass(base, (str, bytes, int, float, complex)):
            name = self._bind(value, f"{const(base)}.__new__({const(kind)}, {self.prologue.literal(base(value))})")
        elif base is BaseException:
            # Classes of C's set their attributes from the arguments; one with an `__init__` in Python has done that.
            in_python = isinstance(kind.__init__, types.FunctionType) or isinstance(kind.__new__, types.FunctionType)  # type: ignore[misc]
            maker = f"{const(base.__new__)}, {const(kind)}" if in_python else const(kind)
            call = const(_call)
            name = self._finish(value, lambda: f"{call}({maker}, *{self._tuple(value.args)})")
        else:
            name = self._bind(value, f"{const(base)}.__new__({const(kind)})")
        self._fill(lambda: self._fill_instance(name, value, base))
        return name

    def _fill_container(self, name: str, value: Any, base: Any) -> None:
        """Puts the items into a container, by the methods of its C class."""
        if issubclass(base, dict):
            setter = f"{self.prologue.bind(base.__setitem__)}({name}, "
            for key, item in base.items(value):
                self.lines.append(f"{setter}{self.expression(key)}, {self.expression(item)})")
        elif base is list and value:
            self.lines.append(f"list.extend({name}, {self._tuple(items_of(value))})")
        elif base is set and value:
            self.lines.append(f"set.update({name}, {self._tuple(items_of(value))})")

    def _fill_instance(self, name: str, value: Any, base: Any) -> None:
        """Items, attributes and slots of an object that has been made."""
        const = self.prologue.bind
        if base is collections.defaultdict and value.default_factory is not None:
            self.lines.append(f"{name}.default_factory = {self.expression(value.default_factory)}")
        if base is collections.deque:
            self.lines.append(f"{const(base)}.__init__({name}, {self._tuple(items_of(value))}, {value.maxlen!r})")
        elif base is bytearray:
            self.lines.append(f"{name}[:] = {bytes(value)!r}")
        else:
            self._fill_container(name, value, base)
        for key, item in list((instance_dict(value) or {}).items()):
            self.lines.append(f"{name}.__dict__[{key!r}] = {self.expression(item)}")
        for slot in slot_names(type(value)):
            try:
                item = object.__getattribute__(value, slot)
            except AttributeError:
                continue
            self.lines.append(f"{const(object.__setattr__)}({name}, {slot!r}, {self.expression(item)})")

    def _make_function(self, value: types.FunctionType) -> str:
        const = self.prologue.bind

        def text() -> str:
            closure = self._tuple(value.__closure__) if value.__closure__ else "None"
            return (
                f"{const(types.FunctionType)}({const(value.__code__)}, {const(value.__globals__)}, "
                f"{value.__name__!r}, {self.expression(value.__defaults__)}, {closure})"
            )

        name = self._finish(value, text)
        self._fill(lambda: self._fill_function(name, value))
        return name

    def _fill_function(self, name: str, value: types.FunctionType) -> None:
        if value.__kwdefaults__:
            self.lines.append(f"{name}.__kwdefaults__ = {self.expression(value.__kwdefaults__)}")
        for key, item in value.__dict__.items():
            self.lines.append(f"{name}.__dict__[{key!r}] = {self.expression(item)}")
        if value.__qualname__ != value.__name__:
            self.lines.append(f"{name}.__qualname__ = {value.__qualname__!r}")

    # Effects ----------------------------------------------------------------------------------------------------
    def replay(self, heap: Heap, owners: dict[int, str]) -> None:
        """Statements that make the changes of the heap.

        Args:
            owners: the expression for each changed container, by id; containers that the program made itself and
                that nothing outside refers to are missing and need no replay.
        """
        for container, before, after in heap.changes():
            owner = owners.get(id(container))
            if owner is None:
                continue
            if isinstance(container, dict):
                self._replay_dict(owner, container, before, after, heap)
            elif isinstance(container, list):
                kept = len(before)
                if len(after) >= kept and all(a is b for a, b in zip(before, after)):
                    for item in after[kept:]:
                        self.lines.append(f"list.append({owner}, {self.expression(item)})")
                else:
                    self.lines.append(f"list.__setitem__({owner}, slice(None), {self._listed(after)})")
            elif isinstance(container, set):
                old, new = ({(type(item), repr(item) if is_plain(item) else id(item)): item for item in content}
                            for content in (before, after))  # fmt: skip
                for key in old.keys() - new.keys():
                    self.lines.append(f"set.discard({owner}, {self.expression(old[key])})")
                for key in new.keys() - old.keys():
                    self.lines.append(f"set.add({owner}, {self.expression(new[key])})")
            elif isinstance(container, types.CellType):
                if after is EMPTY_CELL:
                    self.lines.append(f"del {owner}.cell_contents")
                else:
                    self.lines.append(f"{owner}.cell_contents = {self.expression(after)}")
            elif isinstance(container, bytearray):
                self.lines.append(f"{owner}[:] = {bytes(after)!r}")
            else:
                self.lines.append(f"{owner}.clear(); {owner}.extend({self._listed(after)})")
        for function, arguments, keywords in heap.deferred:
            listed = [self.expression(argument) for argument in arguments]
            listed += [f"{name}={self.expression(argument)}" for name, argument in keywords.items()]
            self.lines.append(f"{self.prologue.bind(function)}({', '.join(listed)})")

    def _listed(self, items: list[Any]) -> str:
        return "[" + ", ".join([self.expression(item) for item in items]) + "]"

    def _replay_dict(self, owner: str, container: Any, before: list[Any], after: list[Any], heap: Heap) -> None:
        base = collections.OrderedDict if isinstance(container, collections.OrderedDict) else dict
        setter = f"{self.prologue.bind(base.__setitem__)}({owner}, "
        old, new = dict(before), dict(after)
        assigned, order = heap.assigned(container), list(new)
        position = {key: index for index, key in enumerate(old)}
        # The keys that were not touched come first, as they were; what was put at the end again is deleted first.
        moved, last = set(heap.deleted(container)), -1
        for index, key in enumerate(order):
            if key in moved or position.get(key, -1) < last:
                moved.update(key for key in order[index:] if key in old)
                break
            last = position.get(key, len(old))
        # One that was assigned blindly before it was deleted may be there at another call, or may be missing.
        perhaps = {key for key, blind in assigned.items() if blind and (key not in new or key in moved)}
        for key in [key for key in old if key not in new or key in moved]:
            if key not in perhaps:
                self.lines.append(f"{self.prologue.bind(base.__delitem__)}({owner}, {self.expression(key)})")
            del old[key]
        for key in assigned:
            if key in perhaps:
                self.lines.append(f"{self.prologue.bind(base.pop)}({owner}, {self.expression(key)}, None)")
        changed = {key for key in new if key not in old or old[key] is not new[key]}
        # Keys that were assigned blindly may be missing at another call: then they come in the order of assignment.
        for key in assigned if changed <= assigned.keys() else order:
            if key in changed or (key in new and assigned.get(key)):
                self.lines.append(f"{setter}{self.expression(key)}, {self.expression(new[key])})")


def _call(maker: Callable[..., Any], *arguments: Any) -> Any:
    return maker(*arguments)


def _parts(value: Any) -> Iterator[Any]:
    """The objects that `value` refers to, as far as it is made anew with them."""
    if isinstance(value, dict):
        yield from dict.keys(value)
        yield from dict.values(value)
    elif isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        yield from items_of(value)
    elif isinstance(value, types.CellType):
        content = content_of(value)
        if content is not EMPTY_CELL:
            yield content
    elif isinstance(value, types.FunctionType):
        yield from value.__closure__ or ()
        yield value.__defaults__
        yield value.__kwdefaults__
    elif isinstance(value, types.MethodType):
        yield value.__func__
        yield value.__self__
    elif isinstance(value, functools.partial):
        yield value.func
        yield from value.args
        yield from value.keywords.values()
    elif isinstance(value, slice):
        yield from (value.start, value.stop, value.step)
    elif isinstance(value, BaseException):
        yield from value.args
    if isinstance(value, _CONSTANT_TYPES):
        return
    yield from (instance_dict(value) or {}).values()
    for slot in slot_names(type(value)):
        try:
            yield object.__getattribute__(value, slot)
        except AttributeError:
            continue
