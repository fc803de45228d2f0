"""Python that acquisition runs otherwise than by interpreting it, and the functions that it does not interpret.

A look-aside replaces a callable: `replacement(interp, *args, **kwargs)`.  Four groups: attribute builtins (so that
guards see them), module calls (which carry the scope), torch's functions of functions (checkpoint, autograd
Functions, functorch), and what reaches outside of the program (`sharp_edges.py`).
"""

from __future__ import annotations

import abc
import builtins
import functools
import importlib.util
import logging
import math
import operator
import os
import string
import sys
import sysconfig
import types
import typing
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.utils.checkpoint
from torch.utils import _pytree
from torch.utils.hooks import RemovableHandle

from thunder import _torch_compat
from thunder.acquire.backward_hooks import backward_hook_lookasides
from thunder.acquire.checkpointed import checkpoint_lookaside
from thunder.acquire.flex_attention import flex_attention_lookaside
from thunder.acquire.guards import absent, is_plain, type_lookup
from thunder.acquire.heap import instance_dict
from thunder.acquire.higher_order import higher_order_lookasides
from thunder.acquire.items import item_lookasides
from thunder.acquire.random_generators import RandomGenerators
from thunder.acquire.recorder import Recorder
from thunder.acquire.sharp_edges import SharpEdges
from thunder.acquire.sources import INSTANCE_DICT, ITEM
from thunder.acquire.texts import is_tensor_text
from thunder.acquire.tracker import AcquisitionTracker
from thunder.errors import UnsupportedError
from thunder.interpreter.lookasides import callback_lookasides, frame_lookasides
from thunder.trace import Op

_TORCH = os.path.dirname(torch.__file__) + os.sep
_DISTRIBUTIONS = os.path.join(_TORCH, "distributions", "")
_INTERPRETED_TORCH = tuple(
    _TORCH + part.replace("/", os.sep)
    for part in (
        "nn/modules/",
        "utils/_contextlib.py",
        "utils/checkpoint.py",
        "nn/utils/",
        "distributions/",
        "optim/",
        "ao/",
        "amp/autocast_mode.py",
        "cuda/amp/",
        "cpu/amp/",
        "random.py",
        "_functorch/apis.py",
        "_functorch/eager_transforms.py",
        "_functorch/functional_call.py",
        "_functorch/vmap.py",
        "autograd/forward_ad.py",
        "nn/attention/flex_attention.py",
        "testing/",
        "fx/graph_module.py",
    )  # fmt: skip
)
_INTERPRETED_CODE = frozenset(
    method.__code__ for method in (RemovableHandle.remove, RemovableHandle.__enter__, RemovableHandle.__exit__)
)
"""Functions of torch's other files that change the user's dicts."""
_numpy = importlib.util.find_spec("numpy")
_NUMPY = os.path.dirname(_numpy.origin) + os.sep if _numpy is not None and _numpy.origin else os.devnull
_STDLIB = sysconfig.get_paths()["stdlib"] + os.sep
_OPAQUE_STDLIB = frozenset(
    """logging warnings re sre_compile sre_parse inspect importlib typing threading traceback linecache tokenize json
    pprint textwrap ast dis types statistics decimal fractions numbers asyncio concurrent unittest
    multiprocessing subprocess socket ssl http urllib email xml pickle copyreg struct tempfile shutil pathlib
    ctypes queue selectors signal platform locale gettext""".split()
)
_THUNDER = os.path.dirname(os.path.dirname(__file__)) + os.sep
_PROGRAMS_OF_THUNDER = (
    _THUNDER + "coverage" + os.sep,  # its suites define functions that are to be compiled
    _THUNDER + os.path.join("cli", "large_workloads.py"),  # so does the benchmark
    _THUNDER + os.path.join("distributed", "parallel_linear.py"),  # the forward functions of divided layers
    _THUNDER + os.path.join("distributed", "training_step.py"),  # what calls the model and the loss
)
_REVERSED = callback_lookasides()[reversed]
_DIR_OF_CALLER = frame_lookasides()[dir]
_LIBRARIES = sys.stdlib_module_names | {"torch"}
_MISSING = object()
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_opaque(function: types.FunctionType) -> bool:
    """Whether a Python function is called as it is: torch's own (its tensors record), and what touches no tensor."""
    filename = function.__code__.co_filename
    if filename.startswith(_TORCH):
        return not filename.startswith(_INTERPRETED_TORCH) and function.__code__ not in _INTERPRETED_CODE
    if filename.startswith(_THUNDER):
        return not filename.startswith(_PROGRAMS_OF_THUNDER)
    if filename.startswith(_NUMPY):
        return True
    if filename.startswith(_STDLIB) and not filename.startswith(_STDLIB + "site-packages"):
        module = filename[len(_STDLIB) :].split(os.sep)[0].removesuffix(".py")
        return module in _OPAQUE_STDLIB
    return filename.startswith("<frozen importlib")


