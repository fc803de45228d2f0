"""Objects that existed before the call: where each comes from, and the tensors among them, which become inputs.

Values are followed by identity: `known` maps the id of an object that existed before the call to its `Source`.
Reading from a known object gives a guard and makes the value known; objects that the program makes itself are
unknown and cost nothing.  By induction the program takes the same path at every call in which all guards pass: its
first read gives the same value, therefore its second, and so on.

Real tensors never reach the program: where one is read it becomes an input, and the program sees its shadow.

Input: `read(source, value)` for every value that is read.  Output: guards in the prologue, `inputs`, and what the
program is to see.
"""

from __future__ import annotations

import array
import collections
import decimal
import enum
import types
from collections.abc import Callable
from typing import Any

import torch

from thunder.acquire.class_guards import ClassGuards
from thunder.acquire.guards import Prologue, absent, is_plain
from thunder.acquire.heap import Heap
from thunder.acquire.process_state import decimal_rules
from thunder.acquire.recorder import Recorder
from thunder.acquire.sources import ATTRIBUTE, INSTANCE_DICT, ITEM, Source, constant
from thunder.acquire.symbols import Seen, Symbols
from thunder.errors import UnsupportedError
from thunder.interpreter import Tracker

try:
    import numpy
except ImportError:  # PyTorch does without it, and so does thunder
    numpy = None  # type: ignore[assignment]

SeenAs = Callable[[torch.Tensor], "Seen | None"]
IMMUTABLE_TYPE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE
CONTAINERS = frozenset(
    {list, dict, tuple, set, frozenset, collections.OrderedDict, collections.defaultdict, collections.deque,
     collections.Counter, types.MappingProxyType, bytearray}
)  # fmt: skip
_DICTS: tuple[dict[Any, Any], ...] = ({}, collections.OrderedDict())
DICT_VIEWS = frozenset(type(view) for made in _DICTS for view in (made.keys(), made.values(), made.items()))
ARRAYS: frozenset[type] = frozenset({array.array, memoryview, *([] if numpy is None else [numpy.ndarray])})
FOLLOWED_THROUGH = DICT_VIEWS | ARRAYS | {types.MappingProxyType}
"""Containers that show what another one holds, or that are guarded as a whole."""
CONTAINER_BASES = (list, dict, tuple, set, frozenset, collections.deque, bytearray)
_BOUND = frozenset({types.MethodType, types.BuiltinMethodType, types.MethodWrapperType})
_IDENTITY_TYPES = (type, types.ModuleType, types.BuiltinFunctionType, types.MethodDescriptorType, torch.nn.Module,
                   types.WrapperDescriptorType, types.CodeType, property, staticmethod, classmethod,
                   enum.Enum)  # fmt: skip


