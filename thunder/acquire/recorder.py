"""Recording: tensors write down the public torch calls that are made with them.

During acquisition every tensor is a *shadow* (`shadows.py`).  A `TorchFunctionMode` sees every public torch call,
tensor method and factory, lets PyTorch's fake tensors work out the result (`results.py`), and appends the call to
the trace.

Input: calls.  Output: `Recorder.ops`, a list of `Op`.  Invariants: a tensor that reaches a call is a shadow made
here, or is exchanged for one (`shadow_of`); a result that nothing recorded has made is an error, never a constant.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from thunder import _torch_compat
from thunder.acquire.checkpointed import hand_out
from thunder.acquire.queries import DEVICE_QUERIES, QUERIES, VALUE_READS, call_name
from thunder.acquire.results import ResultInference
from thunder.acquire.shadows import CPU
from thunder.acquire.texts import tensor_text
from thunder.acquire.unknown_numbers import may_be_an_index
from thunder.acquire.value_results import holds_unknown, real_call
from thunder.errors import UnsupportedError
from thunder.trace import Op, Region, Trace, Var

_CONTEXT_CALLS = frozenset({"_enter_autocast", "_exit_autocast"})
_STATE_CALLS = frozenset({torch._C._set_grad_enabled})
_TENSOR_SPLITS = frozenset({torch.tensor_split, torch.Tensor.tensor_split})
_INDEXING = frozenset({torch.Tensor.__getitem__, torch.Tensor.__setitem__})
_NUMBER_READS = frozenset({"item", "is_nonzero", "__bool__", "__int__", "__float__", "__complex__"})
_TEXTS = frozenset({"__format__", "__str__", "__repr__"})
_WITH_SCALARS = frozenset({"_foreach_addcdiv", "_foreach_addcdiv_", "_foreach_addcmul", "_foreach_addcmul_"})
"""Functions that take a number for each tensor in one tensor on the CPU, which they read."""
_OF_RATES = frozenset(
    {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout",
     "scaled_dot_product_attention"}
)  # fmt: skip
"""Functions that look at a rate or a scale before they take it; their results' types depend on none."""


