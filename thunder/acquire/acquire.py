"""Acquisition: a callable and example arguments to a `Program`.

The user's Python runs once under the interpreter, with shadows for tensors.  What it read becomes the prologue,
what it computed the computation trace, what it changed and returned the epilogue.  Afterwards every object is as
it was before.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import types
from collections.abc import Callable
from typing import Any

import torch

from thunder.acquire.assertions import asserted_truth
from thunder.acquire.checkpointed import hand_out
from thunder.acquire.epilogue import Epilogue
from thunder.acquire.guards import Prologue, absent, is_plain, type_lookup
from thunder.acquire.heap import Heap, instance_dict, is_container, slot_names
from thunder.acquire.lookasides import Lookasides, is_opaque, is_user_file
from thunder.acquire.objects import SeenAs
from thunder.acquire.program import Program
from thunder.acquire.queries import BREAK_REMEDY
from thunder.acquire.recorder import Recorder
from thunder.acquire.sources import INSTANCE_DICT, ITEM, ROOT, Source
from thunder.acquire.symbols import Symbols
from thunder.acquire.tracker import AcquisitionTracker
from thunder.acquire.values import Values
from thunder.errors import DataDependentError, ImpureCallError, Location, RefusalError, noted_refusals
from thunder.interpreter import Interpreter, observed_lookups
from thunder.trace import Trace, Var


class AcquisitionState:
    """Whether a program is being acquired, and by which thread.

    Attributes:
        lock: held meanwhile, because the user's objects really change.
        thread: identifier of the acquiring thread, 0 when there is none.
        recorder: what writes the program down, while it runs.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.thread = 0
        self.recorder: Recorder | None = None


acquisition = AcquisitionState()


def acquire(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    sharp_edges: str = "allow",
    unstable: frozenset[str] = frozenset(),
    dynamic: frozenset[tuple[str, int | None]] = frozenset(),
    all_dynamic: bool = False,
    varying: frozenset[str] = frozenset(),
    seen_as: SeenAs | None = None,
    lookasides: dict[Any, Callable[..., Any]] | None = None,
) -> Program:
    """Runs `function(*args, **kwargs)` under the interpreter and writes down what it did.

    Args:
        function: a function, method or module.
        args, kwargs: real arguments; their tensors are only asked for their metadata.
        sharp_edges: how Python that reaches outside of the program is reported: "allow" (not at all), "warn", "error".
        dynamic: places that vary and become symbols: (tensor, dimension) or (number, None), by description.
        unstable: places whose containers are another object at every call.
        all_dynamic: every size of every tensor that is reached from the arguments is a symbol.
        varying: places of tensors whose values differ from call to call, so that no guard on them would hold.
        seen_as: for a tensor subclass that the program is to see as a plain tensor, the shape, dtype and
            device that it sees; None for any other tensor.
        lookasides: further callables to replace, `{callable: replacement(interp, *args, **kwargs)}`.

    Returns:
        The program; nothing of the user's has changed.

    Raises:
        DataDependentError, UnsupportedError, SharpEdgeError: with the user's line and what to do.
        Any error of the user's program or of PyTorch: with a note of the user's line.
    """

    def run(has_unknown: bool) -> Program:
        return _Acquisition(
            function, args, kwargs, sharp_edges, unstable, dynamic, all_dynamic, varying, seen_as, lookasides or {},
            has_unknown,
        ).run()  # fmt: skip

    with acquisition.lock:
        outer, acquisition.thread = acquisition.thread, threading.get_ident()
        try:
            try:
                return run(has_unknown=False)
            except DataDependentError:
                # Once more, with symbols for what only the values of tensors decide: that takes longer.
                return run(has_unknown=True)
        finally:
            acquisition.thread = outer


