"""Guards: what the program relied on, and the prologue that checks it.

Input: reads of the user's state, reported during acquisition as (source, value).  Output: the source text of a
function body that reaches every source again, checks it, and binds the tensors that the computation takes.
Invariants: a guard never runs user code, but for a function under
`functools.lru_cache` whose cache was emptied; comparing never changes state; a failed or impossible read (missing
key, shorter list) is a failed guard, not an error.

Guards are emitted in the order of discovery, so a container is checked before its items are read.
"""

from __future__ import annotations

import collections
import functools
import math
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from thunder.acquire.sources import (
    ATTRIBUTE,
    CALL,
    CELL,
    CLOSURE,
    CONSTANT,
    GRAD,
    INSTANCE_DICT,
    ITEM,
    KEY,
    ROOT,
    Source,
)

VALUE_TYPES: frozenset[type] = frozenset(
    {
        int, float, bool, str, bytes, type(None), complex, type(Ellipsis), type(NotImplemented), range,
        torch.dtype, torch.device, torch.layout, torch.memory_format,
    }
)  # fmt: skip
"""Immutable types whose objects are compared by value."""


_CACHE = functools._lru_cache_wrapper
_EXACT = frozenset({dict, list, tuple})


def is_plain(value: Any) -> bool:
    """True for values compared by value: the immutable types above, and tuples, slices, frozensets of them."""
    kind = type(value)
    if kind in VALUE_TYPES:
        return True
    if kind is tuple or kind is frozenset or kind is torch.Size:  # a size may be a symbol
        return all(is_plain(item) for item in value)
    if kind is slice:
        return is_plain(value.start) and is_plain(value.stop) and is_plain(value.step)
    return False


def same_value(a: Any, b: Any) -> bool:
    """Equality that tells 1, 1.0 and True apart, 0.0 from -0.0, and takes NaN as equal to itself."""
    if a is b:
        return True
    kind = type(a)
    if kind is not type(b):
        return False
    if kind is float:
        if a == b:
            return a != 0.0 or math.copysign(1.0, a) == math.copysign(1.0, b)
        return a != a and b != b
    if kind is complex:
        return same_value(a.real, b.real) and same_value(a.imag, b.imag)
    if kind is tuple or kind is list or kind is torch.Size:
        return len(a) == len(b) and all(map(same_value, a, b))
    if kind is slice:
        return same_value((a.start, a.stop, a.step), (b.start, b.stop, b.step))
    if kind is frozenset or kind is set:
        return len(a) == len(b) and sorted(map(_typed, a)) == sorted(map(_typed, b))
    return kind in VALUE_TYPES and a == b


def items_of(obj: Any) -> list[Any]:
    """What a container holds, in order (the keys of a dict), by the methods of its C class."""
    if type(obj) in _CONTAINERS:
        return list(obj)
    if isinstance(obj, collections.OrderedDict):
        return list(collections.OrderedDict.__iter__(obj))
    for base in _CONTAINERS:
        if isinstance(obj, base):
            return list(base.__iter__(obj))
    return list(obj)


_CONTAINERS: tuple[Any, ...] = (list, tuple, dict, set, frozenset, collections.deque)


def same_items(obj: Any, items: list[Any]) -> bool:
    """Whether a container holds these very objects, or plain values equal to them, in this order."""
    found = obj if type(obj) is list or type(obj) is tuple else items_of(obj)
    return len(found) == len(items) and all(map(same_value, found, items))


def is_unset(slot: Any, obj: Any) -> bool:
    """Whether a slot (its descriptor) of an object is empty."""
    try:
        slot.__get__(obj)
    except AttributeError:
        return True
    return False


def is_empty(cell: types.CellType) -> bool:
    """Whether a variable that closures share has no value."""
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return True
    return False


def _typed(value: Any) -> tuple[str, str]:
    return type(value).__qualname__, repr(value)


def type_lookup(kind: type, name: str) -> Any:
    """The attribute `name` as found in the classes of `kind`'s MRO, no descriptor called; `_absent` if none."""
    for owner in kind.__mro__:
        found = owner.__dict__.get(name, _absent)
        if found is not _absent:
            return found
    return _absent


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_absent = _Absent()
absent = _absent


