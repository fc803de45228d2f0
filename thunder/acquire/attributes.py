"""Attributes: how each is found, what guards that takes, and what is about to change.

How the attribute of an object is found depends on its class; the answer is a *plan*, made once for every class and
name, which also guards the class's part of the look-up.
"""

from __future__ import annotations

import collections
import functools
import types
from collections.abc import Callable
from typing import Any

import torch

from thunder.acquire.class_guards import is_mutable_class
from thunder.acquire.guards import Prologue, absent, is_plain, is_unset, type_lookup
from thunder.acquire.heap import Heap, instance_dict, is_container
from thunder.acquire.objects import IMMUTABLE_TYPE
from thunder.acquire.sources import ATTRIBUTE, GRAD, INSTANCE_DICT, ITEM, Source, constant
from thunder.acquire.variables import VariableTracker
from thunder.errors import ImpureCallError, UnsupportedError

_INTEGRAL_TYPES = (
    object, types.ModuleType, type, dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, complex,
    collections.deque, collections.OrderedDict, collections.defaultdict, BaseException, types.SimpleNamespace,
    functools.partial, types.FunctionType,
)  # fmt: skip
_INTEGRAL_GETATTRIBUTE = frozenset(kind.__getattribute__ for kind in _INTEGRAL_TYPES)
"""Look-up in the instance and its classes; C types have a wrapper of their own for it."""