class _Acquisition:
    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        sharp_edges: str,
        unstable: frozenset[str],
        dynamic: frozenset[tuple[str, int | None]],
        all_dynamic: bool,
        varying: frozenset[str],
        seen_as: SeenAs | None,
        lookasides: dict[Any, Callable[..., Any]],
        has_unknown: bool,
    ) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.prologue = Prologue()
        self.heap = Heap()
        self.tracker = AcquisitionTracker(self.prologue, self.heap, unstable)
        self.tracker.seen_as = seen_as
        self.symbols = None
        if dynamic or all_dynamic or has_unknown:
            self.symbols = Symbols(
                self.prologue, dynamic, all_dynamic, has_unknown=has_unknown, refuse=self._decision_on_unknown
            )
        self.values = Values(self.prologue, self.tracker.input_of, varying)
        self.recorder = Recorder(self.tracker.shadow_of, self.location, self.symbols, self.values)
        self.tracker.symbols = self.symbols
        self.tracker.recorder = self.recorder
        names: dict[int, str] = {}
        if isinstance(function, torch.nn.Module):
            names = {id(module): name for name, module in function.named_modules()}
            for name, tensor in [*function.named_parameters(), *function.named_buffers()]:
                self.tracker.input_names[id(tensor)] = name
        replaced = Lookasides(self.tracker, self.recorder, names, sharp_edges)
        self.sharp_edges = replaced.sharp_edges
        table = replaced.table()
        self.interpreter = Interpreter(tracker=self.tracker, lookasides={**table, **lookasides}, is_opaque=is_opaque)
        self.recorder.asserted = lambda: asserted_truth(self.interpreter.frame)

    def location(self) -> Location | None:
        """The innermost line of the user's program that runs now."""
        frame = self.interpreter.frame
        innermost = None
        while frame is not None:
            code = frame.code
            if is_user_file(code.co_filename):
                return Location(code.co_filename, frame.lineno(), code.co_name)
            innermost = innermost or frame
            frame = frame.back
        return None

    def _decision_on_unknown(self) -> Exception:
        return DataDependentError(
            "the program decides on a number that depends on the values of a tensor",
            self.location(),
            f"use torch.where (or torch.cond), or decide on shapes instead of values; {BREAK_REMEDY}",
        )

    def run(self) -> Program:
        try:
            return self._run()
        except ImpureCallError as error:
            return Program(
                prologue=self.prologue,
                computation=Trace("computation", [], [], ()),
                arguments=[],
                epilogue=[],
                returned="None",
                output_count=0,
                shares_storage=False,
                changed_inputs=[],
                identity_checks=self.tracker.identity_checks,
                plain_error=error,
            )

    def _run(self) -> Program:
        guard_torch_state(self.prologue)
        refusals: list[RefusalError] = []
        flags = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.compiler._is_compiling_flag)
        outer, acquisition.recorder = acquisition.recorder, self.recorder
        try:
            # Inference tensors have no version counter; the program itself runs in the caller's mode.
            with torch.inference_mode(False), torch.set_grad_enabled(flags[0]), self.recorder:
                args, kwargs = self._bind_arguments()
                self._root(self.function)
                torch.compiler._is_compiling_flag = True
                with observed_lookups(self.tracker.class_lookup), noted_refusals() as refusals:
                    result = self.interpreter.call(self.function, *args, **kwargs)
            if refusals:  # the program itself may have caught it
                raise refusals[0]
            return self._program(result)
        except Exception:
            # Whatever the program raised: a refusal that it met before, and may have caught, is the cause.
            if refusals:
                raise refusals[0] from None
            self.sharp_edges.check_drawn()
            raise
        finally:
            acquisition.recorder = outer
            self.heap.restore()
            torch._C._set_grad_enabled(flags[0])
            torch.set_default_dtype(flags[1])
            torch.compiler._is_compiling_flag = flags[2]

    def _root(self, function: Any) -> None:
        """The callable itself is held by the program: what it is made of is constant."""
        self.tracker.source_of(function).label = _name(function)
        if isinstance(function, types.MethodType):
            self._root(function.__self__)
        elif isinstance(function, functools.partial):
            for part in (function.func, *function.args, *function.keywords.values()):
                if not is_plain(part):
                    self._root(part)

    def _bind_arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """Guards the arguments and exchanges their tensors for shadows."""
        prologue, tracker = self.prologue, self.tracker
        names = _parameter_names(self.function, len(self.args))
        prologue.check(f"len(args) == {len(self.args)}", f"{len(self.args)} positional arguments")
        keywords = f"tuple(kwargs) == {tuple(self.kwargs)!r}" if self.kwargs else "not kwargs"
        prologue.check(keywords, f"keyword arguments {list(self.kwargs)}")
        positional, keyword = Source(ROOT, key="args"), Source(ROOT, key="kwargs")
        for index, value in enumerate(self.args):
            tracker.input_names.setdefault(id(value), names[index])
        bound = []
        for index, value in enumerate(self.args):
            bound.append(tracker.read(_named(positional.child(ITEM, index), names[index]), value))
        named = {key: tracker.read(_named(keyword.child(ITEM, key), key), value) for key, value in self.kwargs.items()}
        return bound, named

    def _program(self, result: Any) -> Program:
        prologue, tracker, recorder = self.prologue, self.tracker, self.recorder
        outputs: dict[int, int] = {}
        output_vars: list[Var] = []

        def output_expression(var: Var) -> str:
            if id(var) not in outputs:
                outputs[id(var)] = len(output_vars)
                output_vars.append(var)
            return f"o{outputs[id(var)]}"

        def tensor_expression(shadow: torch.Tensor) -> str | None:
            known = tracker.input_of(shadow)
            if known is not None:
                return prologue.expression(known[0])
            found = tracker.known.get(id(shadow))
            if found is not None:  # a real tensor that the program passes on without a call
                return prologue.expression(found)
            var = recorder.var_of(shadow)
            return None if var is None else output_expression(var)

        def number_expression(value: Any) -> str:
            if self.symbols is None:
                return repr(float(value) if isinstance(value, torch.SymFloat) else bool(value))
            if not self.symbols.is_known(value):
                return output_expression(self.symbols.written(value, recorder.ops.append, recorder.namer.fresh))
            return repr(bool(value)) if isinstance(value, torch.SymBool) else self.symbols.text(value)

        epilogue = Epilogue(
            prologue, tracker.known, tensor_expression, number_expression,
            tracker.attributes_of_made, _definition(self.function), tracker.made_classes,
        )  # fmt: skip
        changes = self.heap.changes()
        epilogue.count_uses(result)
        for container, _, after in changes:
            if id(container) in tracker.known:
                for item in [part for pair in after for part in pair] if isinstance(container, dict) else [after]:
                    epilogue.count_uses(item)
        slots = []
        for obj, name, before in self.heap.slot_changes():
            slots.append((obj, name, before, _slot_value(obj, name)))
            epilogue.count_uses(slots[-1][3])
        for container, before, after in changes:
            if _needs_whole_content(container, before, after):
                tracker.touch(container)
        owners = {
            id(container): prologue.expression(tracker.known[id(container)])
            for container, _, _ in changes
            if id(container) in tracker.known
        }
        self.sharp_edges.check_printed()
        returned = epilogue.expression(result)
        epilogue.replay(self.heap, owners)
        for obj, name, before, after in slots:
            setter = prologue.bind(type.__setattr__ if isinstance(obj, type) else object.__setattr__)
            deleter = prologue.bind(type.__delattr__ if isinstance(obj, type) else object.__delattr__)
            owner = prologue.expression(tracker.known[id(obj)])
            if after is absent and not isinstance(obj, type):
                # What was assigned without being read may be unset at another call.
                epilogue.lines.append(f"{prologue.bind(discard_attribute)}({owner}, {name!r})")
            elif after is absent and before is absent:
                continue
            elif after is absent:
                epilogue.lines.append(f"{deleter}({owner}, {name!r})")
            else:
                epilogue.lines.append(f"{setter}({owner}, {name!r}, {epilogue.expression(after)})")

        if self.symbols is not None:
            self.symbols.finish()
        hand_out(recorder.ops, output_vars)
        used = {id(var) for op in recorder.ops for var in op.inputs()}
        inputs = []
        sizes = [pair for pair in self.symbols.inputs if id(pair[0]) in used] if self.symbols is not None else []
        for source, real, shadow in tracker.inputs:
            var = recorder.var_of(shadow)
            assert var is not None
            if id(var) in used:
                inputs.append((var, prologue.expression(source), real, shadow))
        names = [var for var, _ in sizes] + [var for var, _, _, _ in inputs]
        computation = Trace("computation", names, recorder.ops, tuple(output_vars))
        computation.history = (f"acquired from {_name(self.function)}, {len(recorder.ops)} ops",)
        shares_storage, changed = self._guard_storages(inputs)
        self._guard_identities()
        return Program(
            prologue=prologue,
            computation=computation,
            arguments=[name for _, name in sizes] + [expression for _, expression, _, _ in inputs],
            epilogue=epilogue.lines,
            returned=returned,
            output_count=len(output_vars),
            shares_storage=shares_storage,
            changed_inputs=[len(sizes) + index for index in changed],
            identity_checks=tracker.identity_checks,
            value_checks=self.values.checks,
            symbolic=self.symbols is not None,
        )

    def _guard_identities(self) -> None:
        """Two places that hold different objects must go on to do so when the program changes one of them."""
        prologue, tracker = self.prologue, self.tracker
        known = tracker.known_objects() if self.heap.has_changes() else []
        followed: dict[type, dict[int, Source]] = {}
        for obj, source in known:
            if source.stable or source.kind == INSTANCE_DICT:
                continue
            if is_container(obj) or instance_dict(obj) is not None or slot_names(type(obj)):
                followed.setdefault(type(obj), {})[id(obj)] = source
        for kind, places in followed.items():
            objects = [obj for obj, _ in known if type(obj) is kind]
            others = {id(obj): source for obj, source in known if source.stable and type(obj) is kind}
            if len(places) + len(others) < 2 or not any(map(self.heap.was_changed_in_any_way, objects)):
                continue
            names = [prologue.expression(source) for source in (places | others).values()]
            prologue.check(
                f"{prologue.bind(objects_are_distinct)}({', '.join(names)})",
                f"objects of class {kind.__qualname__} that are changed are not the same",
            )

    def _guard_storages(self, inputs: list[tuple[Var, str, torch.Tensor, torch.Tensor]]) -> tuple[bool, list[int]]:
        """Whether inputs share memory, and which the program changes; if it changes any, both must stay."""
        distinct = DistinctMemory()
        shared = not distinct(*(real for _, _, real, _ in inputs))
        with torch._C.DisableTorchFunction():
            shadows = [shadow for _, _, _, shadow in inputs]
            changed = [i for i, shadow in enumerate(shadows) if not shadow.is_inference() and shadow._version > 0]
        if changed and len(inputs) > 1 and not shared:
            listed = ", ".join(expression for _, expression, _, _ in inputs)
            check = self.prologue.bind(distinct)
            self.prologue.check(f"{check}({listed})", "tensors that are changed in place share no memory with others")
        return shared, changed


