"""Results of torch calls on shadows: remembered, worked out on fake tensors, or made on the shadows themselves.

Fake tensors cost half a millisecond a call, so results are remembered by call and metadata: the second layer of a
model costs microseconds.  A call whose result aliases an argument (views, in-place) is made on the shadows
themselves, so that views, versions and autograd's rules are PyTorch's own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch

from thunder._torch_compat import python_dispatcher
from thunder.acquire.queries import BREAK_REMEDY, call_name
from thunder.acquire.real_arguments import RealArguments
from thunder.acquire.shadows import CPU, META, is_leaf
from thunder.acquire.value_results import SIZES_KNOWN, ValueResults, holds_unknown
from thunder.errors import ThunderError, UnsupportedError, add_location_note

_CALL_ERRORS = (
    RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError, NotImplementedError, AssertionError,
)  # fmt: skip
_GRADIENT: Any = torch.Tensor.grad
_OF_SHADOWS = frozenset({torch.Tensor.__setitem__, _GRADIENT.__set__, _GRADIENT.__get__})
"""What changes its first argument, or asks for what has been put on it, is no matter of values on fake tensors."""
_ON_SHADOWS = object()
ResultMaker = Callable[["ResultInference", list[torch.Tensor]], Any]
_results: dict[Any, Any] = {}
"""Results of calls by (callable, arguments, metadata of tensors, state of torch), for all acquisitions."""
_RESULTS_LIMIT = 20_000


def _remember(identity: Any, result: Any) -> None:
    if len(_results) >= _RESULTS_LIMIT:
        _results.clear()
    _results[identity] = result


class ResultInference(ValueResults):
    """Works out what a call gives."""

    def _infer(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shadows: list[torch.Tensor],
        key: list[Any],
    ) -> Any:
        """The result of a call: remembered, made on the shadows, or worked out on fake tensors."""
        if func is torch.tensor and args and not isinstance(args[0], torch.Tensor) and holds_unknown(args[0]):
            return self._tensor_of_numbers(args[0], kwargs)
        if self.symbols is not None:
            return self._infer_symbolic(func, args, kwargs, shadows)
        if self.level_depth:
            return self._within_levels(func, args, kwargs, shadows)
        key.append(torch.is_grad_enabled())
        key.append(torch.get_default_dtype())
        if torch._C._is_any_autocast_enabled():
            key.append(_autocast_state())
        if torch._C._len_torch_function_stack():  # a mode beside the recorder, which is not in force here
            key.append(torch.get_default_device())
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
            aliases = func in _OF_SHADOWS
            if not aliases:
                result, aliases = self._run_fake(func, args, kwargs, shadows)
            if aliases:
                result = self._on_shadows(func, args, kwargs, shadows)
        except _NeedsValuesError as error:
            return self._infer_from_values(func, args, kwargs, shadows, error)
        if aliases:
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
        assert self.symbols is not None
        state, versions = torch.get_rng_state(), _versions(shadows)
        try:
            with self.symbols.inside_kernel(), self.fake_mode, python_dispatcher(), _quiet_fake_tensors():
                result = func(*args, **kwargs)
        except ThunderError:
            raise
        except _CALL_ERRORS as error:
            self.symbols.fresh_symbols()
            try:
                self._explain(func, args, kwargs, error)
            except _NeedsValuesError:
                return self._infer_from_values(func, args, kwargs, shadows, error)
        finally:
            torch.set_rng_state(state)
        if self.symbols.has_fresh_symbols() and self._values_are_known(shadows):
            # Of small arguments the values are known, and with them the sizes of what is made from them.
            self.symbols.fresh_symbols()
            return self._run_with_values(func, args, kwargs, shadows, None)
        self._note_changes(shadows, versions)
        self._adopt(result, None)
        self._find_unknown_sizes(result)
        return result

    def _note_changes(self, shadows: list[torch.Tensor], before: list[int]) -> None:
        """Remembers, for the operation that is written next, which tensors it changes."""
        self.changed += [
            self._vars[id(shadow)]
            for shadow, version in zip(shadows, before)
            if not shadow.is_inference() and shadow._version != version and id(shadow) in self._vars
        ]

    def _on_shadows(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shadows: list[torch.Tensor],
    ) -> Any:
        """Makes a view or an in-place call on the shadows themselves."""
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": META}
        args = tuple(META if isinstance(arg, torch.device) else arg for arg in args)
        if self._constants and func is torch.Tensor.__getitem__:
            args = (args[0], self._index_values(args[1]))
        device = self._devices.get(id(shadows[0]), CPU) if shadows else CPU
        versions = _versions(shadows)
        strides = self._strides_of_empty_outs(func, args, kwargs) if kwargs.get("out") is not None else {}
        try:
            result = func(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
            self._explain(func, args, kwargs, error)
        for shadow in shadows:
            if id(shadow) in strides:
                shadow.as_strided_(shadow.shape, strides[id(shadow)])
        self._note_changes(shadows, versions)
        for shadow in shadows:
            self._metadata.pop(id(shadow), None)
        self._adopt(result, device)
        return result

    def _strides_of_empty_outs(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[int, tuple[int, ...]]:
        """The strides that empty tensors given as `out=` get, by id; meta kernels make them contiguous."""
        given = kwargs["out"] if isinstance(kwargs["out"], (tuple, list)) else (kwargs["out"],)
        empty = [out for out in given if isinstance(out, torch.Tensor) and out.numel() == 0 and not out.requires_grad]
        real = RealArguments(self._devices)
        state = torch.get_rng_state()
        try:
            if empty:
                func(*real.of(args), **real.of(kwargs))
        except (OverflowError, *_CALL_ERRORS):
            return {}
        finally:
            torch.set_rng_state(state)
        return {id(out): real.reals[id(out)].stride() for out in empty if real.reals[id(out)].numel()}

    def _within_levels(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], shadows: list[torch.Tensor]
    ) -> Any:
        """Makes a call within levels of `torch.func`, which only the shadows themselves belong to."""
        if shadows:
            try:
                return self._on_shadows(func, args, kwargs, shadows)
            except _NeedsValuesError as error:
                raise self.data_dependent(func) from error
        device = torch.device(kwargs.get("device") or torch.get_default_device())
        # torch.tensor moves what it has made to the device, which within levels some versions refuse.
        constant = torch._C._DisableFuncTorch() if func is torch.tensor else contextlib.nullcontext()
        with META, constant:
            result = func(*args, **{**kwargs, "device": META} if "device" in kwargs else kwargs)
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
        if any(shadow.requires_grad and not _may_require_grad(shadow) for shadow in shadows):
            return None, True  # such a tensor, made by an assignment, has no fake counterpart
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
        if shadow.requires_grad and not is_leaf(shadow):
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

    def _explain(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
    ) -> NoReturn:
        """Raises PyTorch's own error for a call that failed on shadows, with the user's line.

        Meta kernels word some errors differently, so the call is made once more with zeros on the real device.  One
        that succeeds there is a call that PyTorch cannot work out without data.
        """
        if _depends_on_values(error):
            raise _NeedsValuesError from error
        location = self.location()
        real = RealArguments(self._devices)
        state = torch.get_rng_state()
        try:
            func(*real.of(args), **real.of(kwargs))
        except OverflowError:
            pass
        except Exception as own:  # whatever the call raises is what the user must see
            add_location_note(own, location)
            raise own from None
        else:
            if call_name(func) in SIZES_KNOWN:
                raise _NeedsValuesError from error
            raise UnsupportedError(
                f"PyTorch cannot work out the result of {call_name(func)} without running it: "
                f"{type(error).__name__}: {str(error).splitlines()[0]}",
                location,
                f"give a custom operator a fake kernel with torch.library.register_fake, {BREAK_REMEDY}",
            ) from error
        finally:
            torch.set_rng_state(state)
        if type(error).__module__.startswith("torch._subclasses"):  # an error that only fake tensors raise
            error = RuntimeError(str(error))
        add_location_note(error, location)
        raise error


def _may_require_grad(tensor: torch.Tensor) -> bool:
    """Whether `requires_grad_` accepts the tensor; an assignment can make integers require grad all the same."""
    return tensor.is_floating_point() or tensor.is_complex()


def _versions(shadows: list[torch.Tensor]) -> list[int]:
    return [0 if shadow.is_inference() else shadow._version for shadow in shadows]


def _mutable_state(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What an in-place call can change of a tensor, besides its values."""
    return (
        tensor._version, tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad, is_leaf(tensor),
        tensor.untyped_storage()._cdata,
    )  # fmt: skip


class _NeedsValuesError(Exception):
    """A fake kernel would need the values of a tensor."""


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