class AttributeTracker(VariableTracker):
    """Reads and changes of attributes."""

    def __init__(self, prologue: Prologue, heap: Heap, unstable: frozenset[str] = frozenset()) -> None:
        super().__init__(prologue, heap, unstable)
        self._plans: dict[tuple[type, str], Callable[[Any, str, Source | None], Any]] = {}
        self._generic_plans: dict[tuple[type, str], Callable[[Any, str, Source | None], Any]] = {}
        self._stored_on_classes: dict[int, Any] = {}
        # Tensors that the program made and the attributes that it has set on them, by id.
        self._attributes_of_made: dict[int, tuple[torch.Tensor, set[str]]] = {}

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

    def enter_partial(self, function: functools.partial[Any]) -> None:
        if id(function) not in self.known:
            return
        for name in ("func", "args", "keywords"):
            part = self.load_attr(function, name)
            if name != "func":
                self.touch(part)

    def _guard_super(self, proxy: Any, name: str) -> None:
        this_class = super.__getattribute__(proxy, "__thisclass__")
        self_class = super.__getattribute__(proxy, "__self_class__")
        if self_class is not None and this_class in self_class.__mro__:
            self.classes.super_lookup(this_class, self_class, name)

    def guard_class(self, obj: Any) -> None:
        """The class of an object is asked for."""
        source = self.known.get(id(obj))
        if source is not None and source.stable:
            self._guard_class_of(obj, type(obj))

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
            if not kind.__flags__ & IMMUTABLE_TYPE and isinstance(lookup, types.FunctionType):
                self.classes.lookup(kind, "__getattribute__")
                return lambda obj, name, source: self.interp.getattr(obj, name)
            if lookup not in _INTEGRAL_GETATTRIBUTE:
                return self._load_through_c_code
        found = type_lookup(kind, name)
        if name == "__dict__":
            return self._load_builtin_attribute
        if not kind.__flags__ & IMMUTABLE_TYPE:
            self.classes.lookup(kind, name)
            self.classes.lookup(kind, "__getattribute__")
        elif found is not absent and not issubclass(kind, types.ModuleType):
            return lambda obj, name, source: self._load_from_builtin(obj, name, source)
        if found is not absent and not isinstance(found, _DESCRIPTORS_WITHOUT_STATE):
            self._class_value(found)
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
        if type(found).__flags__ & IMMUTABLE_TYPE and hasattr(type(found), "__get__"):
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
        if not is_plain(value):
            known = self.known.get(id(value))
            if known is None and id(value) in self._stored_on_classes:
                return value  # the program has made it, and put it there
            if known is None:
                self.make_known(value, constant(value))
            elif not known.stable:  # it was met at a place that may hold another object at the next call
                self.prologue.identical(known, value)
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

    def _load_through_c_code(self, obj: Any, name: str, source: Source | None) -> Any:
        """An attribute of an object whose class looks attributes up in a way of its own: `threading.local`."""
        if source is None or isinstance(obj, _ANSWER_FOR_THEMSELVES):
            return self.interp.getattr(obj, name)
        try:
            value = self.interp.getattr(obj, name)
        except AttributeError:
            owner = self.prologue.expression(source)
            self.prologue.check(f"not hasattr({owner}, {name!r})", lambda: f"{source.describe()} has no {name}")
            raise
        if _is_bound_to(value, obj):
            return value
        return self.read(source.child(ATTRIBUTE, name), value)

    def _load_from_builtin(self, obj: Any, name: str, source: Source | None) -> Any:
        """An attribute of an object of a C type."""
        value = getattr(obj, name)
        if source is None or _is_bound_to(value, obj):
            return self.wrap(value) if isinstance(value, torch.Tensor) else value
        if isinstance(obj, types.FunctionType) and name == "__dict__":
            return self._known_dict(value, source) if id(value) not in self.known else value
        if name == "__class__" or type(obj) in (types.CodeType, slice, range):
            return value
        if name in ("__doc__", "__module__") and not isinstance(obj, types.FunctionType):
            return value
        return self.read(source.child(ATTRIBUTE, name), value)

    def _load_from_class(self, obj: type, name: str, source: Source | None) -> Any:
        """An attribute of a class."""
        if id(obj) in self._new:
            return self.interp.getattr(obj, name)
        found = type_lookup(obj, name)
        if not obj.__flags__ & IMMUTABLE_TYPE and id(obj) not in self.made_classes:
            place = (source or self.source_of(obj)).child(ATTRIBUTE, name)
            of_metaclass = type_lookup(type(obj), name)
            if hasattr(of_metaclass, "__set__"):  # `__name__`, `__dict__`, ..., or a property of the user's
                value = self.interp.getattr(obj, name)
                if name in ("__mro__", "__bases__", "__base__"):
                    self.classes.order(obj)
                elif name == "__dict__":
                    self.classes.namespace(obj)
                is_of_c = isinstance(of_metaclass, (types.GetSetDescriptorType, types.MemberDescriptorType))
                return self.read(place, value) if is_of_c and (is_plain(value) or is_container(value)) else value
            self.classes.lookup(obj, name)
        value = self.interp.getattr(obj, name)
        return self._class_value(value) if value is found else value

    def examine_class(self, kind: type) -> None:
        """All attributes of a class and of its bases are asked for, their names and what they are."""
        self.classes.order(kind)
        for owner in kind.__mro__:
            if is_mutable_class(owner) and not owner.__module__.startswith(("thunder.", "torch.")):
                self.classes.namespace(owner)
                annotations = owner.__dict__.get("__annotations__")
                if isinstance(annotations, dict):
                    self._class_value(annotations)
                    self.touch(annotations)

    def load_class_generic(self, obj: type, name: str) -> Any:
        """`type.__getattribute__(obj, name)`, which a metaclass calls."""
        found = type_lookup(obj, name)
        if is_mutable_class(obj) and id(obj) not in self.made_classes:
            self.classes.lookup(obj, name)
        value = type.__getattribute__(obj, name)
        return self._class_value(value) if value is found else value

    def _load_from_tensor(self, obj: torch.Tensor, name: str, source: Source | None) -> Any:
        """An attribute of a tensor: torch's own through the recorder, the user's own from the real tensor."""
        obj = self.wrap(obj)  # it may be the real one, when it came through an iterator of Python's
        found = self._input_of_shadow.get(id(obj))
        self.classes.lookup(type(obj), name)
        if name == "storage_offset":
            self._guard_storage_offsets(obj)
        elif name in ("__reduce_ex__", "__reduce__"):
            raise UnsupportedError(
                "a tensor is copied or pickled here",
                self.recorder.location(),
                "copy it with clone() or detach(), and pickle it outside of the compiled function",
            )
        if name == "grad" and self.recorder.makes_gradients:
            raise UnsupportedError(
                "a gradient is read that a backward in this program makes, and that exists only when it runs",
                self.recorder.location(),
                "use torch.autograd.grad, which returns the gradients; or read them after the call",
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
            if name == "__dict__":
                attributes = real.__dict__
                return attributes if id(attributes) in self.known else self._known_dict(attributes, place)
            if name in real.__dict__ and name not in obj.__dict__:
                return self.read(place.child(INSTANCE_DICT).child(ITEM, name), real.__dict__[name])
            if name not in obj.__dict__:
                self._guard_no_attribute(place, real, name, type_lookup(type(obj), name))
        return getattr(obj, name)

    def _guard_no_attribute(self, place: Source, real: torch.Tensor, name: str, found: Any) -> None:
        """The user has put no attribute of this name on a tensor; one guard for all names where there is none."""
        if found is absent or real.__dict__:
            if not hasattr(type(found), "__set__"):
                self._guard_absent(place.child(INSTANCE_DICT), name)
        elif not hasattr(type(found), "__set__") and not place.child(INSTANCE_DICT).seen:
            place.child(INSTANCE_DICT).seen = True
            owner = self.prologue.expression(place)
            self.prologue.check(f"not {owner}.__dict__", lambda: f"{place.describe()} has no attributes of the user's")

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
            if self._changes_in_python(obj, "__setattr__"):
                self.interp.setattr(obj, name, value)
            else:
                self._store_on_class(obj, name, value, lambda: self.interp.setattr(obj, name, value))
            return
        source = self.known.get(id(obj))
        if source is not None and source.stable:
            self._guard_class_of(obj, kind)
        self.classes.lookup(kind, "__setattr__")
        setter = type_lookup(kind, "__setattr__")
        descriptor = type_lookup(kind, name)
        plain = setter in _INTEGRAL_SETATTR or setter is absent
        if plain and (descriptor is absent or not hasattr(type(descriptor), "__set__")):
            self.store_generic(obj, name, value)
        elif plain and isinstance(descriptor, (types.MemberDescriptorType, types.GetSetDescriptorType)):
            self.store_generic(obj, name, value)
        else:
            if source is not None and not plain and isinstance(setter, types.WrapperDescriptorType):
                self._refuse_change(obj, name)
            self.interp.setattr(obj, name, value)

    def _refuse_change(self, obj: Any, name: str) -> None:
        """An attribute of an object from outside is changed, in a way that cannot be undone and repeated."""
        what = f"{name!r} of {self.source_of(obj).describe()}, a {type(obj).__qualname__}, is changed"
        raise ImpureCallError(what, self.recorder.location())

    def store_generic(self, obj: Any, name: str, value: Any) -> None:
        """`object.__setattr__(obj, name, value)`, and `type.__setattr__` for a class."""
        if isinstance(obj, type):
            self._store_on_class(obj, name, value, lambda: type.__setattr__(obj, name, value))
            return
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
        if found is absent:
            return False
        if type(found) is property:
            function = found.fset if access == "__set__" else found.fdel
        else:
            function = type_lookup(type(found), access)
            self.classes.lookup(type(found), access)
            value = (obj, *value)
            obj = found if isinstance(found, _DESCRIPTORS_WITHOUT_STATE) else self._class_value(found)
        if not isinstance(function, types.FunctionType):
            return False
        self.interp.call(function, obj, *value)
        return True

    def delete_attr(self, obj: Any, name: str) -> None:
        kind = type(obj)
        if isinstance(obj, type):
            if self._changes_in_python(obj, "__delattr__"):
                self.interp.delattr(obj, name)
            else:
                self._delete_from_class(obj, name)
            return
        if isinstance(obj, torch.Tensor):
            self._delete_from_tensor(obj, name)
            return
        self.classes.lookup(kind, "__delattr__")
        deleter = type_lookup(kind, "__delattr__")
        if deleter in _INTEGRAL_DELATTR or deleter is absent:
            self.delete_generic(obj, name)
        else:
            if id(obj) in self.known and isinstance(deleter, types.WrapperDescriptorType):
                self._refuse_change(obj, name)
            self.interp.delattr(obj, name)

    def delete_generic(self, obj: Any, name: str) -> None:
        """`object.__delattr__(obj, name)`, and `type.__delattr__` for a class."""
        if isinstance(obj, type):
            self._delete_from_class(obj, name)
            return
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
        descriptor: Any = type_lookup(type(obj), name)
        if isinstance(descriptor, (types.MemberDescriptorType, types.GetSetDescriptorType)):
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

    def _changes_in_python(self, obj: type, method: str) -> bool:
        """Whether the metaclass decides in Python what an assignment to an attribute, or its deletion, does."""
        self.classes.lookup(type(obj), method)
        return isinstance(type_lookup(type(obj), method), types.FunctionType)

    def _delete_from_class(self, obj: type, name: str) -> None:
        self.classes.own_attribute(obj, name)
        self._store_on_class(obj, name, None, lambda: type.__delattr__(obj, name))

    def _store_on_class(self, obj: type, name: str, value: Any, store: Callable[[], None]) -> None:
        self._stored_on_classes[id(value)] = value
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

    def attributes_of_made(self, shadow: torch.Tensor) -> dict[str, Any]:
        """What the program has set on a tensor that it made; PyTorch keeps things of its own there as well."""
        known = self._attributes_of_made.get(id(shadow))
        return {} if known is None else {name: shadow.__dict__[name] for name in shadow.__dict__ if name in known[1]}

    def _store_on_tensor(self, obj: torch.Tensor, name: str, value: Any) -> None:
        obj = self.wrap(obj)
        found = self._input_of_shadow.get(id(obj))
        is_torchs = hasattr(type(type_lookup(type(obj), name)), "__set__")
        if found is None or is_torchs:
            if found is not None and name == "grad":
                found[0].child(GRAD, "grad").written = True
            elif not is_torchs:
                self._attributes_of_made.setdefault(id(obj), (obj, set()))[1].add(name)
            setattr(obj, name, value)
            return
        place, real = found
        attributes = real.__dict__
        holder = place.child(INSTANCE_DICT)
        self.known.setdefault(id(attributes), holder)
        self.heap.assign(attributes, name, blind=not holder.child(ITEM, name).seen)
        holder.child(ITEM, name).written = True
        attributes[name] = value

    def _delete_from_tensor(self, obj: torch.Tensor, name: str) -> None:
        obj = self.wrap(obj)
        found = self._input_of_shadow.get(id(obj))
        if found is None or hasattr(type(type_lookup(type(obj), name)), "__set__"):
            if id(obj) in self._attributes_of_made:
                self._attributes_of_made[id(obj)][1].discard(name)
            delattr(obj, name)
            return
        place, real = found
        if name not in real.__dict__:
            self._guard_absent(place.child(INSTANCE_DICT), name)
            raise AttributeError(name)
        child = place.child(INSTANCE_DICT).child(ITEM, name)
        self.read(child, real.__dict__[name])
        self.known.setdefault(id(real.__dict__), place.child(INSTANCE_DICT))
        self.heap.delete(real.__dict__, name)
        child.written = True
        del real.__dict__[name]


_INTEGRAL_SETATTR = frozenset(kind.__setattr__ for kind in _INTEGRAL_TYPES)
_INTEGRAL_DELATTR = frozenset(kind.__delattr__ for kind in _INTEGRAL_TYPES)
_DESCRIPTORS_WITHOUT_STATE = (
    types.FunctionType, property, types.MemberDescriptorType, types.GetSetDescriptorType, types.MethodDescriptorType,
    types.WrapperDescriptorType, types.BuiltinFunctionType, classmethod, staticmethod,
)  # fmt: skip
_ANSWER_FOR_THEMSELVES = (super, types.GenericAlias)


def _is_bound_to(method: Any, obj: Any) -> bool:
    """Whether an attribute is a method that the look-up has just bound to the object."""
    bound = isinstance(method, (types.BuiltinMethodType, types.MethodWrapperType, types.MethodType))
    return bound and method.__self__ is obj


def _unset_slot(descriptor: Any, obj: Any) -> None:
    """Makes a slot unset again."""
    if not is_unset(descriptor, obj):
        descriptor.__delete__(obj)
