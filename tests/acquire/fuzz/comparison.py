"""Compares two object graphs: values, types, order, and who is the same object as whom.

Input: two roots.  Output: nothing, or a `Difference` that names the path to the first place that differs.

Every object with an identity of its own in the first graph must correspond to exactly one of the second, and the
other way round; so must the storages of tensors.  Immutable values are compared by value, with 1, 1.0 and True told
apart, 0.0 from -0.0, and NaN equal to itself.  Objects that both graphs share (torch's functions, builtin classes)
must be the very same.
"""

from __future__ import annotations

import collections
import enum
import functools
import math
import re
import types
from typing import Any, NamedTuple

import torch

_VALUES = (int, float, bool, str, bytes, complex, type(None), type(Ellipsis), type(NotImplemented), range,
           torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size)  # fmt: skip
WORLD = "fuzz_world"
"""The name of the modules that programs are executed as."""

_VALUE_TYPES = frozenset(_VALUES)
_DICTS = frozenset({dict, collections.OrderedDict})
_LEAST_ADDRESS = 1 << 40
_ADDRESS = re.compile(r"0x[0-9a-f]+")
_IGNORED_GLOBALS = frozenset({"__builtins__", "__spec__", "__loader__", "__cached__", "__warningregistry__"})
_IGNORED_CLASS_ATTRIBUTES = frozenset(
    {"__dict__", "__weakref__", "__doc__", "__abstractmethods__", "_abc_impl", "__annotations__", "__dataclass_fields__",
     "__dataclass_params__", "__match_args__", "_fields", "__slotnames__", "__orig_bases__"}
)


class Difference(Exception):
    """Two graphs differ at `path`."""

    def __init__(self, path: str, expected: str, found: str, cause: BaseException | None = None) -> None:
        super().__init__(f"{path}:\n  plain Python: {expected}\n  compiled:     {found}")
        self.path = path
        self.cause = cause


def compare(expected: Any, found: Any) -> None:
    """Raises `Difference` unless the two graphs correspond."""
    _Comparison().run(expected, found)


