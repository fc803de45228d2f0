"""Reads and writes of the user's state during acquisition: guards, shadows and the heap.

The interpreter reports every read of state.  Values are followed by identity: `known` maps the id of an object that
existed before the call to its `Source`.  Reading from a known object gives a guard and makes the value known;
objects that the program makes itself are unknown and cost nothing.  By induction the program takes the same path at
every call in which all guards pass: its first read gives the same value, therefore its second, and so on.

Real tensors never reach the program: where one is read it becomes an input, and the program sees its shadow.
"""

from __future__ import annotations

import collections
import functools
import itertools
import types
from collections.abc import Callable
from typing import Any

import torch

from thunder.acquire.class_guards import ClassGuards
from thunder.acquire.guards import Prologue, absent, is_plain, is_unset, items_of, type_lookup
from thunder.acquire.heap import EMPTY_CELL, Heap, content_of, instance_dict, is_container, slot_names
from thunder.acquire.recorder import Recorder
from thunder.acquire.sources import (
    ATTRIBUTE,
    CELL,
    CLOSURE,
    GRAD,
    INSTANCE_DICT,
    ITEM,
    KEY,
    Source,
    constant,
)
from thunder.acquire.symbols import Symbols
from thunder.errors import UnsupportedError
from thunder.interpreter import Tracker

_IMMUTABLE_TYPE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE
_CONTAINERS = frozenset(
    {list, dict, tuple, set, frozenset, collections.OrderedDict, collections.defaultdict, collections.deque,
     collections.Counter, types.MappingProxyType, bytearray}
)  # fmt: skip
_CONTAINER_BASES = (list, dict, tuple, set, frozenset, collections.deque, bytearray)
_IDENTITY_TYPES = (type, types.ModuleType, types.BuiltinFunctionType, types.MethodDescriptorType, torch.nn.Module,
                   types.WrapperDescriptorType, types.CodeType, property, staticmethod, classmethod)  # fmt: skip
_INTEGRAL_GETATTRIBUTE = frozenset(
    kind.__getattribute__
    for kind in (object, types.ModuleType, type, dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float,
                 complex, collections.deque, collections.OrderedDict, collections.defaultdict, BaseException,
                 types.SimpleNamespace, functools.partial)
)  # fmt: skip
"""Look-up in the instance and its classes; C types have a wrapper of their own for it."""
_UNSET = object()


