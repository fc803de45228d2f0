"""Recording: tensors write down the public torch calls that are made with them.

During acquisition every tensor is a *shadow*: a plain meta tensor (shape, strides, dtype, no data) whose device is
kept beside it.  A `TorchFunctionMode` sees every public torch call, tensor method and factory, lets PyTorch's fake
tensors work out the result, and appends the call to the trace.

Fake tensors cost half a millisecond a call, so results are remembered by call and metadata: the second layer of a
model costs microseconds.  A call whose result aliases an argument (views, in-place) is made on the shadows
themselves, so that views, versions and autograd's rules are PyTorch's own.

Input: calls.  Output: `Recorder.ops`, a list of `Op`.  Invariants: a tensor that reaches a call is a shadow made
here, or is exchanged for one (`shadow_of`); a result that nothing recorded has made is an error, never a constant.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from thunder.acquire.queries import BREAK_REMEDY, DEVICE_QUERIES, QUERIES, VALUE_READS, call_name
from thunder.acquire.symbols import Symbols
from thunder.acquire.values import Values
from thunder.errors import DataDependentError, Location, ThunderError, UnsupportedError, add_location_note
from thunder.trace import Namer, Op, Region, Trace, Var

_CPU = torch.device("cpu")
_META = torch.device("meta")
_PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, torch.Size, type(Ellipsis)})
_CONTEXT_CALLS = frozenset({"_enter_autocast", "_exit_autocast"})
_STATE_CALLS = frozenset({torch._C._set_grad_enabled})
_CALL_ERRORS = (
    RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError, NotImplementedError, AssertionError,
)  # fmt: skip
_ON_SHADOWS = object()
ResultMaker = Callable[["Recorder", list[torch.Tensor]], Any]
_results: dict[Any, Any] = {}
"""Results of calls by (callable, arguments, metadata of tensors, state of torch), for all acquisitions."""
_RESULTS_LIMIT = 20_000


def _remember(identity: Any, result: Any) -> None:
    if len(_results) >= _RESULTS_LIMIT:
        _results.clear()
    _results[identity] = result


_TEXTS = frozenset({"__format__", "__str__", "__repr__"})
_TEXT_MARK = "<tensor whose values are not known yet"
_SIZES_KNOWN = frozenset({"cov", "corrcoef", "combinations", "histogram"})
"""Calls whose fake kernels want values although the sizes of their results do not depend on them."""
_REPLAY_LIMIT = 1 << 24  # elements; larger arguments are not materialised for the sake of an error message


class Recorder(TorchFunctionMode):
    """Writes down torch calls.

    Args:
        shadow_of: gives the shadow of a real tensor that turns up as an argument.
        location: gives the user's current line.
        values: computes the values of small arguments that the program looks at.
        symbols: sizes that vary; shadows are then fake tensors, whose kernels know symbolic sizes.
    """

    def __init__(
        self,
        shadow_of: Callable[[torch.Tensor], torch.Tensor],
        location: Callable[[], Location | None],
        symbols: Symbols | None = None,
        values: Values | None = None,
    ) -> None:
        super().__init__()
        self.values = values
        self.symbols = symbols
        self.fake_mode = FakeTensorMode(allow_non_fake_inputs=True) if symbols is None else symbols.fake_mode
        self.shadow_of = shadow_of
        self.location = location
        self.ops: list[Op] = []
        self.scope = ""
        self.namer = Namer()
        self._vars: dict[int, Var] = {}
        self._devices: dict[int, torch.device] = {}
        self._constants: dict[int, torch.Tensor] = {}
        self._metadata: dict[int, tuple[Any, ...]] = {}
        self._keep: list[Any] = []

    # Values -----------------------------------------------------------------------------------------------------
    def new_var(self, shadow: torch.Tensor, device: torch.device, stem: str = "t", *, numbered: bool = True) -> Var:
        """Names a shadow for the first time."""
        name = self.namer.fresh(stem, numbered=numbered)
        if isinstance(shadow, FakeTensor):
            var = Var(name, shadow)
        else:
            var = Var(name, make_value=lambda: self._fake(shadow.detach(), shadow, device))
        key = id(shadow)
        self._vars[key] = var
        self._devices[key] = device
        self._keep.append(shadow)
        return var

    def name_object(self, obj: Any, stem: str) -> Var:
        """Names a value that is no tensor (a context, a process group) and that later calls take."""
        var = self._vars[id(obj)] = Var(self.namer.fresh(stem), obj)
        self._keep.append(obj)
        return var

    def var_of(self, value: Any) -> Var | None:
        """The name of a value, or None when it has none."""
        return self._vars.get(id(value))

    def device_of(self, shadow: torch.Tensor) -> torch.device:
        """The device of the tensor that `shadow` stands for."""
        return self._devices.get(id(shadow), shadow.device)

    def _fake(
        self,
        plain: torch.Tensor,
        like: torch.Tensor,
        device: torch.device,
        constant: torch.Tensor | None = None,
    ) -> FakeTensor:
        """A fake tensor with the metadata of a shadow."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            fake = FakeTensor(self.fake_mode, plain, device, constant=constant)
        if like.requires_grad:
            fake.requires_grad_(True)
        if isinstance(like, torch.nn.Parameter):
            fake._is_param = True
        return fake

    # Arguments --------------------------------------------------------------------------------------------------
    def _argument(self, value: Any, found: list[torch.Tensor], key: list[Any]) -> tuple[Any, Any]:
        """(value to run with, value to write down) for one argument.

        Appends the shadows in it to `found`, and what the result's metadata can depend on to `key`.
        """
        kind = type(value)
        if kind in _PLAIN:
            key.append(kind)
            key.append(value)
            return value, value
        if isinstance(value, torch.Tensor):
            var = self._vars.get(id(value))
            if var is None:
                if torch._C._functorch.is_functorch_wrapped_tensor(value):
                    found.append(value)
                    key.append(object())
                    return value, value
                value = self.shadow_of(value)
                var = self._vars[id(value)]
            found.append(value)
            if self.symbols is not None:
                return value, var
            metadata = self._metadata.get(id(value))
            if metadata is None:
                metadata = self._metadata[id(value)] = self._describe(value)
            key.append(metadata)
            return value, var
        if kind is tuple or kind is list:
            key.append(kind)
            key.append(len(value))
            pairs = [self._argument(item, found, key) for item in value]
            return kind([pair[0] for pair in pairs]), kind([pair[1] for pair in pairs])
        if kind is dict:
            key.append(tuple(value))
            items = {name: self._argument(item, found, key) for name, item in value.items()}
            return {k: p[0] for k, p in items.items()}, {k: p[1] for k, p in items.items()}
        if kind is slice:
            key.append(slice)
            parts = [self._argument(part, found, key) for part in (value.start, value.stop, value.step)]
            return slice(*(p[0] for p in parts)), slice(*(p[1] for p in parts))
        if isinstance(value, (list, tuple)):
            key.append(kind)
            key.append(len(value))
            pairs = [self._argument(item, found, key) for item in value]
            run = [pair[0] for pair in pairs]
            if hasattr(value, "_fields"):
                return kind(*run), kind(*(pair[1] for pair in pairs))
            return run, [pair[1] for pair in pairs]
        if isinstance(value, torch.SymInt) and self.symbols is not None:
            return value, self.symbols.written(value, self.ops.append, self.namer.fresh)
        if isinstance(value, (torch.SymFloat, torch.SymBool)):
            value = float(value) if isinstance(value, torch.SymFloat) else bool(value)
            return value, value
        key.append(value)
        var = self._vars.get(id(value))
        return value, value if var is None else var

    def _describe(self, shadow: torch.Tensor) -> tuple[Any, ...]:
        """What a result's metadata can depend on."""
        with torch._C.DisableTorchFunction():
            return (
                shadow.shape, shadow.stride(), shadow.storage_offset(), shadow.dtype, self._devices[id(shadow)],
                shadow.requires_grad, shadow.is_leaf, shadow.is_conj(), shadow.is_neg(), self._constant_key(shadow),
            )  # fmt: skip

    def _constant_key(self, shadow: torch.Tensor) -> str | None:
        """The values of a constant that the program made, on which results may depend (an index)."""
        constant = self._constants.get(id(shadow))
        return None if constant is None else repr(constant.tolist())

    # Calls ------------------------------------------------------------------------------------------------------
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

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Works out the result of `func` on shadows and writes the call down as one operation."""
        shadows: list[torch.Tensor] = []
        key: list[Any] = [func]
        run_args, written_args = self._argument(args, shadows, key)
        run_kwargs, written_kwargs = self._argument(kwargs, shadows, key) if kwargs else (kwargs, {})
        name = call_name(func)
        if name in VALUE_READS and shadows:
            known = self._known_value(func, run_args, run_kwargs)
            if known is not None:
                return known[0]
            if name in _TEXTS:
                return tensor_text(self.location())
            if VALUE_READS[name][0]:
                value = self._value(run_args[0])
                if value is None or len(shadows) > 1:
                    raise self.data_dependent(func)
                return _real_call(func, (value, *run_args[1:]), run_kwargs)
        if func in _STATE_CALLS or name in _CONTEXT_CALLS:
            result = func(*run_args, **run_kwargs)
        elif func is torch.autograd.grad:
            result = self._gradients(run_args, run_kwargs)
        elif func is torch.Tensor.backward or func is torch.autograd.backward:
            result = None
        else:
            result = self._infer(func, run_args, run_kwargs, shadows, key)
        structure, holds_tensor = self._result(result)
        if not holds_tensor and name in _CONTEXT_CALLS and result is not None:
            structure = self.name_object(result, "context")
        self.ops.append(Op(func, written_args, written_kwargs, structure, self.location(), self.scope))
        if self._constants:
            self._forget_constants(shadows)
        if func is torch.tensor and isinstance(result, torch.Tensor) and result.numel() <= 64:
            self._constants[id(result)] = _real_call(func, args, {**kwargs, "device": _CPU})
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

    def _gradients(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Results of `torch.autograd.grad`: one like each input (unused inputs are an error when it runs)."""
        inputs = args[1] if len(args) > 1 else kwargs["inputs"]
        create = bool(kwargs.get("create_graph", args[4] if len(args) > 4 else False))
        inputs = [inputs] if isinstance(inputs, torch.Tensor) else inputs
        return tuple(
            self._new_shadow((x.shape, x.stride(), x.dtype, self._devices[id(x)], create, False)) for x in inputs
        )

    # Working out results ----------------------------------------------------------------------------------------
    def _infer(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shadows: list[torch.Tensor],
        key: list[Any],
    ) -> Any:
        """The result of a call: remembered, made on the shadows, or worked out on fake tensors."""
        if self.symbols is not None:
            return self._infer_symbolic(func, args, kwargs, shadows)
        key.append(torch.is_grad_enabled())
        key.append(torch.get_default_dtype())
        if torch._C._is_any_autocast_enabled():
            key.append(_autocast_state())
        identity: Any
        try:
            identity = tuple(key)
            known = _results.get(identity)
        except TypeError:  # an argument that cannot be hashed
            identity = known = None
        if known is not None:
            if known is _ON_SHADOWS:
                return self._on_shadows(func, args, kwargs, shadows)
            return known(self, shadows)
        try:
            result, aliases = self._run_fake(func, args, kwargs, shadows)
        except _NeedsValuesError as error:
            return self._run_with_values(func, args, kwargs, shadows, error)
        if aliases:
            result = self._on_shadows(func, args, kwargs, shadows)
            if identity is not None:
                _remember(identity, _ON_SHADOWS)
            return result
        if identity is not None:
            maker = self._maker(result, shadows)
            if maker is not None:
                _remember(identity, maker)
        return result

    def _infer_symbolic(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], shadows: list[torch.Tensor]
    ) -> Any:
        """The result of a call on shadows that are fake tensors with symbolic sizes."""
        state = torch.get_rng_state()
        try:
            with self.fake_mode, _quiet_fake_tensors():
                result = func(*args, **kwargs)
        except ThunderError:
            raise
        except _CALL_ERRORS as error:
            try:
                self._explain(func, args, kwargs, error)
            except _NeedsValuesError:
                raise self.data_dependent(func) from error
        finally:
            torch.set_rng_state(state)
        self._adopt(result, None)
        return result

    def _value(self, shadow: Any) -> torch.Tensor | None:
        """The value of a shadow that depends on small arguments only; they are guarded by value then."""
        if self.values is None or not isinstance(shadow, torch.Tensor):
            return None
        constant = self._constants.get(id(shadow))
        if constant is not None:
            return constant
        return self.values.of(shadow, self._vars, self._keep, self.ops)

    def _run_with_values(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shadows: list[torch.Tensor],
        error: Exception,
    ) -> Any:
        """The result of a call whose sizes depend on values: made for real, with zeros for what is unknown."""
        reals: dict[int, torch.Tensor] = {}
        known = 0
        for shadow in shadows:
            value = self._value(shadow) if not shadow.is_floating_point() and not shadow.is_complex() else None
            known += value is not None
            if value is None and shadow.numel() > _REPLAY_LIMIT:
                raise self.data_dependent(func) from error
            if value is None:
                with torch._C.DisableTorchFunction():
                    value = torch.empty_strided(shadow.shape, shadow.stride(), dtype=shadow.dtype).zero_()
                    if shadow.requires_grad:
                        value = value.requires_grad_().clone()
            reals[id(shadow)] = value
        if not known and call_name(func) not in _SIZES_KNOWN:
            raise self.data_dependent(func) from error
        device = self._devices[id(shadows[0])]

        def exchange(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return reals.get(id(value), value)
            if type(value) in (tuple, list):
                return type(value)(map(exchange, value))
            if type(value) is dict:
                return {name: exchange(item) for name, item in value.items()}
            return value

        def shadow_like(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return self._new_shadow(
                    (value.shape, value.stride(), value.dtype, device, value.requires_grad, value.is_leaf)
                )
            if isinstance(value, (tuple, list)):
                return type(value)(map(shadow_like, value))
            return value

        unknown = [real for shadow in shadows if self._constants.get(id(shadow)) is not (real := reals[id(shadow)])]
        versions = [real._version for real in unknown]
        result = _real_call(func, exchange(args), exchange(kwargs))
        if [real._version for real in unknown] != versions:
            raise self.data_dependent(func) from error
        return shadow_like(result)

    def _on_shadows(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shadows: list[torch.Tensor],
    ) -> Any:
        """Makes a view or an in-place call on the shadows themselves."""
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": _META}
        args = tuple(_META if isinstance(arg, torch.device) else arg for arg in args)
        if self._constants and func is torch.Tensor.__getitem__:
            args = (args[0], self._index_values(args[1]))
        device = self._devices.get(id(shadows[0]), _CPU) if shadows else _CPU
        try:
            result = func(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
            self._explain(func, args, kwargs, error)
        for shadow in shadows:
            self._metadata.pop(id(shadow), None)
        self._adopt(result, device)
        return result

    def _index_values(self, index: Any) -> Any:
        """An index with numbers for the 0-d constants in it: a meta tensor does not know them."""
        if isinstance(index, torch.Tensor) and id(index) in self._constants and index.dim() == 0:
            return self._constants[id(index)].item()
        if type(index) in (tuple, list):
            return type(index)(map(self._index_values, index))
        if type(index) is slice:
            return slice(*map(self._index_values, (index.start, index.stop, index.step)))
        return index

    def _adopt(self, value: Any, device: torch.device | None) -> None:
        """Names every new tensor of a result; a fake tensor knows its device itself."""
        if isinstance(value, torch.Tensor):
            if id(value) not in self._vars and not torch._C._functorch.is_functorch_wrapped_tensor(value):
                self.new_var(value, value.device if device is None else device)
        elif isinstance(value, (tuple, list)) and type(value) is not torch.Size:
            for item in value:
                self._adopt(item, device)

    def _new_shadow(self, specification: tuple[Any, ...]) -> torch.Tensor:
        """A fresh shadow: (shape, strides, dtype, device, requires_grad, is_leaf)."""
        shape, stride, dtype, device, requires_grad, is_leaf = specification
        shadow = torch.empty_strided(shape, stride, dtype=dtype, device=_META)
        if requires_grad:
            shadow.requires_grad_(True)
            if not is_leaf:
                # The cheapest way to a tensor that autograd takes for the result of a call.
                with torch.enable_grad():
                    shadow = torch._C._functions.DelayedError("thunder: acquisition has no gradients", 1)(shadow)
        self.new_var(shadow, device)
        return shadow

    def _maker(self, result: Any, shadows: list[torch.Tensor]) -> ResultMaker | None:
        """How to make the like of `result` again in another call, or None."""
        if isinstance(result, torch.Tensor):
            for index, shadow in enumerate(shadows):
                if result is shadow:
                    return lambda recorder, others: others[index]
            with torch._C.DisableTorchFunction():
                specification = (
                    result.shape,
                    result.stride(),
                    result.dtype,
                    self._devices[id(result)],
                    result.requires_grad,
                    result.is_leaf,
                )
            return lambda recorder, others: recorder._new_shadow(specification)
        if isinstance(result, (tuple, list)):
            makers = [self._maker(item, shadows) for item in result]
            if any(maker is None for maker in makers):
                return None
            kind = type(result)
            if hasattr(kind, "_fields"):
                return lambda recorder, others: kind(*(maker(recorder, others) for maker in makers))  # type: ignore[misc]
            if kind in (tuple, list) or kind.__module__ == "torch.return_types":
                return lambda recorder, others: kind([maker(recorder, others) for maker in makers])  # type: ignore[misc]
            return None
        if result is None or type(result) in (int, float, bool):
            return lambda recorder, others: result
        return None

    def _run_fake(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shadows: list[torch.Tensor],
    ) -> tuple[Any, bool]:
        """(result as new shadows, whether it aliases or changes an argument), worked out on fake tensors."""
        fakes = {id(shadow): self._fake_argument(shadow) for shadow in shadows if id(shadow) in self._devices}

        def to_fake(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return fakes.get(id(value), value)
            if isinstance(value, tuple) and hasattr(value, "_fields"):
                return type(value)(*map(to_fake, value))
            if type(value) in (tuple, list):
                return type(value)(map(to_fake, value))
            if type(value) is dict:
                return {name: to_fake(item) for name, item in value.items()}
            if type(value) is slice:
                return slice(to_fake(value.start), to_fake(value.stop), to_fake(value.step))
            return value

        before = [(fake, _mutable_state(fake)) for fake in fakes.values()]
        state = torch.get_rng_state()
        try:
            with self.fake_mode, _quiet_fake_tensors():
                result = func(*to_fake(args), **to_fake(kwargs))
        except ThunderError:
            raise
        except _CALL_ERRORS as error:
            self._explain(func, args, kwargs, error)
        finally:
            torch.set_rng_state(state)
        with torch._C.DisableTorchFunction():
            if any(_mutable_state(fake) != state for fake, state in before):
                return None, True
            back = {id(fake): shadow for shadow in shadows if (fake := fakes.get(id(shadow))) is not None}
            storages = {fake.untyped_storage()._cdata for fake, _ in before if fake.layout is torch.strided}
            return self._from_fake(result, back, storages)

    def _fake_argument(self, shadow: torch.Tensor) -> torch.Tensor:
        """A fake tensor that is to PyTorch what the real tensor is: device, leaf or not, known constant."""
        fake: torch.Tensor = self._fake(
            shadow.detach(), shadow, self._devices[id(shadow)], constant=self._constants.get(id(shadow))
        )
        if shadow.requires_grad and not shadow.is_leaf:
            with torch.enable_grad():
                fake = torch._C._functions.DelayedError("thunder: acquisition has no gradients", 1)(fake)
        return fake

    def _from_fake(self, value: Any, back: dict[int, torch.Tensor], storages: set[int]) -> tuple[Any, bool]:
        """(shadows for a result on fake tensors, whether it aliases an argument without being it)."""
        if isinstance(value, torch.Tensor):
            known = back.get(id(value))
            if known is not None:
                return known, False
            if value.layout is not torch.strided:
                raise UnsupportedError(
                    f"a tensor of layout {value.layout} is made here",
                    self.location(),
                    "compile the code around it",
                )
            if value.untyped_storage()._cdata in storages:
                return None, True
            specification = (
                value.shape,
                value.stride(),
                value.dtype,
                value.device,
                value.requires_grad,
                value.is_leaf,
            )
            back[id(value)] = shadow = self._new_shadow(specification)
            storages.add(value.untyped_storage()._cdata)
            self._keep.append(value)
            return shadow, False
        if isinstance(value, (tuple, list)) and type(value) is not torch.Size:
            items = []
            for item in value:
                shadow, aliases = self._from_fake(item, back, storages)
                if aliases:
                    return None, True
                items.append(shadow)
            kind = type(value)
            return (kind(*items) if hasattr(kind, "_fields") else kind(items)), False
        return value, False

    # Constants and errors ---------------------------------------------------------------------------------------
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

    def data_dependent(self, func: Callable[..., Any]) -> DataDependentError:
        name = call_name(func)
        remedy = VALUE_READS.get(name, (False, "make its size or outcome independent of the values"))[1]
        return DataDependentError(
            f"the program needs the values of a tensor, through {name}",
            self.location(),
            f"{remedy}; {BREAK_REMEDY}",
        )

    def _explain(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
    ) -> NoReturn:
        """Raises PyTorch's own error for a call that failed on shadows, with the user's line.

        Meta kernels word some errors differently, so the call is made once more with zeros on the real device.
        """
        location = self.location()
        total = 0

        def to_real(value: Any) -> Any:
            nonlocal total
            if isinstance(value, torch.SymInt):
                return value.node.hint
            if isinstance(value, torch.Tensor) and id(value) in self._devices:
                total += value.numel()
                if total > _REPLAY_LIMIT or self._devices[id(value)].type not in ("cpu",):
                    raise OverflowError
                shape, stride = to_real(tuple(value.shape)), to_real(tuple(value.stride()))
                real = torch.empty_strided(shape, stride, dtype=value.dtype, device=self._devices[id(value)]).zero_()
                if value.requires_grad:
                    real.requires_grad_(True)
                    real = real if value.is_leaf else real.clone()
                return real
            if type(value) in (tuple, list):
                return type(value)(map(to_real, value))
            if type(value) is dict:
                return {key: to_real(item) for key, item in value.items()}
            return value

        state = torch.get_rng_state()
        try:
            func(*to_real(args), **to_real(kwargs))
        except OverflowError:
            pass
        except Exception as own:  # whatever the call raises is what the user must see
            add_location_note(own, location)
            raise own from None
        finally:
            torch.set_rng_state(state)
        if _depends_on_values(error):
            raise _NeedsValuesError from error
        add_location_note(error, location)
        raise error

    def write_statement(self, function: Callable[..., Any], *args: Any) -> None:
        """Writes down a call that is made for its effect alone and is not made now."""
        _, written = self._argument(args, [], [])
        self.ops.append(Op(function, written, {}, None, self.location(), self.scope))

    def new_result(self, function: Callable[..., Any], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Writes down a call without arguments that is not made now; its result is a tensor on the CPU."""
        with torch._C.DisableTorchFunction():
            shadow = self._new_shadow((shape, (1,) * len(shape), dtype, _CPU, False, True))
        self.ops.append(Op(function, (), {}, self._vars[id(shadow)], self.location(), self.scope))
        return shadow

    def runtime_check(self, condition: torch.Tensor) -> None:
        """Writes down that every value of `condition` must hold."""
        _, written = self._argument(condition, [], [])
        self.ops.append(Op(torch._check_tensor_all, (written,), {}, None, self.location(), self.scope))

    # Regions ----------------------------------------------------------------------------------------------------
    def subtrace(self, name: str, function: Callable[[], Any]) -> tuple[Region, tuple[Var, ...], Any]:
        """Records `function()` as a region of its own: (region, the outer Vars that it takes, its result)."""
        outer_ops, self.ops = self.ops, []
        try:
            result = function()
            structure, _ = self._result(result)
            inner = self.ops
        finally:
            self.ops = outer_ops
        trace = Trace(name, [], inner, structure)
        made = {id(var) for op in inner for var in op.outputs()}
        taken: dict[int, Var] = {}
        for var in [*(var for op in inner for var in op.inputs()), *trace.output_vars()]:
            # The result of an in-place call on an outer value is that outer value: it is taken, not made.
            if id(var) not in made or any(var in op.inputs() for op in inner if var in list(op.outputs())):
                taken.setdefault(id(var), var)
        trace.inputs = list(taken.values())
        return Region(name, trace), tuple(taken.values()), result


def tensor_text(location: Location | None) -> str:
    """What a tensor reads as while the program is acquired.

    Programs put tensors into messages that nobody reads.  A text that leaves the program is an error
    (`is_tensor_text`).
    """
    where = f" at {location.filename}:{location.line}" if location is not None else ""
    return f"{_TEXT_MARK}{where}>"


def is_tensor_text(value: Any) -> bool:
    """Whether a string was made from a tensor's unknown values."""
    return isinstance(value, str) and _TEXT_MARK in value


def _mutable_state(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What an in-place call can change of a tensor, besides its values."""
    return (
        tensor._version, tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad, tensor.is_leaf,
        tensor.untyped_storage()._cdata,
    )  # fmt: skip


class _NeedsValuesError(Exception):
    """A fake kernel would need the values of a tensor."""


def _real_call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    with torch._C.DisableTorchFunction():
        result: torch.Tensor = func(*args, **kwargs)
    return result


def _autocast_state() -> tuple[Any, ...]:
    """Which autocasts are on, with their dtypes."""
    return tuple((kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind))


_FAKE_TENSOR_LOG = logging.getLogger("torch._subclasses.fake_tensor")


@contextlib.contextmanager
def _quiet_fake_tensors() -> Iterator[None]:
    """The user's own errors are raised, with their line; fake tensors would log them as well."""
    before, _FAKE_TENSOR_LOG.disabled = _FAKE_TENSOR_LOG.disabled, True
    try:
        yield
    finally:
        _FAKE_TENSOR_LOG.disabled = before


def _depends_on_values(error: Exception) -> bool:
    """True for the ways in which meta and fake kernels say that they would need data."""
    text = str(error)
    return (
        type(error).__name__
        in ("DataDependentOutputException", "DynamicOutputShapeException", "GuardOnDataDependentSymNode")
        or "data-dependent" in text
        or "data-independent implementation does not exist" in text
        or "no fake impl or Meta kernel" in text
        or "cannot be called on meta tensors" in text
        or "Cannot copy out of meta tensor" in text
    )