@dataclass(frozen=True)
class Check:
    """A statement of the prologue: `condition` must hold, else guard `number` has failed."""

    condition: str
    number: int

    def __str__(self) -> str:
        return f"if not ({self.condition}): return {self.number}"


class Prologue:
    """Collects guards and writes the prologue.

    Attributes:
        lines: statements of the prologue so far.
        namespace: constants that they name.
        places: of checks on a tensor's sizes or on a number, by number: (source, the sizes or the number).
        tensors: lines that check a tensor, by index: (expression, the tensor); torch can check them all at once.
        functions: lines that check a function that is a constant, by index: (the function, its code, its defaults, its
            defaults by keyword).
        users_calls: lines that call a function of the user's under `functools.lru_cache`, by index.
        descriptions: for every check (by index), what it means to the user.
    """

    def __init__(self) -> None:
        self.lines: list[str | Check] = []
        self.namespace: dict[str, Any] = {
            "_same": same_value,
            "_same_items": same_items,
            "_is_unset": is_unset,
            "_is_empty": is_empty,
            "_get": dict.get,
            "_item": list.__getitem__,
            "_type_lookup": type_lookup,
            "_absent": _absent,
            "math": math,  # conditions on sizes name these two
            "torch": torch,
        }
        self.checks: list[tuple[str, str | Callable[[], str]]] = []
        self.tensors: dict[int, tuple[str, torch.Tensor]] = {}
        self.functions: dict[int, tuple[types.FunctionType, types.CodeType, Any, Any]] = {}
        self.tensors_by_check: dict[int, str] = {}
        self.places: dict[int, tuple[Source, Any]] = {}
        self.users_calls: set[int] = set()
        self._names: dict[int, str] = {}
        self._held: set[int] = set()
        self._constants: dict[int, str] = {}
        self._keep: list[Any] = []
        self._type_attributes: set[tuple[type, str]] = set()

    def describe(self, number: int) -> str:
        """What the check means to the user."""
        description = self.checks[number][1]
        return description if isinstance(description, str) else description()

    # Names ------------------------------------------------------------------------------------------------------
    def bind(self, obj: Any, stem: str = "c") -> str:
        """The name of a constant in the prologue's namespace."""
        if obj is None or obj is True or obj is False or obj is Ellipsis:
            return repr(obj) if obj is not Ellipsis else "..."
        name = self._constants.get(id(obj))
        if name is None:
            name = f"_{stem}{len(self._constants)}"
            self._constants[id(obj)] = name
            self.namespace[name] = obj
            self._keep.append(obj)
        return name

    def literal(self, value: Any) -> str:
        """A value as an expression: a literal where that is exact, else a bound constant."""
        if type(value) in (int, str, bool, bytes, type(None)):
            return repr(value)
        return self.bind(value)

    def expression(self, source: Source) -> str:
        """The name that holds the value at `source`, reading it first where that is not done yet."""
        name = self._names.get(id(source))
        if name is not None:
            return name
        if source.kind == CONSTANT:
            name = self.bind(source.constant, "c")
        elif source.kind == ROOT:
            name = source.key
        else:
            text = self.read(source)
            name = f"v{len(self._names)}"
            self.lines.append(f"{name} = {text}")
        self._names[id(source)] = name
        self._keep.append(source)
        return name

    def read(self, source: Source) -> str:
        """The expression that reads `source` from its parent."""
        parent = source.parent
        assert parent is not None
        if parent.kind == INSTANCE_DICT and parent.parent is not None and parent.parent.stable:
            # The instance's dict is held itself: one look-up less at every call.
            owner = self.held_dict(parent.parent)
        else:
            owner = self.expression(parent)
        if source.kind == ITEM:
            key, kind = self.literal(source.key), type(parent.value)
            if kind in _EXACT or parent.kind in (ROOT, INSTANCE_DICT):
                return f"{owner}[{key}]"
            # A subclass may find its items in Python, or make missing ones.
            if issubclass(kind, dict):
                return f"_get({owner}, {key}, _absent)"
            return f"_item({owner}, {key})" if issubclass(kind, list) else f"{owner}[{key}]"
        if source.kind == KEY:
            return f"list({owner})[{source.key}]"
        if source.kind == INSTANCE_DICT:
            return f"{owner}.__dict__"
        if source.kind == CELL:
            return f"{owner}.cell_contents"
        if source.kind == CLOSURE:
            return f"{owner}.__closure__[{source.key}]"
        if source.kind == GRAD:
            return f"{owner}.grad"
        if source.kind == CALL:
            if type(parent.value) is _CACHE:
                self.users_calls.add(len(self.lines))
            return f"{owner}({source.key})"
        assert source.kind == ATTRIBUTE
        return f"{owner}.{source.key}"

    def held_dict(self, owner: Source) -> str:
        """The dict of an object that is the same at every call: it could be another dict by then."""
        attributes = owner.value.__dict__
        name = self.bind(attributes, "d")
        if id(owner.value) not in self._held:
            self._held.add(id(owner.value))
            if not isinstance(owner.value, types.ModuleType):
                condition = f"{self.bind(owner.value)}.__dict__ is {name}"
                self.check(condition, lambda: f"{owner.describe()}.__dict__ is the same dict")
        return name

    def peek(self, source: Source) -> str:
        """An expression for one use: the bound name if there is one, else the read itself."""
        return self._names.get(id(source)) or (
            self.expression(source) if source.kind in (CONSTANT, ROOT) else self.read(source)
        )

    # Guards -----------------------------------------------------------------------------------------------------
    def check(self, condition: str, description: str | Callable[[], str]) -> None:
        """Adds a condition that must hold; `description` says so in the user's terms, made when it is asked for."""
        self.lines.append(Check(condition, len(self.checks)))
        self.checks.append((condition, description))

    def value(self, source: Source, value: Any) -> None:
        """The value at `source` is this plain value."""
        described = lambda: f"{source.describe()} == {value!r}"  # noqa: E731
        if value is None or value is True or value is False:
            self.check(f"{self.peek(source)} is {value!r}", described)
            return
        name = self.bind(value)
        reading = self.peek(source)
        self.lines.append(f"v = {reading}")
        kind = type(value)
        if kind is int:
            self.places[len(self.checks)] = (source, value)
        if kind in (int, str, torch.dtype, torch.device):
            self.check(f"v is {name} or (type(v) is {self.bind(kind)} and v == {name})", described)
        else:
            self.check(f"v is {name} or _same(v, {name})", described)

    def identical(self, source: Source, obj: Any) -> None:
        """The value at `source` is this very object."""
        self.check(f"{self.peek(source)} is {self.bind(obj)}", lambda: f"{source.describe()} is the same object")

    def same_place(self, source: Source, other: Source) -> None:
        """Two places hold the same object."""
        self.check(
            f"{self.expression(source)} is {self.expression(other)}",
            lambda: f"{source.describe()} is {other.describe()}",
        )

    def has_type(self, source: Source, kind: type) -> None:
        """The class of the value at `source` is exactly `kind`."""
        self.check(
            f"type({self.expression(source)}) is {self.bind(kind)}",
            lambda: f"type of {source.describe()} is {kind.__qualname__}",
        )

    def length(self, source: Source, length: int) -> None:
        if length == 0:
            self.check(f"not {self.expression(source)}", lambda: f"{source.describe()} is empty")
            return
        self.check(f"len({self.expression(source)}) == {length}", lambda: f"len({source.describe()}) == {length}")

    def plain_items(self, source: Source, items: list[Any]) -> None:
        """The container at `source` holds these values or very objects in this order."""
        if type(source.value) is dict and all(type(item) is str for item in items):
            # Only another str can equal a str, so that C's comparison will do.
            self.check(
                f"list({self.expression(source)}) == {self.bind(list(items))}",
                lambda: f"keys of {source.describe()} are unchanged",
            )
            return
        self.check(
            f"_same_items({self.expression(source)}, {self.bind(list(items))})",
            lambda: f"items of {source.describe()} are unchanged",
        )

    def has_key(self, source: Source, key: Any, present: bool) -> None:
        """`key in container`, for a dict or an instance's dict."""
        if source.kind == INSTANCE_DICT and source.parent is not None and source.parent.stable:
            owner = self.held_dict(source.parent)
        else:
            owner = self.expression(source)
        word = "in" if present else "not in"
        if type(source.value) not in _EXACT and isinstance(source.value, dict):
            owner = f"dict.keys({owner})"
        self.check(f"{self.literal(key)} {word} {owner}", lambda: f"{key!r} {word} {source.describe()}")

    def type_attribute(self, kind: type, name: str, found: Any) -> None:
        """The classes of `kind` give `found` (or nothing) for the attribute `name`."""
        if (kind, name) in self._type_attributes:
            return
        self._type_attributes.add((kind, name))
        described = f"{kind.__qualname__}.{name} is unchanged"
        on_metaclass = type_lookup(type(kind), name)
        if found is _absent:
            plain = on_metaclass is _absent
        else:
            plain = isinstance(found, _GIVE_THEMSELVES) and not hasattr(type(on_metaclass), "__set__")
        if plain and type(kind) in _PLAIN_METACLASSES:
            # getattr on a class goes through CPython's type cache and gives functions and properties themselves.
            self.check(f"getattr({self.bind(kind)}, {name!r}, _absent) is {self.bind(found)}", described)
        else:
            self.check(f"_type_lookup({self.bind(kind)}, {name!r}) is {self.bind(found)}", described)

    def tensor(self, source: Source, tensor: torch.Tensor) -> None:
        """Class, dtype, device, sizes, strides and requires_grad of the tensor at `source`."""
        name = self.expression(source)
        self.tensors[len(self.lines)] = (name, tensor)
        self.tensors_by_check[len(self.checks)] = name
        self.places[len(self.checks)] = (source, tuple(tensor.shape))
        if source.stable:
            # Identity is established: only what can change in place is left (module.to, .data, requires_grad_).
            condition = ""
        else:
            condition = f"type({name}) is {self.bind(type(tensor))} and "
        condition += (
            f"{name}.dtype is {self.bind(tensor.dtype)} and {name}.shape == {self.bind(tensor.shape)}"
            f" and {name}.requires_grad is {tensor.requires_grad}"
        )
        if tensor.layout is torch.strided:
            condition += f" and {name}.stride() == {self.bind(tensor.stride())}"
        else:
            condition += f" and {name}.layout is {self.bind(tensor.layout)}"
        condition += f" and {name}.device == {self.bind(tensor.device)}"
        facts = (tensor.dtype, tuple(tensor.shape), tensor.device, tensor.requires_grad)
        self.check(condition, lambda: "{} is a tensor {} {} on {}, requires_grad={}".format(source.describe(), *facts))

    def call(self, function: Callable[..., Any], arguments: list[Any], result: Any, description: str) -> None:
        """A pure function of constants still returns `result` (e.g. `torch.is_grad_enabled()`)."""
        listed = ", ".join(self.literal(argument) for argument in arguments)
        reading = f"{self.bind(function)}({listed})"
        if result is None or result is True or result is False or isinstance(result, torch.dtype):
            self.check(f"{reading} is {self.bind(result)}", description)
        elif type(result) is int:
            self.check(f"{reading} == {result}", description)
        else:
            self.check(f"_same({reading}, {self.bind(result)})", description)


_PLAIN_METACLASSES = frozenset({type, type(torch.Tensor), type(torch.nn.Parameter)})
"""Metaclasses that leave the look-up of attributes as it is."""
_GIVE_THEMSELVES = (
    types.FunctionType, property, types.WrapperDescriptorType, types.MethodDescriptorType, types.GetSetDescriptorType,
)  # fmt: skip
"""Class attributes that `getattr(cls, name)` gives as they are."""