class ObjectTracker(Tracker):
    """Which objects are known, and by what guards.

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
        self.classes = ClassGuards(prologue)
        self.seen_as: SeenAs | None = None
        # Both grow: classes that inherit from a container are containers, and the identity of an object that is
        # followed by path is asked for.
        self.container_types = set(CONTAINERS)  # type: ignore[assignment]
        self.wrapped_types = {torch.Tensor, torch.nn.Parameter}  # type: ignore[assignment]
        self._kinds: set[type] = set()
        self._class_guarded: set[int] = set()
        self._new: set[int] = set()
        self.made_classes: dict[int, type] = {}
        self._keep: list[Any] = []

    # Values -----------------------------------------------------------------------------------------------------
    def make_known(self, obj: Any, source: Source) -> Source:
        """Remembers where an object that existed before the call comes from."""
        self.known[id(obj)] = source
        self._keep.append(obj)
        kind = type(obj)
        if kind not in self._kinds:
            self._kinds.add(kind)
            if issubclass(kind, CONTAINER_BASES) or kind in FOLLOWED_THROUGH:
                self.container_types.add(kind)  # type: ignore[attr-defined]
            if kind is decimal.Decimal:
                self.prologue.call(decimal_rules, [], decimal_rules(), "the context of decimal numbers is unchanged")
        if not source.stable:
            self.wrapped_types.add(kind)  # type: ignore[attr-defined]
        else:
            self._guard_class_of(obj, kind)
            if kind in _BOUND:
                self._hold_receiver(obj)
        return source

    def _guard_class_of(self, obj: Any, kind: type) -> None:
        """The class of an object that is followed by identity can still be assigned."""
        if id(obj) in self._class_guarded or kind.__flags__ & IMMUTABLE_TYPE or isinstance(obj, (type, torch.Tensor)):
            return
        self._class_guarded.add(id(obj))
        bind = self.prologue.bind
        self.prologue.check(
            f"type({bind(obj)}) is {bind(kind)}", lambda: f"the class of {self.source_of(obj).describe()} is unchanged"
        )

    def _hold_receiver(self, method: Any) -> None:
        """A method that is the same at every call is bound to the same object."""
        receiver = method.__self__
        if receiver is None or isinstance(receiver, (type, types.ModuleType, torch.Tensor)) or is_plain(receiver):
            return
        known = self.known.get(id(receiver))
        if known is None:
            self.make_known(receiver, constant(receiver))
        elif not known.stable:
            self.prologue.identical(known, receiver)

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
        parent_stable = source.parent is not None and is_stable_owner(source.parent)
        by_path = isinstance(value, types.FunctionType) and not parent_stable
        if isinstance(value, _IDENTITY_TYPES) or (parent_stable and not self._is_unstable(source)):
            self.identity_checks[len(self.prologue.checks)] = source
            self.prologue.identical(source, value)
            self.make_known(value, constant(value, source))
            return
        if by_path or type(value) in CONTAINERS or hasattr(value, "__dict__") or type(value).__flags__ & (1 << 9):
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
        if source.parent is not None and is_stable_owner(source.parent) and not self._is_unstable(source):
            self.identity_checks[len(self.prologue.checks)] = source
            self.prologue.identical(source, real)
            stem = self.input_names.get(id(real)) or source.describe()
            source = constant(real, source)
        else:
            stem = source.describe()
        seen_as = self.seen_as(real) if self.seen_as is not None else None
        if seen_as is None:
            self._check_kind(real, source)
        if self.symbols is not None:
            shadow: torch.Tensor = self.symbols.tensor(source, real, seen_as)
        else:
            self.prologue.tensor(source, real)
            shadow = self._make_shadow(real, source) if seen_as is None else _plain_shadow(real, seen_as)
        stem = "".join(c if c.isalnum() else "_" for c in stem).strip("_")
        stem = stem if stem[:1].isalpha() else f"x_{stem}"
        device = real.device if seen_as is None else seen_as[2]
        self.recorder.new_var(shadow, device, stem, numbered=False)
        self.make_known(real, source)
        self.shadows[id(real)] = shadow
        self._input_of_shadow[id(shadow)] = (source, real)
        self.inputs.append((source, real, shadow))
        return shadow

    def _check_kind(self, real: torch.Tensor, source: Source) -> None:
        """Refuses tensors whose class or layout decides what calls on them do."""
        kind = type(real)
        with torch._C.DisableTorchFunction():
            if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__ and not isinstance(
                real, torch._subclasses.FakeTensor
            ):
                raise UnsupportedError(
                    f"{source.describe()} is a {kind.__qualname__}, a tensor subclass that computes in Python",
                    self.recorder.location(),
                    "convert it to a plain tensor, or use torch.compile(backend='thunder')",
                )
            if kind is not torch.Tensor and kind.__torch_function__ is not torch.nn.Parameter.__torch_function__:
                raise UnsupportedError(
                    f"{source.describe()} is a {kind.__qualname__}, a tensor subclass that takes part in every call "
                    "(__torch_function__)",
                    self.recorder.location(),
                    "pass tensor.as_subclass(torch.Tensor), or use torch.compile(backend='thunder')",
                )
            if real.layout is not torch.strided or real.is_quantized:
                layout = "quantized" if real.is_quantized else str(real.layout).removeprefix("torch.")
                raise UnsupportedError(
                    f"{source.describe()} is a {layout} tensor",
                    self.recorder.location(),
                    "convert it to a dense one",
                )

    def _make_shadow(self, real: torch.Tensor, source: Source) -> torch.Tensor:
        with torch._C.DisableTorchFunction(), torch._C._DisableFuncTorch():
            shadow = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device="meta")
            if real.storage_offset():
                storage = torch.UntypedStorage(real.untyped_storage().nbytes(), device="meta")
                shadow = shadow.set_(storage, real.storage_offset(), real.shape, real.stride())
            if real.is_conj():
                shadow = torch.conj(shadow.resolve_conj())
            if isinstance(real, torch.nn.Parameter):
                shadow = torch.Tensor._make_subclass(type(real), shadow, real.requires_grad)
            elif real.requires_grad:
                if is_view_and_leaf(real):  # what is made of it without gradients does not require grad
                    shadow = shadow.view_as(shadow)
                    self.prologue.check(
                        f"{self.prologue.expression(source)}._is_view()",
                        f"{source.describe()} is a view of a tensor that does not require grad",
                    )
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

    def _guard_absent(self, holder: Source, name: Any) -> None:
        """An attribute, item or variable is asked for that is not there."""
        place = holder.child(ITEM, name)
        if not place.seen and not place.written:
            place.seen, place.value = True, absent
            self.prologue.has_key(holder, name, False)


def is_view_and_leaf(tensor: torch.Tensor) -> bool:
    """Whether the tensor requires grad as a leaf and is a view of one that does not."""
    return tensor.is_leaf and tensor._is_view() and not tensor._base.requires_grad  # type: ignore[union-attr]


def _plain_shadow(real: torch.Tensor, seen_as: Seen) -> torch.Tensor:
    """The shadow of a tensor subclass that the program sees as a plain tensor."""
    with torch._C.DisableTorchFunction(), torch._C._DisableFuncTorch():
        shadow = torch.empty(seen_as[0], dtype=seen_as[1], device="meta")
        if isinstance(real, torch.nn.Parameter):
            return torch.nn.Parameter(shadow, real.requires_grad)
        return shadow.requires_grad_(real.requires_grad)


def is_stable_owner(source: Source) -> bool:
    """Whether the object that a place belongs to is the very same at every call."""
    while source.kind == INSTANCE_DICT and source.parent is not None:
        source = source.parent
    return source.stable