def discard_attribute(obj: Any, name: str) -> None:
    """Deletes an attribute that may be there."""
    with contextlib.suppress(AttributeError):
        object.__delattr__(obj, name)


def objects_are_distinct(*objects: Any) -> bool:
    """Whether no two of the objects are the same."""
    return len(set(map(id, objects))) == len(objects)


class DistinctMemory:
    """Says whether no two tensors share memory; tensors of one storage may lie in it side by side.

    It remembers the places that it has looked at last: sizes and strides are guarded by others.
    """

    def __init__(self) -> None:
        self._known: list[int] = []

    def __call__(self, *tensors: torch.Tensor) -> bool:
        if len({tensor.untyped_storage()._cdata for tensor in tensors}) == len(tensors):
            return True
        try:
            places = [tensor.data_ptr() for tensor in tensors]
        except RuntimeError:  # tensors without data
            return False
        if places == self._known:
            return True
        ends = [place + _reach(tensor) for place, tensor in zip(places, tensors)]
        ranges = sorted((place, end) for place, end in zip(places, ends) if end > place)
        if any(end > following for (_, end), (following, _) in zip(ranges, ranges[1:])):
            return False
        self._known = places
        return True


def _reach(tensor: torch.Tensor) -> int:
    """Bytes from a tensor's first element to the end of its last one."""
    if tensor.numel() == 0:
        return 0
    elements = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return elements * tensor.element_size()