class _Comparison:
    def __init__(self) -> None:
        self.partner: dict[int, Any] = {}  # id in the first graph -> object of the second
        self.partner_of: dict[int, int] = {}  # id in the second graph -> id in the first
        self.storage: dict[int, int] = {}
        self.storage_of: dict[int, int] = {}
        self.pending: list[tuple[Any, Any, str]] = []
        self.sets: list[tuple[Any, Any, str]] = []
        self.keep: list[Any] = []

    def run(self, expected: Any, found: Any) -> None:
        self.pending.append((expected, found, ""))
        while self.pending or self.sets:
            if self.pending:
                self.visit(*self.pending.pop())
            else:  # last: most members have a partner by now
                self.members(*self.sets.pop())

    def visit(self, a: Any, b: Any, path: str) -> None:
        kind = type(a)
        if kind in _VALUE_TYPES:
            if not same_value(a, b) and not (kind is str and type(b) is str and _text(a) == _text(b)):
                raise Difference(path, f"{a!r} ({kind.__name__})", f"{b!r} ({type(b).__name__})")
            return
        if a is b:
            return  # of neither world: a function of torch, a builtin class
        if kind is types.MethodType and type(b) is types.MethodType:  # made anew at every access
            self.pending += [(a.__func__, b.__func__, f"{path}.__func__"), (a.__self__, b.__self__, f"{path}.__self__")]
            return
        if kind is tuple and type(b) is tuple and not _holds_identity(a):
            self.sequence(a, b, path)
            return
        if kind is frozenset and type(b) is frozenset and not _holds_identity(tuple(a)):
            self.sets.append((a, b, path))
            return
        partner = self.partner.get(id(a), self)
        if partner is not self:
            if partner is not b:
                raise Difference(path, "an object seen before", "another object")
            return
        if id(b) in self.partner_of:
            raise Difference(path, "an object not seen before", "one that was met elsewhere")
        self.partner[id(a)] = b
        self.partner_of[id(b)] = id(a)
        self.keep.append((a, b))
        if not (kind in _DICTS and type(b) is kind and not a and not b):  # modules hold many empty ones
            self.objects(a, b, path)

    def objects(self, a: Any, b: Any, path: str) -> None:
        kind = type(a)
        if kind is not type(b):
            # Classes of the two worlds differ; they correspond when their bodies do.
            if not _generated(kind) or kind.__qualname__ != type(b).__qualname__:
                raise Difference(path, f"a {kind.__qualname__}", f"a {type(b).__qualname__}")
        if _generated(kind):
            self.pending.append((kind, type(b), f"type({path})"))
        if isinstance(a, torch.Tensor):
            self.tensors(a, b, path)
            return
        if isinstance(a, type):
            self.classes(a, b, path)
            return
        if isinstance(a, types.ModuleType):
            self.mapping(vars(a), vars(b), path, attributes=True)
            return
        if isinstance(a, (types.FunctionType, types.CellType, functools.partial, property, staticmethod, classmethod)):
            self.callables(a, b, path)
            return
        if isinstance(a, enum.Enum):
            self.pending.append((a.name, b.name, f"{path}.name"))
            return
        self.content(a, b, path)
        attributes = _attributes(a)
        if attributes is not None:
            self.mapping(attributes, _attributes(b) or {}, path, attributes=True)
        for name in _slots(kind):
            self.pending.append((getattr(a, name, "<unset>"), getattr(b, name, "<unset>"), f"{path}.{name}"))

    def content(self, a: Any, b: Any, path: str) -> None:
        """Items of a container; for anything else without state, identity."""
        if isinstance(a, dict):
            self.mapping(a, b, path)
            if isinstance(a, collections.defaultdict):
                self.pending.append((a.default_factory, b.default_factory, f"{path}.default_factory"))
        elif isinstance(a, (list, tuple, collections.deque)):
            self.sequence(list(a), list(b), path)
            if isinstance(a, collections.deque):
                self.pending.append((a.maxlen, b.maxlen, f"{path}.maxlen"))
        elif isinstance(a, (set, frozenset)):
            self.sets.append((a, b, path))
        elif isinstance(a, bytearray):
            self.pending.append((bytes(a), bytes(b), path))
        elif isinstance(a, (types.MappingProxyType,)):
            self.mapping(dict(a), dict(b), path)
        elif isinstance(a, slice):
            self.sequence((a.start, a.stop, a.step), (b.start, b.stop, b.step), path)
        elif a is not b and _attributes(a) is None and not _slots(type(a)) and _text(a) != _text(b):
            raise Difference(path, repr(a), repr(b))

    def members(self, a: Any, b: Any, path: str) -> None:
        """Members of a set: those that have a partner, then the others by what they look like."""
        first = sorted(a, key=lambda item: (id(item) not in self.partner, *_looks(item)))
        second = [self.partner[id(item)] for item in first if id(item) in self.partner]
        if any(item not in b for item in second):
            raise Difference(path, _short(first), _short(b))
        met = set(map(id, second))
        second += sorted((item for item in b if id(item) not in met), key=_looks)
        self.sequence(first, second, path)

    def sequence(self, a: Any, b: Any, path: str) -> None:
        if len(a) != len(b):
            raise Difference(path, f"{len(a)} items: {_short(a)}", f"{len(b)} items: {_short(b)}")
        for index, (first, second) in enumerate(zip(a, b)):
            self.pending.append((first, second, f"{path}[{index}]"))

    def mapping(self, a: Any, b: Any, path: str, *, attributes: bool = False) -> None:
        ignored = _IGNORED_GLOBALS if attributes else frozenset()
        items, others = ([item for item in _items(mapping) if item[0] not in ignored] for mapping in (a, b))
        first, second = [key for key, _ in items], [key for key, _ in others]
        if len(first) != len(second):
            missing, added = [k for k in first if k not in b], [k for k in second if k not in a]
            raise Difference(path, f"{len(first)} keys, with {_short(missing)}", f"{len(second)}, with {_short(added)}")
        for (key, value), (other, corresponding) in zip(items, others):
            if type(key) not in _VALUE_TYPES:
                self.pending.append((key, other, f"key {_text(key)} of {path}"))
            elif not same_value(key, other):
                raise Difference(path, f"keys in the order {_short(first)}", f"keys in the order {_short(second)}")
            if value is not corresponding or type(value) not in _VALUE_TYPES:
                place = f"{path}.{key}" if attributes else f"{path}[{_text(key)}]"
                self.pending.append((value, corresponding, place))

    def classes(self, a: type, b: type, path: str) -> None:
        if _text(a) == _text(b) and issubclass(a, enum.Enum) and issubclass(b, enum.Enum):
            return
        if not (_generated(a) and _generated(b)):
            raise Difference(path, a.__qualname__, b.__qualname__)
        self.pending.append((a.__bases__, b.__bases__, f"{path}.__bases__"))
        first = {k: v for k, v in vars(a).items() if _class_state(k, v)}
        second = {k: v for k, v in vars(b).items() if _class_state(k, v)}
        if set(first) != set(second):
            raise Difference(path, f"attributes {sorted(first)}", f"attributes {sorted(second)}")
        for name, value in first.items():
            self.pending.append((value, second[name], f"{path}.{name}"))

    def callables(self, a: Any, b: Any, path: str) -> None:
        if isinstance(a, types.CellType):
            self.pending.append((_cell(a), _cell(b), f"{path}.cell_contents"))
            return
        names: tuple[str, ...]
        if isinstance(a, types.FunctionType):
            if a.__code__ is not b.__code__ and a.__code__.co_code != b.__code__.co_code:
                raise Difference(path, repr(a), repr(b))
            names = ("__name__", "__defaults__", "__kwdefaults__", "__closure__", "__dict__", "__qualname__")
        elif isinstance(a, functools.partial):
            names = ("func", "args", "keywords")
        elif isinstance(a, property):
            names = ("fget", "fset", "fdel")
        else:
            names = ("__func__",)
        for name in names:
            first, second = getattr(a, name), getattr(b, name)
            if name == "__kwdefaults__" and not first and not second:
                continue
            if name in ("__closure__", "__defaults__") and first is not None and second is not None:
                self.sequence(first, second, f"{path}.{name}")
            elif name == "__dict__":
                self.mapping(first, second, path, attributes=True)
            else:
                self.pending.append((first, second, f"{path}.{name}"))

    def tensors(self, a: torch.Tensor, b: torch.Tensor, path: str) -> None:
        def facts(tensor: torch.Tensor) -> tuple[Any, ...]:
            return (
                type(tensor).__qualname__, tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset(),
                tensor.requires_grad, _is_leaf(tensor), tensor.device, tensor.is_conj(), tensor.is_neg(),
                tensor.is_inference(),
            )  # fmt: skip

        first, second = facts(a), facts(b)
        if first != second:
            raise Difference(path, f"tensor {first}", f"tensor {second}")
        key, other = a.untyped_storage()._cdata, b.untyped_storage()._cdata
        if self.storage.setdefault(key, other) != other or self.storage_of.setdefault(other, key) != key:
            raise Difference(path, "a tensor that shares its storage as given", "one that shares another storage")
        if not a.is_meta and not torch.equal(a, b) and not torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True):
            raise Difference(path, f"{a.detach()!r}", f"{b.detach()!r}")
        if first[6] is True:
            self.pending.append((a.grad, b.grad, f"{path}.grad"))
        if a.__dict__ or b.__dict__:
            self.mapping(a.__dict__, b.__dict__, path, attributes=True)