def is_user_file(filename: str) -> bool:
    """Whether errors and traces should point into this file."""
    if filename.startswith(_STDLIB):
        return filename.startswith(_STDLIB + "site-packages") and not filename.startswith((_TORCH, _THUNDER))
    return not filename.startswith((_TORCH, _THUNDER, "<frozen"))


class Lookasides:
    """The look-asides of one acquisition.

    Args:
        tracker, recorder: of that acquisition.
        module_names: names of the root's submodules, by id, for scopes.
        sharp_edges: how calls that reach outside of the program are reported: "allow" (not at all), "warn" or "error".
    """

    def __init__(
        self,
        tracker: AcquisitionTracker,
        recorder: Recorder,
        module_names: dict[int, str],
        sharp_edges: str,
    ) -> None:
        self.tracker = tracker
        self.recorder = recorder
        self.module_names = module_names
        self.sharp_edges = SharpEdges(
            tracker, recorder.location, sharp_edges, lambda filename: not is_user_file(filename)
        )
        self._inference_modes = [torch.is_inference_mode_enabled()]
        self._autocasts: dict[int, list[Any]] = {}

    def table(self) -> dict[Any, Callable[..., Any]]:
        """The look-asides by the callable that each replaces."""
        table: dict[Any, Callable[..., Any]] = {
            getattr: self.getattr,
            hasattr: self.hasattr,
            setattr: lambda interp, obj, name, value: self.tracker.store_attr(obj, name, value),
            delattr: lambda interp, obj, name: self.tracker.delete_attr(obj, name),
            vars: self.vars,
            dir: self.dir,
            reversed: self.reversed,
            len: self.len,
            __import__: self.import_module,
            importlib.import_module: self.import_by_name,
            str.format: self.format_text,
            type: self.type_of,
            isinstance: self.isinstance,
            issubclass: self.issubclass,
            int: self.int,
            float: self.float,
            max: self.extreme(max, torch.sym_max),
            min: self.extreme(min, torch.sym_min),
            object.__getattribute__: lambda interp, obj, name: self.tracker.load_generic(obj, name),
            object.__setattr__: lambda interp, obj, name, value: self.tracker.store_generic(obj, name, value),
            object.__delattr__: lambda interp, obj, name: self.tracker.delete_generic(obj, name),
            type.__getattribute__: lambda interp, obj, name: self.tracker.load_class_generic(obj, name),
            type.__setattr__: lambda interp, obj, name, value: self.tracker.store_generic(obj, name, value),
            type.__delattr__: lambda interp, obj, name: self.tracker.delete_generic(obj, name),
            torch.nn.Module._wrapped_call_impl: self.call_module,
            _plain_function(torch._C.ScriptFunction.__call__): self.call_scripted,
            _plain_function(torch._C.ScriptMethod.__call__): self.call_scripted,
            torch.utils.checkpoint.checkpoint: checkpoint_lookaside(self.recorder),
            torch.autograd.Function.apply.__func__: self.apply_function,  # type: ignore[attr-defined]
            torch.autograd.graph.saved_tensors_hooks.__enter__: self.saved_tensors_hooks,
            # What a profiler shows are the lines and modules of the compiled program.
            torch.autograd.profiler.record_function.__enter__: lambda interp, context: context,
            torch.autograd.profiler.record_function.__exit__: lambda interp, context, *error: None,
            torch.autocast.__enter__: self.enter_autocast,
            torch.autocast.__exit__: self.exit_autocast,
            torch.is_inference_mode_enabled: lambda interp: self._inference_modes[-1],
            torch.inference_mode.__enter__: self.enter_inference_mode,
            torch.inference_mode.__exit__: self.exit_inference_mode,
            os.putenv: lambda interp, *arguments: self.tracker.heap.defer(os.putenv, *arguments),
            os.unsetenv: lambda interp, *arguments: self.tracker.heap.defer(os.unsetenv, *arguments),
            torch.set_default_dtype: self.set_default_dtype,
            torch.nn.Parameter.__new__: self.new_parameter,
            torch.func.linearize: self.functorch(torch.func.linearize),
            _pytree.tree_map: self.tree_map,
            _pytree.tree_map_: self.tree_map_in_place,
            _pytree.tree_map_only: self.tree_map_only,
        }
        for operation in _torch_compat.level_functions():
            table[operation] = self.level_operation(operation)
        for name in ("_check", "_check_index", "_check_value", "_check_type", "_check_not_implemented",
                     "_check_tensor_all"):  # fmt: skip
            check = getattr(torch, name, None)
            if check is not None:
                table[check] = self.runtime_check(check)
        for function in _CONVERSIONS:
            table[function] = self.converting(function, table.get(function))
        if hasattr(torch, "_is_all_true"):
            table[torch._is_all_true] = self.is_all_true
        table.update(item_lookasides())
        table.update(RandomGenerators(self.tracker, self.recorder, self.sharp_edges).table())
        table.update(backward_hook_lookasides(self.recorder, self._one_operation))
        table.update(higher_order_lookasides(self.recorder, self._one_operation))
        flex = _torch_compat.flex_attention()
        if flex is not None:
            table[flex] = flex_attention_lookaside(self.tracker, self.recorder, flex)
        scan = _torch_compat.associative_scan()
        if scan is not None:
            table[scan] = lambda interp, *args, **kwargs: self._one_operation(scan, args, kwargs)
        for function in _MESSAGES:
            table[function] = self.message(function)
        return {**table, **self.sharp_edges.table()}

    # Builtins ---------------------------------------------------------------------------------------------------
    def getattr(self, interp: Any, obj: Any, name: str, default: Any = _MISSING) -> Any:
        if not isinstance(name, str):
            return getattr(obj, name)  # raises
        if default is _MISSING:
            return self.tracker.load_attr(obj, name)
        try:
            return self.tracker.load_attr(obj, name)
        except AttributeError:
            return default

    def hasattr(self, interp: Any, obj: Any, name: str) -> bool:
        if not isinstance(name, str):
            return hasattr(obj, name)  # raises
        try:
            self.tracker.load_attr(obj, name)
        except AttributeError:
            return False
        return True

    def vars(self, interp: Any, *objects: Any) -> Any:
        if not objects:
            return interp.frame.f_locals
        if not isinstance(objects[0], type) and instance_dict(objects[0]) is None:
            return vars(objects[0])  # raises
        return self.tracker.load_attr(objects[0], "__dict__")

    def reversed(self, interp: Any, obj: Any) -> Any:
        """`reversed(obj)`; C code would call the `__getitem__` of a class that has no `__reversed__` natively."""
        items = type_lookup(type(obj), "__getitem__")
        if type_lookup(type(obj), "__reversed__") is not absent or not isinstance(items, types.FunctionType):
            return _REVERSED(interp, obj)
        for name in ("__reversed__", "__getitem__"):
            self.tracker.classes.lookup(type(obj), name)
        length = self.len(interp, obj)
        return (interp.call(items, obj, index) for index in range(length - 1, -1, -1))

    def dir(self, interp: Any, *objects: Any) -> Any:
        if not objects:
            return _DIR_OF_CALLER(interp)
        obj = objects[0]
        kind = type(obj)
        method = type_lookup(kind, "__dir__")
        self.tracker.classes.lookup(kind, "__dir__")
        if isinstance(method, types.FunctionType) and not is_opaque(method):
            return sorted(interp.call(list, interp.call(method, obj)))
        self.tracker.examine_class(obj if isinstance(obj, type) else kind)
        if not isinstance(obj, type) and instance_dict(obj) is not None:
            self.tracker.touch(self.tracker.load_attr(obj, "__dict__"))
        return dir(obj)

    def len(self, interp: Any, obj: Any) -> Any:
        if self.recorder.symbols is not None and isinstance(obj, torch.Tensor) and obj.dim() > 0:
            return obj.shape[0]  # which may be a symbol; `len` itself would want a number
        self.tracker.classes.lookup(type(obj), "__len__")
        method = getattr(type(obj), "__len__", None)
        if isinstance(method, types.FunctionType):
            return len(range(interp.call(method, obj)))  # range checks the number as len does
        self.tracker.length(obj)
        return len(obj)

    def isinstance(self, interp: Any, obj: Any, kinds: Any) -> bool:
        """A symbolic number is an instance of the class of the number that it stands for."""
        if isinstance(obj, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            stands_for = int if isinstance(obj, torch.SymInt) else float if isinstance(obj, torch.SymFloat) else bool
            return isinstance(obj, kinds) or issubclass(stands_for, kinds)
        self.tracker.guard_class(obj)
        self.tracker.classes.order(type(obj))
        self._guard_registered(type(obj), kinds)
        if isinstance(kinds, tuple):
            return any(self.isinstance(interp, obj, kind) for kind in kinds)
        self.tracker.classes.lookup(type(kinds), "__instancecheck__")
        hook = type_lookup(type(kinds), "__instancecheck__")
        if isinstance(hook, types.FunctionType) and not is_opaque(hook):
            return bool(interp.truth(interp.call(hook, kinds, obj)))
        if isinstance(kinds, type) and getattr(kinds, "_is_protocol", False):
            for name in typing._get_protocol_attrs(kinds):  # type: ignore[attr-defined]
                self.hasattr(interp, obj, name)
        return isinstance(obj, kinds)

    def issubclass(self, interp: Any, *args: Any) -> bool:
        if len(args) == 2 and isinstance(args[0], type):
            self.tracker.classes.order(args[0])
            self._guard_registered(*args)
        answer: bool = callback_lookasides()[issubclass](interp, *args)
        return answer

    def _guard_registered(self, kind: type, bases: Any) -> None:
        """Whether a class is registered with an abstract class of the user's."""
        for base in bases if isinstance(bases, tuple) else (bases,):
            if type(base) is abc.ABCMeta and base.__module__.partition(".")[0] not in _LIBRARIES:
                self.tracker.classes.registered(kind, base)

    def type_of(self, interp: Any, *args: Any, **kwargs: Any) -> Any:
        """`type(obj)`, or a class that is made."""
        if len(args) != 1 or kwargs:
            return interp.call_natively(type, args, kwargs)
        self.tracker.guard_class(args[0])
        return self.tracker.call_opaque(type, args, {})

    # Imports ----------------------------------------------------------------------------------------------------
    def import_module(
        self, interp: Any, name: str, global_names: Any = None, local_names: Any = None, wanted: Any = (),
        level: int = 0,
    ) -> Any:  # fmt: skip
        """`import` within a function: which module it gives is what `sys.modules` says."""
        full = name
        if level:
            full = importlib.util.resolve_name("." * level + name, (global_names or {}).get("__package__"))
        try:
            result = __import__(name, global_names, local_names, wanted or (), level)
        except ImportError:
            self.tracker.load_item_or_none(sys.modules, full)
            raise
        for key in dict.fromkeys((full, full.partition(".")[0])):
            self.tracker.load_item_or_none(sys.modules, key)
        return result

    def import_by_name(self, interp: Any, name: str, package: str | None = None) -> Any:
        """`importlib.import_module`."""
        importlib.import_module(name, package)
        full = importlib.util.resolve_name(name, package)
        return self.tracker.load_item_or_none(sys.modules, full)

    # Texts and numbers ------------------------------------------------------------------------------------------
    def format_text(self, interp: Any, text: str, *args: Any, **kwargs: Any) -> str:
        """`text.format(...)`: fields may read attributes and items, and objects may have `__format__`."""
        if all(map(is_plain, args)) and all(map(is_plain, kwargs.values())):
            return text.format(*args, **kwargs)
        formatter = string.Formatter()
        result: str = self.tracker.text(interp.call(string.Formatter.vformat, formatter, text, args, kwargs))
        return result

    def converting(self, function: Callable[..., Any], otherwise: Callable[..., Any] | None) -> Callable[..., Any]:
        """A builtin that asks its arguments for a number: their own methods run interpreted."""

        names = _METHODS_OF_CONVERSIONS.get(function, ("__index__", "__float__", "__int__", "__complex__"))
        own_method = _OWN_METHODS.get(function)

        of_symbols = _OF_SYMBOLS.get(function)

        def replacement(interp: Any, *args: Any, **kwargs: Any) -> Any:
            if of_symbols is not None and any(isinstance(value, (torch.SymInt, torch.SymFloat)) for value in args):
                return of_symbols(*args, **kwargs)
            own = type_lookup(type(args[0]), own_method) if own_method is not None and args else None
            in_python = isinstance(own, types.FunctionType) and not isinstance(args[0], torch.Tensor)
            if own_method is not None and in_python:
                self.tracker.classes.lookup(type(args[0]), own_method)
                answer = interp.call(own, *args, **kwargs)
                if answer is not NotImplemented:
                    return answer
            args = tuple(self.tracker.as_number(argument, names) for argument in args)
            if otherwise is not None:
                return otherwise(interp, *args, **kwargs)
            return interp.call_natively(function, args, kwargs)

        return replacement

    def int(self, interp: Any, *args: Any, **kwargs: Any) -> Any:
        """`int(x)` of a symbol is the symbol, and of a tensor its number, known or not."""
        if len(args) == 1 and not kwargs:
            number = args[0]
            if self._is_integer_tensor(number) and _may_hold_one_number(number):
                number = self._one_operation(torch.Tensor.item, (number,), {})
            if isinstance(number, torch.SymFloat):
                return torch.sym_int(number)
            return number if isinstance(number, torch.SymInt) else int(number)
        return int(*args, **kwargs)

    def float(self, interp: Any, *args: Any) -> Any:
        """`float(x)` of a tensor is its number, known or not."""
        is_real = len(args) == 1 and isinstance(args[0], torch.Tensor) and not args[0].is_complex()
        if is_real and _may_hold_one_number(args[0]):
            return torch.sym_float(self._one_operation(torch.Tensor.item, args, {}))
        return float(*args)

    def extreme(self, function: Callable[..., Any], symbolic: Callable[..., Any]) -> Callable[..., Any]:
        """`max` and `min` of numbers that are not known are numbers again: there is nothing to decide."""
        plain = callback_lookasides()[function]

        def replacement(interp: Any, *args: Any, **kwargs: Any) -> Any:
            if not kwargs and self.recorder.has_unknown_numbers():
                numbers = args if len(args) > 1 else interp.call(list, *args)
                if self.recorder.holds_unknown_number(numbers):
                    return functools.reduce(symbolic, numbers)
                args = args if len(args) > 1 else (numbers,)
            return plain(interp, *args, **kwargs)

        return replacement

    @staticmethod
    def _is_integer_tensor(value: Any) -> bool:
        return isinstance(value, torch.Tensor) and not value.is_floating_point() and not value.is_complex()

    # Modules ----------------------------------------------------------------------------------------------------
    def call_module(self, interp: Any, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        """`module(*args, **kwargs)`: without hooks its forward is called directly, under the module's scope."""
        recorder = self.recorder
        outer = recorder.scope
        name = self.module_names.get(id(module))
        recorder.scope = name if name is not None else f"{outer}.{type(module).__name__}".lstrip(".")
        try:
            if isinstance(module, torch.jit.ScriptModule):
                raise self._torchscript(recorder.scope)
            if self._has_hooks(module):
                return interp.call(torch.nn.Module._call_impl, module, *args, **kwargs)
            return interp.call(self.tracker.load_attr(module, "forward"), *args, **kwargs)
        finally:
            recorder.scope = outer

    def _has_hooks(self, module: torch.nn.Module) -> bool:
        """Reads the hook dicts as `_call_impl` does, with a guard for each."""
        tracker, prologue = self.tracker, self.tracker.prologue
        source = tracker.known.get(id(module))
        attributes = module.__dict__
        dicts = {name: attributes[name] for name in _HOOKS}
        found = any(dicts.values())
        if source is not None and not found and source.stable:
            # The usual case, one guard: the same dicts, all of them empty.
            if not source.child(INSTANCE_DICT).child(ITEM, "hooks").seen:
                source.child(INSTANCE_DICT).child(ITEM, "hooks").seen = True
                owner, names = prologue.held_dict(source), [prologue.bind(hooks) for hooks in dicts.values()]
                same = " and ".join(f"{owner}[{key!r}] is {name}" for key, name in zip(dicts, names))
                prologue.check(f"{same} and not ({' or '.join(names)})", lambda: f"{source.describe()} has no hooks")
        elif source is not None:
            for name, hooks in dicts.items():
                tracker.length(tracker.read(source.child(INSTANCE_DICT).child(ITEM, name), hooks))
        if not found:
            shared = torch.nn.modules.module.__dict__
            for name in ("_global_backward_pre_hooks", "_global_backward_hooks", "_global_forward_hooks",
                         "_global_forward_pre_hooks"):  # fmt: skip
                hooks = tracker.load_global(shared, builtins.__dict__, name)
                tracker.length(hooks)
                found = found or bool(hooks)
        return found

    # Functions of functions -------------------------------------------------------------------------------------
    def call_scripted(self, interp: Any, scripted: Any, *args: Any, **kwargs: Any) -> Any:
        """A scripted function is acquired as the Python function that it was made from."""
        original = getattr(scripted, "_torchdynamo_inline", None)
        if original is None:
            raise self._torchscript(scripted.name)
        return interp.call(original, *args, **kwargs)

    def _torchscript(self, name: str) -> UnsupportedError:
        return UnsupportedError(
            f"{name} is TorchScript, whose operations cannot be recorded",
            self.recorder.location(),
            "use the Python function or module that it was made from",
        )

    def saved_tensors_hooks(self, interp: Any, *hooks: Any) -> None:
        """`torch.autograd.graph.saved_tensors_hooks` and `save_on_cpu`: their hooks would see shadows, and once."""
        raise UnsupportedError(
            "hooks for saved tensors are set",
            self.recorder.location(),
            "set them around the call of the compiled function; for memory, use torch.utils.checkpoint",
        )

    def apply_function(self, interp: Any, cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        """`MyFunction.apply(...)` is one operation: it runs as it is, with its own backward."""
        return self._one_operation(cls.apply, args, kwargs)

    def _one_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Records a call as a whole: what it calls inside is not recorded."""
        with torch._C.DisableTorchFunction():
            return self.recorder.call(function, args, kwargs)

    def new_parameter(self, interp: Any, kind: type, data: Any = None, requires_grad: bool = True) -> torch.Tensor:
        """`nn.Parameter(data)` within the program: a new leaf at every call, on the memory of `data`."""
        if data is None:
            data = torch.empty(0)
        return self.recorder.new_parameter(kind, data, requires_grad)

    def functorch(self, transform: Callable[..., Any]) -> Callable[..., Any]:
        """A transform of `torch.func` that traces by itself: the transformed function is one operation."""

        def replacement(interp: Any, *args: Any, **kwargs: Any) -> Callable[..., Any]:
            transformed = transform(*args, **kwargs)

            def call(*inner_args: Any, **inner_kwargs: Any) -> Any:
                return self._one_operation(transformed, inner_args, inner_kwargs)

            return call

        return replacement

    def level_operation(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The transforms of `torch.func` are interpreted; what they do to tensors is written down."""
        return lambda interp, *args, **kwargs: self.recorder.level_operation(function, args, kwargs)

    # Trees: the functions that are mapped over them are interpreted ---------------------------------------------
    def tree_map(self, interp: Any, function: Any, tree: Any, *rest: Any, is_leaf: Any = None) -> Any:
        flatten = self.tracker.call_opaque
        leaves, structure = flatten(_pytree.tree_flatten, (tree,), {"is_leaf": is_leaf})
        others = [flatten(structure.flatten_up_to, (other,), {}) for other in rest]
        return _pytree.tree_unflatten([interp.call(function, *items) for items in zip(leaves, *others)], structure)

    def tree_map_in_place(self, interp: Any, function: Any, tree: Any, *rest: Any, is_leaf: Any = None) -> Any:
        self.tree_map(interp, function, tree, *rest, is_leaf=is_leaf)
        return tree

    def tree_map_only(self, interp: Any, kind: Any, function: Any, tree: Any, is_leaf: Any = None) -> Any:
        def chosen(leaf: Any) -> bool:
            is_type = isinstance(kind, (type, tuple, types.UnionType))
            return self.isinstance(interp, leaf, kind) if is_type else bool(interp.call(kind, leaf))

        leaves, structure = self.tracker.call_opaque(_pytree.tree_flatten, (tree,), {"is_leaf": is_leaf})
        mapped = [interp.call(function, leaf) if chosen(leaf) else leaf for leaf in leaves]
        return _pytree.tree_unflatten(mapped, structure)

    def runtime_check(self, check: Callable[..., Any]) -> Callable[..., Any]:
        """`torch._check(condition)`: on a tensor it is checked when the program runs, else at once."""

        def replacement(interp: Any, condition: Any, message: Any = None, *rest: Any) -> None:
            if isinstance(condition, torch.Tensor):
                self.recorder.runtime_check(condition)
            else:
                check(condition, message, *rest)
                self.recorder.write_assumptions()

        return replacement

    def is_all_true(self, interp: Any, condition: torch.Tensor) -> Any:
        """How `torch.distributions` validates: what it raises otherwise, the program raises when it runs."""
        if not interp.frame.f_code.co_filename.startswith(_DISTRIBUTIONS):
            return self.tracker.call_opaque(torch._is_all_true, (condition,), {})
        self.recorder.runtime_check(condition)
        return True

    # State ------------------------------------------------------------------------------------------------------
    def statement(self, function: Callable[..., Any], *args: Any) -> None:
        """A call for its effect on torch's state: only written down."""
        self._state_op(function, args)

    def set_default_dtype(self, interp: Any, dtype: torch.dtype) -> None:
        torch.set_default_dtype(dtype)
        self.statement(torch.set_default_dtype, dtype)

    def enter_autocast(self, interp: Any, context: torch.autocast) -> torch.autocast:
        """Entered for real, so that shadows get the dtypes of autocast, and written down."""
        torch.autocast.__enter__(context)
        var = self.recorder.name_object(object(), "context")
        self._autocasts.setdefault(id(context), []).append(var)
        options = (context.device, context.fast_dtype, context._enabled, context._cache_enabled)
        self._state_op(torch.amp.autocast_mode._enter_autocast, options, var)
        return context

    def exit_autocast(self, interp: Any, context: torch.autocast, *exception: Any) -> bool:
        torch.autocast.__exit__(context, None, None, None)
        self._state_op(torch.amp.autocast_mode._exit_autocast, (self._autocasts[id(context)].pop(),))
        return False

    def _state_op(self, function: Callable[..., Any], args: tuple[Any, ...], result: Any = None) -> None:
        self.recorder.ops.append(Op(function, args, {}, result, self.recorder.location(), self.recorder.scope))

    def enter_inference_mode(self, interp: Any, context: torch.inference_mode) -> None:
        """Written down as it is; acquisition itself only switches gradients off."""
        enter = torch.autograd.grad_mode._enter_inference_mode
        var = self.recorder.name_object(object(), "context")
        self._state_op(enter, (context.mode,), var)
        context._thunder = (var, torch.is_grad_enabled())  # type: ignore[attr-defined]
        self._inference_modes.append(context.mode)
        with torch._C.DisableTorchFunction():
            torch._C._set_grad_enabled(torch.is_grad_enabled() and not context.mode)

    def exit_inference_mode(self, interp: Any, context: torch.inference_mode, *exception: Any) -> None:
        var, before = context._thunder  # type: ignore[attr-defined]
        self._inference_modes.pop()
        self.statement(torch.autograd.grad_mode._exit_inference_mode, var)
        with torch._C.DisableTorchFunction():
            torch._C._set_grad_enabled(before)

    # Messages ---------------------------------------------------------------------------------------------------
    def message(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A warning or a line of a log, given while the program is acquired: it cannot tell a tensor's values."""

        def replacement(interp: Any, *args: Any, **kwargs: Any) -> Any:
            for argument in (*args, *kwargs.values()):
                if isinstance(argument, torch.Tensor) or is_tensor_text(argument):
                    raise self.recorder.data_dependent(function)
            return self.tracker.call_opaque(function, args, kwargs)

        return replacement


_CONVERSIONS: tuple[Callable[..., Any], ...] = (
    range, slice, int, float, complex, round, divmod, pow, chr, bin, hex, oct, operator.index, math.sqrt, math.floor,
    math.ceil, math.trunc, math.log, math.exp, math.pow, math.prod,
    math.isnan, math.isinf, math.isfinite, math.copysign, math.gcd,
)  # fmt: skip
_METHODS_OF_CONVERSIONS: dict[Callable[..., Any], tuple[str, ...]] = {
    int: ("__int__", "__index__", "__trunc__"),
    float: ("__float__", "__index__"),
    complex: ("__complex__", "__float__", "__index__"),
    **dict.fromkeys((range, chr, bin, hex, oct, operator.index, math.gcd), ("__index__",)),
    **dict.fromkeys((math.sqrt, math.log, math.exp, math.pow, math.copysign), ("__float__", "__index__")),
    **dict.fromkeys((math.isnan, math.isinf, math.isfinite, math.floor, math.ceil), ("__float__", "__index__")),
}
"""The methods that a conversion asks for, in order."""
_OF_SYMBOLS: dict[Callable[..., Any], Callable[..., Any]] = {
    float: torch.sym_float, math.sqrt: torch.sym_sqrt, slice: slice,
    divmod: lambda number, divisor: (number // divisor, number % divisor),
}  # fmt: skip
"""What gives a symbol where a number is one; the other conversions make a constant of it."""
_OWN_METHODS: dict[Callable[..., Any], str] = {
    round: "__round__", math.floor: "__floor__", math.ceil: "__ceil__", math.trunc: "__trunc__",
    divmod: "__divmod__", pow: "__pow__",
}  # fmt: skip
"""Functions that an object may answer with a method of that name."""
_MESSAGES: tuple[Callable[..., Any], ...] = (
    warnings.warn, warnings.warn_explicit, logging.Logger.debug, logging.Logger.info, logging.Logger.warning,
    logging.Logger.error, logging.Logger.critical, logging.Logger.exception, logging.Logger.log,
)  # fmt: skip


def _plain_function(method: Any) -> Any:
    """The function of a method of an extension class; PyTorch's own test utilities put plain functions there."""
    return getattr(method, "__func__", method)


def _may_hold_one_number(tensor: torch.Tensor) -> bool:
    """Whether `int(tensor)` reads a number; the error for other tensors is not that of `item()`."""
    count = tensor.numel()
    return type(count) is not int or count == 1