class Recorder(ResultInference):
    """Writes down torch calls."""

    asserted: Callable[[], bool | None] = staticmethod(lambda: None)
    """Asks for the truth that an `assert` wants of what is tested now; None where there is no `assert`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in QUERIES:
            return self._answer(func, args, kwargs)
        return self.call(func, args, kwargs)

    def _answer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A question about metadata: answered, not written down."""
        if args and isinstance(args[0], torch.Tensor):
            device = self._devices.get(id(args[0]))
            if device is not None:
                answer = DEVICE_QUERIES.get(func)
                if answer is not None:
                    return answer(device)
        return func(*args, **kwargs)

    def call(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inferred_by: Callable[..., Any] | None = None,
    ) -> Any:
        """Works out the result of `func` on shadows and writes the call down as one operation.

        `inferred_by` is called in place of a `func` that cannot be called on shadows: its result has the same type.
        """
        if func in _TENSOR_SPLITS:
            args, kwargs = self._with_split_points(func, args, kwargs)
        shadows: list[torch.Tensor] = []
        key: list[Any] = [func]
        if func in _INDEXING and len(args) > 1 and not kwargs:
            args = (args[0], self._with_numbers_in_slices(self._with_places_stacked(args[1])), *args[2:])
        if func is torch.arange and self.has_unknown_numbers():
            # Where it begins and ends is read here: its length would be made of numbers that the kernel alone has met.
            args = tuple(map(self.number_in, args))
            kwargs = {keyword: self.number_in(value) for keyword, value in kwargs.items()}
        run_args, written_args = self._argument(args, shadows, key)
        run_kwargs, written_kwargs = self._argument(kwargs, shadows, key) if kwargs else (kwargs, {})
        name = call_name(func)
        if name in VALUE_READS and shadows:
            known = self._known_value(func, run_args, run_kwargs)
            if known is not None:
                return known[0]
            if name in _TEXTS:
                return tensor_text(self.location())
            if name in _NUMBER_READS and type(run_args[0].numel()) is int and run_args[0].numel() != 1:
                alike = torch.zeros((), dtype=run_args[0].dtype).expand(run_args[0].shape)
                return real_call(func, (alike, *run_args[1:]), run_kwargs)  # raises: it holds no single number
            if name == "__index__" and not may_be_an_index(run_args[0]):
                raise TypeError("only integer tensors of a single element can be converted to an index")
            if VALUE_READS[name][0]:
                value = self._value(run_args[0])
                answer = self._read_number(name, shadows[0]) if value is None and len(shadows) == 1 else None
                if answer is not None:
                    return answer[0]
                if value is None or len(shadows) > 1:
                    wanted = self.asserted() if name == "__bool__" else None
                    if wanted is None:
                        raise self.data_dependent(func)
                    self.runtime_check(self.call(torch.Tensor.bool if wanted else torch.logical_not, args[:1], {}))
                    return wanted
                return real_call(func, (value, *run_args[1:]), run_kwargs)
        if func in _STATE_CALLS or name in _CONTEXT_CALLS:
            result = func(*run_args, **run_kwargs)
        elif func is torch.autograd.grad and not self.level_depth:
            result = self._gradients(run_args, run_kwargs)
        elif func is torch.Tensor.backward or func is torch.autograd.backward:
            result = None
            self.makes_gradients = True
        else:
            if name in _OF_RATES and self.symbols is not None:
                run_args = tuple(map(_some_rate, run_args))
                run_kwargs = {keyword: _some_rate(value) for keyword, value in run_kwargs.items()}
            if name in _WITH_SCALARS and len(run_args) == 4 and isinstance(run_args[3], torch.Tensor):
                run_args = (*run_args[:3], [1.0] * len(run_args[0]))
            result = self._infer(inferred_by or func, run_args, run_kwargs, shadows, key)
        structure, holds_tensor = self._result(result)
        if not holds_tensor and name in _CONTEXT_CALLS and result is not None:
            structure = self.name_object(result, "context")
        op = Op(func, written_args, written_kwargs, structure, self.location(), self.scope)
        if self.changed:
            op.tags["changes"], self.changed = tuple(self.changed), []
        self.ops.append(op)
        self.write_assumptions()
        if self._constants:
            self._forget_constants(shadows)
        if func is torch.tensor and not shadows and result.numel() <= 64 and not holds_unknown(args[0] if args else 0):
            self._constants[id(result)] = real_call(func, args, {**kwargs, "device": CPU})
        if kwargs and result is not None and result is run_kwargs.get("out"):
            return kwargs["out"]  # a function written in Python returns the very tuple that it was given
        return result

    def _result(self, value: Any) -> tuple[Any, bool]:
        """(structure of Vars to write down, whether it holds a tensor)."""
        if isinstance(value, torch.Tensor):
            var = self._vars.get(id(value))
            if var is None:
                if torch._C._functorch.is_functorch_wrapped_tensor(value):
                    return None, True
                raise UnsupportedError(
                    "a tensor was made by code that thunder cannot record",
                    self.location(),
                    "make it with torch calls, or wrap that code in a torch.library custom op",
                )
            return var, True
        if isinstance(value, (tuple, list)) and type(value) is not torch.Size:
            items = [self._result(item) for item in value]
            return tuple(item[0] for item in items), any(item[1] for item in items)
        return None, False

    def _with_split_points(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of `tensor_split` with numbers in place of a tensor: its results are views at known places."""
        points = args[1] if len(args) > 1 else kwargs.get("tensor_indices_or_sections")
        if not isinstance(points, torch.Tensor):
            return args, kwargs
        (shadow,), _ = self._argument((points,), [], [])
        value = self._value(shadow)
        if value is None:
            raise self.data_dependent(func)
        others = {key: item for key, item in kwargs.items() if key != "tensor_indices_or_sections"}
        return (args[0], real_call(torch.Tensor.tolist, (value,), {}), *args[2:]), others

    def _gradients(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Results of `torch.autograd.grad`: one like each input (unused inputs are an error when it runs)."""
        inputs = args[1] if len(args) > 1 else kwargs["inputs"]
        create = bool(kwargs.get("create_graph", args[4] if len(args) > 4 else False))
        inputs = [inputs] if isinstance(inputs, torch.Tensor) else inputs
        return tuple(
            self._new_shadow((x.shape, x.stride(), x.dtype, self._devices[id(x)], create, False)) for x in inputs
        )

    def _with_places_stacked(self, index: Any) -> Any:
        """An index with tensors in place of sequences of tensors that hold a place each, whose values C code reads."""
        if type(index) is not tuple or not any(map(_holds_places, index)):
            return index
        return tuple(self.call(torch.stack, (list(part),), {}) if _holds_places(part) else part for part in index)

    def _with_numbers_in_slices(self, index: Any) -> Any:
        """An index whose slices begin and end at numbers, where these were tensors of one integer."""
        if type(index) is tuple:
            return tuple(map(self._with_numbers_in_slices, index)) if slice in map(type, index) else index
        if type(index) is not slice:
            return index
        return slice(*map(self.number_in, (index.start, index.stop, index.step)))

    # Constants --------------------------------------------------------------------------------------------------
    def _known_value(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any] | None:
        """The answer when all values asked for are constants of the program itself (`torch.tensor(3).item()`)."""
        if not self._constants or not args or id(args[0]) not in self._constants:
            return None
        if any(isinstance(arg, torch.Tensor) for arg in args[1:]):
            return None
        result = func(self._constants[id(args[0])], *args[1:], **kwargs)
        return None if isinstance(result, torch.Tensor) else (result,)

    def _forget_constants(self, shadows: list[torch.Tensor]) -> None:
        """A constant that may have been changed in place, or seen through a view, is one no longer."""
        for shadow in shadows:
            if id(shadow) in self._constants and shadow._version > 0:
                del self._constants[id(shadow)]

    # Levels of torch.func ---------------------------------------------------------------------------------------
    def level_operation(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Enters or leaves a level of `torch.func`, or moves a tensor between levels: done on shadows, written down."""
        shadows: list[torch.Tensor] = []
        run_args, written_args = self._argument(args, shadows, [])
        run_kwargs, written_kwargs = self._argument(kwargs, shadows, [])
        entering = _torch_compat.level_statements()
        result: Any = real_call(func, run_args, run_kwargs)
        if func in entering:
            self.level_depth += 1
        elif func in entering.values():
            self.level_depth -= 1
        self._adopt(result, self._devices.get(id(shadows[0]), CPU) if shadows else CPU)
        structure, holds_tensor = self._result(result)
        if not holds_tensor:
            structure = None
        self.ops.append(Op(func, written_args, written_kwargs, structure, self.location(), self.scope))
        return result

    # Pauses -----------------------------------------------------------------------------------------------------
    def is_innermost(self) -> bool:
        """Whether no other mode (a default device) has been entered since."""
        return _torch_compat.innermost_function_mode() is self

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within the block torch calls are made for real, as if nothing were being acquired."""
        compiling = torch.compiler._is_compiling_flag
        torch.compiler._is_compiling_flag = False
        try:
            with _torch_compat.without_innermost_function_mode():
                yield
        finally:
            torch.compiler._is_compiling_flag = compiling

    # Statements -------------------------------------------------------------------------------------------------
    def write_statement(self, function: Callable[..., Any], *args: Any) -> None:
        """Writes down a call that is made for its effect alone and is not made now."""
        _, written = self._argument(args, [], [])
        self.ops.append(Op(function, written, {}, None, self.location(), self.scope))

    def new_result(
        self, function: Callable[..., Any], shape: tuple[int, ...], dtype: torch.dtype, *args: Any
    ) -> torch.Tensor:
        """Writes down a call that is not made now; its result is a tensor on the CPU."""
        with torch._C.DisableTorchFunction():
            shadow = self._new_shadow((shape, (1,) * len(shape), dtype, CPU, False, True))
        self.ops.append(Op(function, self.written(args), {}, self._vars[id(shadow)], self.location(), self.scope))
        return shadow

    def written(self, arguments: Any) -> Any:
        """Arguments as they stand in the trace."""
        return self._argument(arguments, [], [])[1]

    def new_result_like(self, shadow: torch.Tensor, requires_grad: bool) -> torch.Tensor:
        """A tensor of the same type, for the result of an operation that the caller writes down."""
        with torch._C.DisableTorchFunction():
            shape, stride = shadow.shape, shadow.stride()
            return self._new_shadow((shape, stride, shadow.dtype, self._devices[id(shadow)], requires_grad, False))

    def shadows_made(self) -> list[torch.Tensor]:
        """All tensors of the program up to now."""
        return [kept for kept in self._keep if isinstance(kept, torch.Tensor) and kept.layout is torch.strided]

    def new_parameter(self, kind: type, data: torch.Tensor, requires_grad: bool) -> torch.Tensor:
        """Writes down that a parameter of class `kind` is made; the answer is its shadow."""
        (shadow,), (written,) = self._argument((data,), [], [])
        with torch._C.DisableTorchFunction():
            parameter: torch.Tensor = torch.nn.Parameter.__new__(kind, shadow, requires_grad)
        var = self.new_var(parameter, self._devices[id(shadow)], "parameter")
        self._write(Op(kind, (written,), {"requires_grad": requires_grad}, var))
        return parameter

    def runtime_check(self, condition: torch.Tensor) -> None:
        """Writes down that every value of `condition` must hold."""
        _, written = self._argument(condition, [], [])
        self.ops.append(Op(torch._check_tensor_all, (written,), {}, None, self.location(), self.scope))

    # Regions ----------------------------------------------------------------------------------------------------
    def subtrace(self, name: str, function: Callable[[], Any]) -> tuple[Region, tuple[Var, ...], Any]:
        """Records `function()` as a region of its own: (region, the outer Vars that it takes, its result)."""
        outer_ops, self.ops = self.ops, []
        leave = self.symbols.enter_region() if self.symbols is not None else set
        try:
            result = function()
            structure, _ = self._result(result)
            inner = self.ops
        finally:
            self.ops = outer_ops
            lost = leave()
        if lost:
            self._find_sizes(result, lost)
        trace = Trace(name, [], inner, structure)
        hand_out(inner, trace.output_vars())
        made: set[int] = set()
        taken: dict[int, Var] = {}

        def take(variables: Iterable[Var]) -> None:
            taken.update((id(var), var) for var in variables if id(var) not in made and id(var) not in taken)

        for op in inner:
            take(op.inputs())
            # The result of an in-place call on an outer value is that outer value: it is taken, not made.
            made.update(id(var) for var in op.outputs() if id(var) not in taken)
        take(trace.output_vars())
        trace.inputs = list(taken.values())
        return Region(name, trace), tuple(taken.values()), result


def _some_rate(value: Any) -> Any:
    """A number that is a rate, in place of one that the running program knows."""
    return 0.5 if isinstance(value, torch.SymFloat) else value


def _holds_places(part: Any) -> bool:
    """Whether a part of an index is a sequence of tensors of one integer."""
    return (
        type(part) in (tuple, list)
        and len(part) > 0
        and all(isinstance(item, torch.Tensor) and item.dim() == 0 and may_be_an_index(item) for item in part)
        and all(item.dtype is part[0].dtype and item.dtype is not torch.bool for item in part)
    )