def _is_leaf(tensor: torch.Tensor) -> bool | None:
    """Whether autograd begins at the tensor; None where autograd does not know (`unbind`, its base changed since)."""
    try:
        return tensor.is_leaf
    except RuntimeError:
        return None


def same_value(a: Any, b: Any) -> bool:
    """Equality of immutable values that tells types, signs of zero and NaN apart."""
    if type(a) is not type(b):
        return False
    if type(a) is int and a > _LEAST_ADDRESS and b > _LEAST_ADDRESS:
        return True  # `id(obj)`: the two worlds have objects of their own
    if type(a) is float:
        return (a != a and b != b) or (a == b and math.copysign(1.0, a) == math.copysign(1.0, b))
    return bool(a == b)


def _generated(kind: type) -> bool:
    """Whether the program itself defines the class."""
    return kind.__module__ == WORLD


class _Sample(NamedTuple):
    first: int


def _class_state(name: str, value: Any) -> bool:
    return name not in _IGNORED_CLASS_ATTRIBUTES and not isinstance(
        value, (types.MemberDescriptorType, types.GetSetDescriptorType, type(_Sample.first))
    )


def _holds_identity(value: tuple[Any, ...]) -> bool:
    return any(type(item) not in _VALUE_TYPES and not (type(item) is tuple and not _holds_identity(item)) for item in value)


def _attributes(obj: Any) -> dict[str, Any] | None:
    try:
        return object.__getattribute__(obj, "__dict__")  # type: ignore[no-any-return]
    except AttributeError:
        return None


def _slots(kind: type) -> list[str]:
    """Names of slots of classes that the program defines."""
    found: list[str] = []
    for owner in kind.__mro__:
        if _generated(owner):
            slots = owner.__dict__.get("__slots__", ())
            found += [slots] if isinstance(slots, str) else [s for s in slots if s not in ("__dict__", "__weakref__")]
    return found


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "<empty>"


def _items(mapping: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """Keys and values in the order that iteration shows, whatever methods the class has.

    No key is looked up: its hash may be another one by now.
    """
    is_ordered = isinstance(mapping, collections.OrderedDict)
    return list(collections.OrderedDict.items(mapping) if is_ordered else dict.items(mapping))


def _looks(value: Any) -> tuple[str, str, int]:
    """What members of a set are told apart by."""
    offset = value.storage_offset() if isinstance(value, torch.Tensor) else 0
    return type(value).__name__, _text(value), offset


def _text(value: Any) -> str:
    return without_addresses(repr(value))


def without_addresses(text: str) -> str:
    """A text in which two objects of a class look the same."""
    return _ADDRESS.sub("", text)


def _short(items: Any) -> str:
    text = repr(list(items))
    return text if len(text) < 300 else text[:300] + " ..."