class AcquisitionTracker(Tracker):
    """Turns reads into guards and inputs, and remembers what is about to change.

    Args:
        prologue: receives the guards.
        heap: is told of changes before they happen.
        unstable: descriptions of places whose containers are another object at every call; they are followed by
            path instead of by identity.
    """

    def __init__(self, prologue: Prologue, heap: Heap, unstable: frozenset[str] = frozenset()) -> None:
        self.prologue = prologue
        self.heap = heap
        self.unstable = unstable
        self.recorder: Recorder
        self.symbols: Symbols | None = None
        self.known: dict[int, Source] = {}
        self.shadows: dict[int, torch.Tensor] = {}
        self.inputs: list[tuple[Source, torch.Tensor, torch.Tensor]] = []  # (source, real, shadow)
        self.input_names: dict[int, str] = {}
        self.identity_checks: dict[int, Source] = {}
        self._input_of_shadow: dict[int, tuple[Source, torch.Tensor]] = {}
        self._plans: dict[tuple[type, str], Callable[[Any, str, Source | None], Any]] = {}
        self._generic_plans: dict[tuple[type, str], Callable[[Any, str, Source | None], Any]] = {}
        self._globals_seen: dict[tuple[int, str], Any] = {}
        self._generic_access = {
            "__getattribute__": self.load_generic,
            "__setattr__": self.store_generic,
            "__delattr__": self.delete_generic,
        }
        self.classes = ClassGuards(prologue)
        # Both grow: classes that inherit from a container are containers, and the identity of an object that is
        # followed by path is asked for.
        self.container_types = set(_CONTAINERS)  # type: ignore[assignment]
        self.wrapped_types = {torch.Tensor, torch.nn.Parameter}  # type: ignore[assignment]
        self._kinds: set[type] = set()
        self._new: set[int] = set()
        self._entered: set[int] = set()
        self._class_guarded: set[int] = set()
        self._touched: set[int] = set()
        self._keep: list[Any] = []

    # Values -----------------------------------------------------------------------------------------------------
    def make_known(self, obj: Any, source: Source) -> Source:
        """Remembers where an object that existed before the call comes from."""
        self.known[id(obj)] = source
        self._keep.append(obj)
        kind = type(obj)
        if kind not in self._kinds:
            self._kinds.add(kind)
            if issubclass(kind, _CONTAINER_BASES):
                self.container_types.add(kind)  # type: ignore[attr-defined]
        if not source.stable:
            self.wrapped_types.add(kind)  # type: ignore[attr-defined]
        return source

    def known_objects(self) -> list[tuple[Any, Source]]:
        """Objects that existed before the call and where each comes from."""
        objects = {id(obj): obj for obj in self._keep}
        return [(objects[key], source) for key, source in self.known.items() if key in objects]

    def source_of(self, obj: Any) -> Source:
        """The source of an object; one without is taken as a constant."""
        found = self.known.get(id(obj))
        return found if found is not None else self.make_known(obj, constant(obj))

    def read(self, source: Source, value: Any) -> Any:
        """`value` was read at `source`: guards it, and answers what the program is to see."""
        if source.seen or source.written:
            if source.value is value and not source.written:
                return self.shadows.get(id(value), value)
            source.written = True
            return self.wrap(value) if isinstance(value, torch.Tensor) else value
        if self.symbols is not None and type(value) is int and self.symbols.is_dynamic_number(source):
            return self.symbols.number(source, value)
        source.seen, source.value = True, value
        if is_plain(value):
            self.prologue.value(source, value)
            return value
        known = self.known.get(id(value))
        if known is not None:
            if known is not source:
                self._same_object(source, known, value)
            return self.shadows.get(id(value), value)
        if isinstance(value, torch.Tensor):
            return self._new_input(source, value)
        self._new_object(source, value)
        return value

    def _is_unstable(self, source: Source) -> bool:
        """Whether the object at this place was another one at an earlier call."""
        return bool(self.unstable) and source.describe() in self.unstable

    def _same_object(self, source: Source, known: Source, value: Any) -> None:
        if known.stable:
            self.prologue.identical(source, value)
        else:
            self.prologue.same_place(source, known)

    def _new_object(self, source: Source, value: Any) -> None:
        """An object is seen for the first time: by identity where that is stable, else by class and path."""
        parent_stable = source.parent is not None and _stable_owner(source.parent)
        by_path = isinstance(value, types.FunctionType) and not parent_stable
        if isinstance(value, _IDENTITY_TYPES) or (parent_stable and not self._is_unstable(source)):
            self.identity_checks[len(self.prologue.checks)] = source
            self.prologue.identical(source, value)
            self.make_known(value, constant(value, source))
            return
        if by_path or type(value) in _CONTAINERS or hasattr(value, "__dict__") or type(value).__flags__ & (1 << 9):
            self.prologue.has_type(source, type(value))
            self.make_known(value, source)
            if isinstance(value, types.MethodType):
                self.prologue.check(
                    f"{self.prologue.expression(source)}.__func__ is {self.prologue.bind(value.__func__)}",
                    f"{source.describe()} is the same method",
                )
                self.read(source.child(ATTRIBUTE, "__self__"), value.__self__)
            return
        self.prologue.identical(source, value)
        self.make_known(value, constant(value))

    # Tensors ----------------------------------------------------------------------------------------------------
    def _new_input(self, source: Source, real: torch.Tensor) -> torch.Tensor:
        """A real tensor becomes an input of the computation; the answer is its shadow."""
        if id(real) in self._new or self.recorder.var_of(real) is not None:
            return real
        if source.parent is not None and _stable_owner(source.parent) and not self._is_unstable(source):
            self.identity_checks[len(self.prologue.checks)] = source
            self.prologue.identical(source, real)
            stem = self.input_names.get(id(real)) or source.describe()
            source = constant(real, source)
        else:
            stem = source.describe()
        if self.symbols is not None:
            shadow: torch.Tensor = self.symbols.tensor(source, real)
        else:
            self.prologue.tensor(source, real)
            shadow = self._make_shadow(real, source)
        stem = "".join(c if c.isalnum() else "_" for c in stem).strip("_")
        stem = stem if stem[:1].isalpha() else f"x_{stem}"
        self.recorder.new_var(shadow, real.device, stem, numbered=False)
        self.make_known(real, source)
        self.shadows[id(real)] = shadow
        self._input_of_shadow[id(shadow)] = (source, real)
        self.inputs.append((source, real, shadow))
        return shadow

    def _make_shadow(self, real: torch.Tensor, source: Source) -> torch.Tensor:
        with torch._C.DisableTorchFunction():
            if type(real).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__ and not isinstance(
                real, torch._subclasses.FakeTensor
            ):
                raise UnsupportedError(
                    f"{source.describe()} is a {type(real).__qualname__}, a tensor subclass that computes in Python",
                    self.recorder.location(),
                    "convert it to a plain tensor, or use torch.compile(backend='thunder')",
                )
            if real.layout is not torch.strided or real.is_quantized:
                kind = "quantized" if real.is_quantized else str(real.layout).removeprefix("torch.")
                raise UnsupportedError(
                    f"{source.describe()} is a {kind} tensor",
                    self.recorder.location(),
                    "convert it to a dense one",
                )
            shadow = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device="meta")
            if real.storage_offset():
                storage = torch.UntypedStorage(real.untyped_storage().nbytes(), device="meta")
                shadow = shadow.set_(storage, real.storage_offset(), real.shape, real.stride())
            if real.is_conj():
                shadow = torch.conj(shadow.resolve_conj())
            if isinstance(real, torch.nn.Parameter):
                shadow = torch.nn.Parameter(shadow, requires_grad=real.requires_grad)
            elif real.requires_grad:
                shadow.requires_grad_(True)
                if not real.is_leaf:
                    with torch.enable_grad():
                        shadow = torch._C._functions.DelayedError("thunder: acquisition has no gradients", 1)(shadow)
        return shadow

    def shadow_of(self, real: torch.Tensor) -> torch.Tensor:
        """The shadow of a real tensor that turned up as an argument of a torch call."""
        shadow = self.shadows.get(id(real))
        if shadow is not None:
            return shadow
        if real.is_meta:
            raise UnsupportedError(
                "a tensor was made by code that thunder cannot record",
                self.recorder.location(),
                "make it with torch calls, or wrap that code in a torch.library custom op",
            )
        return self._new_input(constant(real), real)

    def wrap(self, value: Any) -> Any:
        """A tensor that comes out of a container or an opaque call is exchanged for its shadow."""
        if self.recorder.var_of(value) is not None or not isinstance(value, torch.Tensor):
            return value
        if torch._C._functorch.is_functorch_wrapped_tensor(value):
            return value
        return self.shadow_of(value)

    def input_of(self, shadow: torch.Tensor) -> tuple[Source, torch.Tensor] | None:
        """(source, real tensor) of an input's shadow."""
        return self._input_of_shadow.get(id(shadow))

    # Variables --------------------------------------------------------------------------------------------------
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
        if name not in global_names:
            self._guard_absent(self.source_of(global_names), name)
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
        self.prologue.check(condition, lambda: f"code and defaults of {source.describe()} are unchanged")
        for value in defaults or ():
            if not is_plain(value) and id(value) not in self.known and not isinstance(value, torch.Tensor):
                self.make_known(value, constant(value))
        if keyword_defaults:
            self.source_of(keyword_defaults)
            self.touch(keyword_defaults)

    # Attributes -------------------------------------------------------------------------------------------------
    def load_attr(self, obj: Any, name: str) -> Any:
        kind = type(obj)
        if kind is super:
            self._guard_super(obj, name)
            return self.interp.getattr(obj, name)
        source = self.known.get(id(obj))
        if source is not None and source.stable:
            self._guard_class_of(obj, kind)
        plan = self._plans.get((kind, name))
        if plan is None:
            plan = self._plans[kind, name] = self._make_plan(obj, kind, name)
        return plan(obj, name, source)

    def _guard_super(self, proxy: Any, name: str) -> None:
        this_class = super.__getattribute__(proxy, "__thisclass__")
        self_class = super.__getattribute__(proxy, "__self_class__")
        if self_class is not None and this_class in self_class.__mro__:
            self.classes.super_lookup(this_class, self_class, name)

    def _guard_class_of(self, obj: Any, kind: type) -> None:
        """The class of an object that is followed by identity can still be assigned."""
        if id(obj) in self._class_guarded or kind.__flags__ & _IMMUTABLE_TYPE or isinstance(obj, type):
            return
        self._class_guarded.add(id(obj))
        bind = self.prologue.bind
        self.prologue.check(
            f"type({bind(obj)}) is {bind(kind)}", lambda: f"the class of {self.source_of(obj).describe()} is unchanged"
        )

    def class_lookup(self, kind: type, name: str) -> None:
        """The interpreter looks `name` up in a class, for an operator or a protocol."""
        self.classes.lookup(kind, name)

    def load_generic(self, obj: Any, name: str) -> Any:
        """`object.__getattribute__(obj, name)`: attribute look-up that skips a Python `__getattribute__`."""
        kind = type(obj)
        plan = self._generic_plans.get((kind, name))
        if plan is None:
            plan = self._generic_plans[kind, name] = self._make_plan(obj, kind, name, generic=True)
        return plan(obj, name, self.known.get(id(obj)))

    def _make_plan(
        self, obj: Any, kind: type, name: str, *, generic: bool = False
    ) -> Callable[[Any, str, Source | None], Any]:
        """How the attribute `name` of objects of this class is found; guards the class's part of it once."""
        if issubclass(kind, torch.Tensor):
            return self._load_from_tensor
        if issubclass(kind, type):
            return self._load_from_class
        if not generic:
            lookup = type_lookup(kind, "__getattribute__")
            if not kind.__flags__ & _IMMUTABLE_TYPE and isinstance(lookup, types.FunctionType):
                self.classes.lookup(kind, "__getattribute__")
                return lambda obj, name, source: self.interp.getattr(obj, name)
            if lookup not in _INTEGRAL_GETATTRIBUTE:
                return lambda obj, name, source: self.interp.getattr(obj, name)
        found = type_lookup(kind, name)
        if name == "__dict__":
            return self._load_builtin_attribute
        if not kind.__flags__ & _IMMUTABLE_TYPE:
            self.classes.lookup(kind, name)
            self.classes.lookup(kind, "__getattribute__")
        elif found is not absent and not issubclass(kind, types.ModuleType):
            return lambda obj, name, source: self._load_from_builtin(obj, name, source)
        if isinstance(found, property):
            return lambda obj, name, source: self.interp.call(found.fget, obj) if found.fget else getattr(obj, name)
        if isinstance(found, types.MemberDescriptorType):
            return self._load_slot
        if isinstance(found, types.GetSetDescriptorType):
            return self._load_builtin_attribute
        if isinstance(found, types.FunctionType):
            return lambda obj, name, source: self._load_instance(
                obj, name, source, lambda: types.MethodType(found, obj)
            )
        if found is absent:
            if issubclass(kind, types.ModuleType):
                return lambda obj, name, source: self._load_instance(
                    obj, name, source, lambda: self._module_missing(obj, name, source)
                )
            self.classes.lookup(kind, "__getattr__")
            fallback = type_lookup(kind, "__getattr__")
            if fallback is absent:
                return lambda obj, name, source: self._load_instance(obj, name, source, lambda: getattr(obj, name))
            if fallback is torch.nn.Module.__getattr__:
                return self._load_from_module
            return lambda obj, name, source: self._load_instance(
                obj, name, source, lambda: self.interp.getattr(obj, name)
            )
        if isinstance(found, (staticmethod, classmethod)):
            return lambda obj, name, source: self._load_instance(obj, name, source, lambda: getattr(obj, name))
        if type(found).__flags__ & _IMMUTABLE_TYPE and hasattr(type(found), "__get__"):
            return lambda obj, name, source: self._load_instance(
                obj, name, source, lambda: self._load_from_builtin(obj, name, source)
            )
        getter = type_lookup(type(found), "__get__")
        if getter is not absent:
            for access in ("__get__", "__set__", "__delete__"):
                self.classes.lookup(type(found), access)
            if hasattr(type(found), "__set__") or hasattr(type(found), "__delete__"):
                return lambda obj, name, source: self.interp.call(getter, found, obj, kind)
            return lambda obj, name, source: self._load_instance(
                obj, name, source, lambda: self.interp.call(getter, found, obj, kind)
            )
        return lambda obj, name, source: self._load_instance(obj, name, source, lambda: self._class_value(found))

    def _module_missing(self, obj: types.ModuleType, name: str, source: Source | None) -> Any:
        """An attribute that a module does not have: its own `__getattr__` answers, if there is one."""
        fallback = self._load_instance(obj, "__getattr__", source, lambda: absent)
        return getattr(obj, name) if fallback is absent else self.interp.call(fallback, name)

    def _class_value(self, value: Any) -> Any:
        """A value kept in a class: the guard on the class's attribute has established its identity."""
        if isinstance(value, torch.Tensor):
            return self.wrap(value)
        if not is_plain(value) and id(value) not in self.known:
            self.make_known(value, constant(value))
        return value

    def _load_instance(self, obj: Any, name: str, source: Source | None, otherwise: Callable[[], Any]) -> Any:
        """Reads the instance's own dict first, then what the class has."""
        attributes = instance_dict(obj)
        if attributes is None:
            return otherwise()
        if name in attributes:
            value = attributes[name]
            if source is None:
                return self.wrap(value) if isinstance(value, torch.Tensor) else value
            return self.read(source.child(INSTANCE_DICT).child(ITEM, name), value)
        if source is not None:
            self._guard_absent(source.child(INSTANCE_DICT), name)
        return otherwise()

    def _guard_absent(self, holder: Source, name: Any) -> None:
        place = holder.child(ITEM, name)
        if not place.seen and not place.written:
            place.seen, place.value = True, absent
            self.prologue.has_key(holder, name, False)

    def _load_from_module(self, obj: Any, name: str, source: Source | None) -> Any:
        """`nn.Module.__getattr__`: parameters, buffers and submodules, without interpreting it."""
        attributes = obj.__dict__
        if name in attributes:
            return self._load_instance(obj, name, source, lambda: None)
        for group in ("_parameters", "_buffers", "_modules"):
            members = attributes.get(group)
            if members is not None and name in members:
                if source is None:
                    value = members[name]
                    return self.wrap(value) if isinstance(value, torch.Tensor) else value
                self._guard_absent(source.child(INSTANCE_DICT), name)
                members = self.read(source.child(INSTANCE_DICT).child(ITEM, group), members)
                return self.read(self.source_of(members).child(ITEM, name), members[name])
        return self._load_instance(obj, name, source, lambda: self._module_fallback(obj, name, source))

    def _module_fallback(self, obj: Any, name: str, source: Source | None) -> Any:
        if source is not None:
            for group in ("_parameters", "_buffers", "_modules"):
                members = obj.__dict__.get(group)
                if members is not None:
                    members = self.read(source.child(INSTANCE_DICT).child(ITEM, group), members)
                    self._guard_absent(self.source_of(members), name)
        return self.interp.call(torch.nn.Module.__getattr__, obj, name)

    def _load_slot(self, obj: Any, name: str, source: Source | None) -> Any:
        slot = type_lookup(type(obj), name)
        try:
            value = slot.__get__(obj)
        except AttributeError:
            if source is not None and not source.child(ATTRIBUTE, name).seen:
                place = source.child(ATTRIBUTE, name)
                place.seen, place.value = True, absent
                if not place.written:
                    self.prologue.check(
                        f"_is_unset({self.prologue.bind(slot)}, {self.prologue.expression(source)})",
                        lambda: f"{place.describe()} is unset",
                    )
            fallback = type_lookup(type(obj), "__getattr__")
            self.classes.lookup(type(obj), "__getattr__")
            if fallback is not absent:
                return self.interp.call(fallback, obj, name)
            raise
        if source is None:
            return self.wrap(value) if isinstance(value, torch.Tensor) else value
        return self.read(source.child(ATTRIBUTE, name), value)

    def _load_builtin_attribute(self, obj: Any, name: str, source: Source | None) -> Any:
        """An attribute that C code computes: `__dict__`, `__class__`, `__code__`, ..."""
        value = getattr(obj, name)
        if source is None:
            return value
        if name == "__dict__":
            return value if id(value) in self.known else self._known_dict(value, source)
        if name in ("__class__",):
            return value
        if is_plain(value) or is_container(value) or isinstance(value, types.FunctionType):
            return self.read(source.child(ATTRIBUTE, name), value)
        return value

    def _known_dict(self, attributes: dict[str, Any], source: Source) -> dict[str, Any]:
        self.make_known(attributes, source.child(INSTANCE_DICT))
        return attributes

    def _load_from_builtin(self, obj: Any, name: str, source: Source | None) -> Any:
        """An attribute of an object of a C type."""
        value = getattr(obj, name)
        if source is None or isinstance(value, (types.BuiltinMethodType, types.MethodWrapperType)):
            return self.wrap(value) if isinstance(value, torch.Tensor) else value
        if isinstance(obj, types.FunctionType) and name == "__dict__":
            return self._known_dict(value, source) if id(value) not in self.known else value
        if name in ("__class__", "__doc__", "__module__") or type(obj) in (types.CodeType, slice, range):
            return value
        return self.read(source.child(ATTRIBUTE, name), value)

    def _load_from_class(self, obj: type, name: str, source: Source | None) -> Any:
        """An attribute of a class."""
        if id(obj) in self._new:
            return self.interp.getattr(obj, name)
        found = type_lookup(obj, name)
        if not obj.__flags__ & _IMMUTABLE_TYPE and source is not None:
            place = source.child(ATTRIBUTE, name)
            if hasattr(type_lookup(type(obj), name), "__set__"):  # of the metaclass: `__name__`, `__dict__`, ...
                value = self.interp.getattr(obj, name)
                if name in ("__mro__", "__bases__", "__base__"):
                    self.classes.order(obj)
                elif name == "__dict__":
                    self.classes.namespace(obj)
                return self.read(place, value) if is_plain(value) else value
            self.classes.lookup(obj, name)
        value = self.interp.getattr(obj, name)
        return self._class_value(value) if value is found else value

    def _load_from_tensor(self, obj: torch.Tensor, name: str, source: Source | None) -> Any:
        """An attribute of a tensor: torch's own through the recorder, the user's own from the real tensor."""
        found = self._input_of_shadow.get(id(obj))
        if name == "storage_offset":
            self._guard_storage_offsets(obj)
        elif name in ("__reduce_ex__", "__reduce__"):
            raise UnsupportedError(
                "a tensor is copied or pickled here",
                self.recorder.location(),
                "copy it with clone() or detach(), and pickle it outside of the compiled function",
            )
        if found is not None:
            place, real = found
            if name == "grad":
                child = place.child(GRAD, "grad")
                if child.written:
                    return obj.grad
                with torch._C.DisableTorchFunction():
                    gradient = real.grad
                return self.read(child, gradient)
            if name in real.__dict__ and name not in obj.__dict__:
                return self.read(place.child(INSTANCE_DICT).child(ITEM, name), real.__dict__[name])
            if name not in obj.__dict__ and type_lookup(type(obj), name) is absent:
                self._guard_absent(place.child(INSTANCE_DICT), name)
        return getattr(obj, name)

    def _guard_storage_offsets(self, obj: torch.Tensor) -> None:
        """Where in their storage the inputs begin that `obj` is, or is a view of."""
        with torch._C.DisableTorchFunction():
            storage = self.wrap(obj).untyped_storage()._cdata
            for source, real, shadow in self.inputs:
                if shadow.untyped_storage()._cdata == storage:
                    condition = f"{self.prologue.expression(source)}.storage_offset() == {real.storage_offset()}"
                    self.prologue.check(condition, f"storage offset of {source.describe()}")

    def store_attr(self, obj: Any, name: str, value: Any) -> None:
        kind = type(obj)
        if isinstance(obj, torch.Tensor):
            self._store_on_tensor(obj, name, value)
            return
        if isinstance(obj, type):
            self._store_on_class(obj, name, lambda: self.interp.setattr(obj, name, value))
            return
        source = self.known.get(id(obj))
        if source is not None and source.stable:
            self._guard_class_of(obj, kind)
        self.classes.lookup(kind, "__setattr__")
        setter = type_lookup(kind, "__setattr__")
        descriptor = type_lookup(kind, name)
        plain = setter in (object.__setattr__, types.ModuleType.__setattr__) or setter is absent
        if plain and (descriptor is absent or not hasattr(type(descriptor), "__set__")):
            self.store_generic(obj, name, value)
        elif plain and isinstance(descriptor, types.MemberDescriptorType):
            self.store_generic(obj, name, value)
        else:
            self.interp.setattr(obj, name, value)

    def store_generic(self, obj: Any, name: str, value: Any) -> None:
        """`object.__setattr__(obj, name, value)`."""
        if self._through_descriptor(obj, name, "__set__", value):
            return
        self._before_attribute_change(obj, name)
        if isinstance(obj, torch.Tensor):
            setattr(obj, name, value)
        else:
            object.__setattr__(obj, name, value)

    def _through_descriptor(self, obj: Any, name: str, access: str, *value: Any) -> bool:
        """Whether a property or a descriptor written in Python has taken the assignment or deletion."""
        kind = type(obj)
        found = type_lookup(kind, name)
        if isinstance(obj, torch.Tensor):
            return False
        self.classes.lookup(kind, name)
        if type(found) is property:
            function = found.fset if access == "__set__" else found.fdel
        else:
            function = type_lookup(type(found), access)
            self.classes.lookup(type(found), access)
            value = (obj, *value)
            obj = found
        if not isinstance(function, types.FunctionType):
            return False
        self.interp.call(function, obj, *value)
        return True

    def delete_attr(self, obj: Any, name: str) -> None:
        kind = type(obj)
        if isinstance(obj, type):
            self.classes.own_attribute(obj, name)
            self._store_on_class(obj, name, lambda: delattr(obj, name))
            return
        self.classes.lookup(kind, "__delattr__")
        if type_lookup(kind, "__delattr__") in (object.__delattr__, absent):
            self.delete_generic(obj, name)
        else:
            self.interp.delattr(obj, name)

    def delete_generic(self, obj: Any, name: str) -> None:
        """`object.__delattr__(obj, name)`."""
        if self._through_descriptor(obj, name, "__delete__"):
            return
        source = self.known.get(id(obj))
        if isinstance(type_lookup(type(obj), name), types.MemberDescriptorType):
            self.load_generic(obj, name)
        elif source is not None:
            self._load_instance(obj, name, source, lambda: None)
        self._before_attribute_change(obj, name, delete=True)
        object.__delattr__(obj, name)

    def _before_attribute_change(self, obj: Any, name: str, *, delete: bool = False) -> None:
        source = self.known.get(id(obj))
        if source is None:
            return
        descriptor = type_lookup(type(obj), name)
        if isinstance(descriptor, types.MemberDescriptorType):
            try:
                before = descriptor.__get__(obj)
                undo: Callable[[], None] = lambda: descriptor.__set__(obj, before)  # noqa: E731
            except AttributeError:
                before, undo = absent, functools.partial(_unset_slot, descriptor, obj)
            self.heap.before_slot_change(obj, name, undo, before)
            source.child(ATTRIBUTE, name).written = True
            return
        attributes = instance_dict(obj)
        if attributes is not None:
            holder = source.child(INSTANCE_DICT)
            self.known.setdefault(id(attributes), holder)
            place = holder.child(ITEM, name)
            if delete:
                self.heap.delete(attributes, name)
            else:
                self.heap.assign(attributes, name, blind=not place.seen)
            place.written = True

    def _store_on_class(self, obj: type, name: str, store: Callable[[], None]) -> None:
        if id(obj) not in self._new:
            before = obj.__dict__.get(name, absent)

            def undo() -> None:
                if before is absent:
                    if name in obj.__dict__:
                        type.__delattr__(obj, name)
                else:
                    type.__setattr__(obj, name, before)

            self.source_of(obj).child(ATTRIBUTE, name).written = True
            self.classes.written(obj, name)
            self.heap.before_slot_change(obj, name, undo, before)
        store()
        self._plans.clear()
        self._generic_plans.clear()

    def _store_on_tensor(self, obj: torch.Tensor, name: str, value: Any) -> None:
        found = self._input_of_shadow.get(id(obj))
        if found is None or hasattr(torch.Tensor, name):
            if found is not None and name == "grad":
                found[0].child(GRAD, "grad").written = True
            setattr(obj, name, value)
            return
        place, real = found
        attributes = real.__dict__
        holder = place.child(INSTANCE_DICT)
        self.known.setdefault(id(attributes), holder)
        self.heap.assign(attributes, name, blind=not holder.child(ITEM, name).seen)
        holder.child(ITEM, name).written = True
        attributes[name] = value

    # Containers -------------------------------------------------------------------------------------------------
    def load_item(self, obj: Any, key: Any) -> Any:
        source = self.known.get(id(obj))
        if source is None:
            value = self.interp.getitem(obj, key)
            return self.wrap(value) if isinstance(value, torch.Tensor) else value
        kind = type(obj)
        if kind not in _CONTAINERS and isinstance(type_lookup(kind, "__getitem__"), types.FunctionType):
            return self._wrap_all(self.interp.getitem(obj, key))
        if isinstance(obj, (list, tuple)):
            if type(key) is int and not self.heap.was_changed(obj):
                index = key
                if -len(obj) <= index < 0:
                    # Counted from the end: which one it is depends on the length.
                    self._guard_length(source, obj)
                    index += len(obj)
                if 0 <= index < len(obj):
                    return self.read(source.child(ITEM, index), obj[index])
            self.touch(obj)
            return self._wrap_all(obj[key])
        if isinstance(obj, dict) and type(obj).__getitem__ in _DICT_GETITEM and is_plain(key):
            if key in obj:
                return self.read(source.child(ITEM, key), obj[key])
            self._guard_absent(source, key)
            if isinstance(obj, collections.defaultdict):
                return self._make_missing(obj, key)
        elif kind in self.container_types:
            self.touch(obj)
        return self._wrap_all(self.interp.getitem(obj, key))

    def _make_missing(self, obj: collections.defaultdict[Any, Any], key: Any) -> Any:
        """`defaultdict.__missing__`."""
        missing = type_lookup(type(obj), "__missing__")
        if isinstance(missing, types.FunctionType):
            return self.interp.call(missing, obj, key)
        factory = self.load_attr(obj, "default_factory")
        if factory is None:
            raise KeyError(key)
        value = self.interp.call(factory)
        self.store_item(obj, key, value)
        return value

    def _wrap_all(self, value: Any) -> Any:
        """Exchanges tensors for shadows in a value, or a list or tuple of values, that a read has just made."""
        if isinstance(value, torch.Tensor):
            return self.wrap(value)
        if id(value) in self.known:
            return value
        if type(value) in (list, tuple) and any(isinstance(item, torch.Tensor) for item in value):
            items = [self.wrap(item) if isinstance(item, torch.Tensor) else item for item in value]
            if any(item is not before for item, before in zip(items, value)):
                return type(value)(items)
        return value

    def store_item(self, obj: Any, key: Any, value: Any) -> None:
        if id(obj) in self.known and is_container(obj):
            self._change_item(obj, key)
        self.interp.setitem(obj, key, value)

    def delete_item(self, obj: Any, key: Any) -> None:
        if id(obj) in self.known and is_container(obj):
            self.load_item(obj, key)
            self._delete_item(obj, key)
        self.interp.delitem(obj, key)

    def _change_item(self, obj: Any, key: Any) -> None:
        source = self.source_of(obj)
        self.heap.before_change(obj)
        if not isinstance(obj, dict):
            self.touch(obj)
        elif is_plain(key):
            place = source.child(ITEM, key)
            self.heap.assign(obj, key, blind=not place.seen)
            place.written = True
        else:
            self.heap.assign(obj, key, blind=id(obj) not in self._touched)

    def _delete_item(self, obj: Any, key: Any) -> None:
        """Before an item is deleted that has been read."""
        if not isinstance(obj, dict):
            self.heap.before_change(obj)
            self.touch(obj)
            return
        if is_plain(key):
            self.source_of(obj).child(ITEM, key).written = True
        if dict.__contains__(obj, key):
            self.heap.delete(obj, key)

    def _guard_length(self, source: Source, obj: Any) -> None:
        place = source.child(KEY, "len")
        if not place.seen and id(obj) not in self._touched:
            place.seen = True
            self.prologue.length(source, len(obj))

    def length(self, obj: Any) -> None:
        """`len(obj)` or its truth value is read."""
        source = self.known.get(id(obj))
        if source is None or type(obj) not in self.container_types:
            return
        if self.heap.was_changed(obj):
            self.touch(obj)
        else:
            self._guard_length(source, obj)

    def touch(self, obj: Any) -> None:
        """The whole content of a container is read."""
        source = self.known.get(id(obj))
        if source is None or id(obj) in self._touched:
            return
        self._touched.add(id(obj))
        if isinstance(obj, types.MappingProxyType):
            return
        if isinstance(obj, dict):
            self._touch_dict(source, obj)
        elif isinstance(obj, (set, frozenset)):
            content = self.heap.content_before(obj) if isinstance(obj, set) else obj
            self.prologue.plain_items(source, list(content))
            for item in content:
                if not is_plain(item) and id(item) not in self.known and not isinstance(item, torch.Tensor):
                    self.make_known(item, constant(item))
        elif isinstance(obj, (list, tuple, collections.deque, bytearray)):
            content = items_of(obj) if isinstance(obj, tuple) else self.heap.content_before(obj)
            if all(is_plain(item) for item in content):
                self.prologue.plain_items(source, content)
                return
            self.prologue.length(source, len(content))
            for index, item in enumerate(content):
                self.read(source.child(ITEM, index), item)

    def touch_deeply(self, obj: Any) -> None:
        """The whole content of a container is read, and that of the containers in it."""
        pending, met = [obj], set()
        while pending:
            container = pending.pop()
            if id(container) in met or not isinstance(container, _CONTAINER_BASES):
                continue
            met.add(id(container))
            self.touch(container)
            pending += items_of(container)
            if isinstance(container, dict):
                pending += dict.values(container)

    def change(self, obj: Any) -> None:
        """An in-place operator is about to change a container."""
        if id(obj) in self.known and is_container(obj):
            self.heap.before_change(obj)

    def _touch_dict(self, source: Source, obj: dict[Any, Any]) -> None:
        content = self.heap.content_before(obj)
        keys = [key for key, _ in content]
        if all(is_plain(key) for key in keys):
            self.prologue.plain_items(source, keys)
            for key, value in content:
                place = source.child(ITEM, key)
                if place.written:
                    # It was changed before it was read: the guard is on the value that it had.
                    place = Source(ITEM, source, key)
                self.read(place, value)
            return
        self.prologue.length(source, len(content))
        for index, (key, value) in enumerate(content):
            self.read(source.child(KEY, index), key)
            if not is_plain(value):
                self.prologue.check(
                    f"{self.prologue.expression(source)}[{self.prologue.bind(key)}] is {self.prologue.bind(value)}",
                    f"item {index} of {source.describe()} is unchanged",
                )
                if not isinstance(value, torch.Tensor):
                    self.source_of(value)
                else:
                    self.shadow_of(value)
            else:
                self.read(Source(ITEM, source, key), value)

    def identity(self, left: Any, right: Any) -> bool:
        result = left is right
        if left is None or right is None:
            return result
        if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
            left, right = self.wrap(left), self.wrap(right)
            result = left is right
        first, second = self._source_for_identity(left), self._source_for_identity(right)
        if first is not None and second is not None and not result and not (first.stable and second.stable):
            self.prologue.check(
                f"{self.prologue.expression(first)} is not {self.prologue.expression(second)}",
                f"{first.describe()} is not {second.describe()}",
            )
        return result

    def _source_for_identity(self, obj: Any) -> Source | None:
        found = self._input_of_shadow.get(id(obj))
        return found[0] if found is not None else self.known.get(id(obj))

    def truth(self, obj: Any) -> bool:
        if type(obj) in _CONTAINERS:
            self.length(obj)
            return bool(obj)
        if type(obj) in self.container_types:
            for name in ("__bool__", "__len__"):
                self.classes.lookup(type(obj), name)
                if isinstance(type_lookup(type(obj), name), types.FunctionType):
                    return self.interp.truth(obj)
            self.length(obj)
            return bool(obj)
        if isinstance(obj, torch.Tensor):
            return bool(obj)
        return self.interp.truth(obj)

    # Opaque calls -----------------------------------------------------------------------------------------------
    def call_opaque(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        known = self.known
        if type(function) is types.MethodWrapperType:
            # `super().__setattr__(name, value)` and its like, bound to the object.
            generic: Any = self._generic_access.get(function.__name__)
            if generic is not None and not isinstance(function.__self__, (type, torch.Tensor)):
                return generic(function.__self__, *arguments)
        owner = getattr(function, "__self__", None)
        if owner is None and arguments and type(function) in _UNBOUND:
            owner, arguments_of_method = arguments[0], arguments[1:]
        else:
            arguments_of_method = arguments
        depth = _DEPTHS.get(id(function), 2)
        if isinstance(owner, _CONTAINER_BASES):
            depth = _METHOD_DEPTHS.get(function.__name__, 2)
        for argument in (*arguments_of_method, *keywords.values()):
            self._before_opaque(argument, depth)
        if owner is not None and id(owner) in known and is_container(owner):
            self._before_method(owner, function.__name__, arguments_of_method, keywords)
        elif owner is not None and id(owner) in known and function.__name__ in _INSTANCE_READERS:
            self._touch_instance(owner)
        return self._wrap_all(function(*arguments, **keywords))

    def _before_opaque(self, argument: Any, depth: int) -> None:
        """Code that is not interpreted gets a container.

        At depth 0 it does not look into it, at 1 it reads the items, at 2 it may read everything and change it.
        """
        if isinstance(argument, _CONTAINER_BASES):
            if depth == 1:
                self.touch(argument)
            if depth < 2:
                return
            self.touch_deeply(argument)
            if id(argument) in self.known and is_container(argument):
                self.heap.before_change(argument)
        elif type(argument) in _ITERATORS and id(argument) in self.known:
            raise UnsupportedError(
                f"{self.known[id(argument)].describe()}, a {type(argument).__qualname__}, existed before the call",
                self.recorder.location(),
                "keep a list instead, and make the iterator inside of the compiled function",
            )

    def _touch_instance(self, obj: Any) -> None:
        """All attributes of an object are read."""
        attributes = instance_dict(obj)
        if attributes is not None:
            self.touch_deeply(self.load_generic(obj, "__dict__"))
        for name in slot_names(type(obj)):
            try:
                self.load_generic(obj, name)
            except AttributeError:
                continue

    def _before_method(self, owner: Any, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """A method of a known container is about to run: guards what it reads, remembers what it changes."""
        if isinstance(owner, dict):
            if name in _ITEM_READERS and arguments and is_plain(arguments[0]):
                self._before_item_method(owner, name, arguments[0])
                return
            keys = _assigned_keys(name, arguments, keywords)
            if keys is not None:
                for key in keys:
                    self._change_item(owner, key)
                return
        elif isinstance(owner, list) and name in _APPENDING:
            self.heap.before_change(owner)
            return
        if name == "__len__":
            self.length(owner)
            return
        if name in _DEEP_READERS:
            self.touch_deeply(owner)
        else:
            self.touch(owner)
        if name not in _READERS:
            self.heap.before_change(owner)

    def _before_item_method(self, owner: dict[Any, Any], name: str, key: Any) -> None:
        source = self.known[id(owner)]
        place = source.child(ITEM, key)
        if dict.__contains__(owner, key):
            self.read(place, dict.__getitem__(owner, key))
        else:
            self._guard_absent(source, key)
        if name == "setdefault" and not dict.__contains__(owner, key):
            self._change_item(owner, key)
        elif name == "pop":
            self._delete_item(owner, key)


def _assigned_keys(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[Any] | None:
    """The keys that a dict's method assigns without reading any, in order; None for other methods."""
    if name == "__setitem__":
        return list(arguments[:1])
    if name not in ("update", "__ior__") or not all(isinstance(argument, dict) for argument in arguments):
        return None
    return [key for argument in (*arguments, keywords) for key in items_of(argument)]


_UNBOUND = (types.MethodDescriptorType, types.WrapperDescriptorType)
_DEPTHS: dict[int, int] = {
    **{id(function): 0 for function in (isinstance, issubclass, type, id, callable)},
    **{id(function): 1 for function in (iter, next, reversed, list, tuple, dict, enumerate, zip, map, filter)},
}
"""How deeply builtins look into their arguments (see `_before_opaque`)."""
_METHOD_DEPTHS = {
    **dict.fromkeys(("append", "appendleft", "insert", "add", "setdefault", "__setitem__", "get", "pop"), 0),
    **dict.fromkeys(("extend", "extendleft", "update", "__ior__", "__iadd__", "__add__", "__or__", "__init__"), 1),
}
"""The same for the methods of containers."""
_DEEP_READERS = frozenset(
    {"index", "count", "remove", "sort", "__contains__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__",
     "__repr__", "__str__", "__format__"}
)  # fmt: skip
_INSTANCE_READERS = frozenset({"__reduce_ex__", "__reduce__", "__getstate__", "__dir__", "__sizeof__"})
_ITERATORS = frozenset(
    {type(iter(())), type(iter([])), type(iter({})), type(iter({}.items())), type(iter({}.values())), type(iter(set())),
     map, filter, zip, enumerate, reversed, itertools.count, itertools.cycle, itertools.chain, types.GeneratorType,
     itertools.repeat, itertools.islice}
)  # fmt: skip
_DICT_GETITEM = frozenset({dict.__getitem__, collections.OrderedDict.__getitem__, collections.defaultdict.__getitem__})
_ITEM_READERS = frozenset({"get", "__contains__", "__getitem__", "pop", "setdefault"})
_APPENDING = frozenset({"append", "extend", "__iadd__"})
_READERS = frozenset(
    {"keys", "values", "items", "copy", "index", "count", "__iter__", "__contains__", "__eq__", "__ne__", "get",
     "__getitem__", "union", "intersection", "difference", "issubset", "issuperset", "isdisjoint", "__reversed__",
     "symmetric_difference", "__add__", "__mul__", "__lt__", "__le__", "__gt__", "__ge__", "__or__", "__repr__"}
)  # fmt: skip


def _unset_slot(descriptor: types.MemberDescriptorType, obj: Any) -> None:
    """Makes a slot unset again."""
    if not is_unset(descriptor, obj):
        descriptor.__delete__(obj)


def _stable_owner(source: Source) -> bool:
    """Whether the object that a place belongs to is the very same at every call."""
    while source.kind == INSTANCE_DICT and source.parent is not None:
        source = source.parent
    return source.stable