def guard_torch_state(prologue: Prologue) -> None:
    """Torch's global state that decides what calls do."""

    def unchanged(function: Callable[..., Any], *args: Any) -> None:
        listed = ", ".join(map(repr, args))
        description = f"torch.{function.__name__}({listed}) is unchanged"
        prologue.call(function, list(args), function(*args), description)

    unchanged(torch.is_grad_enabled)
    unchanged(torch.is_inference_mode_enabled)
    unchanged(torch._C._is_any_autocast_enabled)
    for kind in ("cpu", "cuda"):
        if torch.is_autocast_enabled(kind):
            unchanged(torch.is_autocast_enabled, kind)
            unchanged(torch.get_autocast_dtype, kind)
            unchanged(torch.is_autocast_cache_enabled)
    unchanged(torch.get_default_dtype)
    unchanged(torch._C._len_torch_function_stack)
    if torch._C._len_torch_function_stack():
        unchanged(torch.get_default_device)


def _named(source: Source, name: str) -> Source:
    source.label = name
    return source


def _parameter_names(function: Callable[..., Any], count: int) -> list[str]:
    """Names of the positional parameters, for the names of inputs."""
    target: Any = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in plain]
    return [names[index] if index < len(names) else f"args_{index}" for index in range(count)]


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def _definition(function: Callable[..., Any]) -> Location | None:
    target: Any = type(function).forward if isinstance(function, torch.nn.Module) else inspect.unwrap(function)
    code = getattr(getattr(target, "__func__", target), "__code__", None)
    return Location(code.co_filename, code.co_firstlineno, code.co_name) if isinstance(code, types.CodeType) else None


def _slot_value(obj: Any, name: str) -> Any:
    """What is in a slot or class attribute now."""
    if isinstance(obj, type):
        return obj.__dict__.get(name, absent)
    try:
        return type_lookup(type(obj), name).__get__(obj)
    except AttributeError:
        return absent


def _needs_whole_content(container: Any, before: Any, after: Any) -> bool:
    """Whether replaying a change writes the whole container, so that its former content must be guarded."""
    if isinstance(container, list):
        return len(after) < len(before) or any(a is not b for a, b in zip(before, after))
    return not isinstance(container, (dict, set, types.CellType))
