"""Shadows: the tensors that a program sees while it is acquired.

A shadow is a plain meta tensor (shape, strides, dtype, no data) whose device and name in the trace are kept beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from thunder import _torch_compat
from thunder.acquire.symbols import Symbols
from thunder.acquire.values import Values
from thunder.errors import Location
from thunder.trace import Namer, Op, Var

CPU = torch.device("cpu")
META = torch.device("meta")
_PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, torch.Size, type(Ellipsis)})


class ShadowTable(TorchFunctionMode):
    """Names and devices of shadows, and the arguments of calls in terms of them.

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
        self.changed: list[Var] = []
        self.scope = ""
        self.makes_gradients = False  # whether a backward has been recorded
        self.level_depth = 0  # levels of torch.func that are entered
        self.namer = Namer()
        self._vars: dict[int, Var] = {}
        self._devices: dict[int, torch.device] = {}
        self._constants: dict[int, torch.Tensor] = {}
        self._metadata: dict[int, tuple[Any, ...]] = {}
        self._keep: list[Any] = []
        self._measured: dict[tuple[int, int], Any] = {}

    check_generator: Callable[[torch.Generator], None] = staticmethod(lambda generator: None)
    """Refuses a generator of random numbers that is no constant of the program."""

    # Values -----------------------------------------------------------------------------------------------------
    def new_var(self, shadow: torch.Tensor, device: torch.device, stem: str = "t", *, numbered: bool = True) -> Var:
        """Names a shadow for the first time."""
        name = self.namer.fresh(stem, numbered=numbered)
        if isinstance(shadow, FakeTensor):
            var = Var(name, shadow)
        elif self.level_depth and torch._C._functorch.is_functorch_wrapped_tensor(shadow):
            var = Var(name, self._fake_outside_of_levels(shadow, device))
        else:
            var = Var(name, make_value=lambda: self._fake(self._detached(shadow), shadow, device))
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

    @staticmethod
    def _detached(shadow: torch.Tensor) -> torch.Tensor:
        """The shadow without history; modes of whoever asks (lowering) do not see it."""
        with _torch_compat.without_dispatch_modes():
            return shadow.detach()

    def _fake_outside_of_levels(self, wrapped: torch.Tensor, device: torch.device) -> FakeTensor:
        """A fake tensor like one of a level of `torch.func`; the level ends before the program does."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            shape, stride = tuple(wrapped.shape), tuple(wrapped.stride())
            with torch._C._DisableFuncTorch():
                plain = torch.empty_strided(shape, stride, dtype=wrapped.dtype, device=META)
                return self._fake(plain, plain, device)

    # Arguments --------------------------------------------------------------------------------------------------
    def _argument(self, value: Any, found: list[torch.Tensor], key: list[Any]) -> tuple[Any, Any]:
        """(value to run with, value to write down) for one argument.

        Appends the shadows in it to `found`, and what the result's metadata can depend on to `key`.
        """
        kind = type(value)
        if kind in _PLAIN and (kind is not torch.Size or self.symbols is None):
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
            if self.symbols is not None or self.level_depth:
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
        if isinstance(value, (torch.SymInt, torch.SymFloat)) and self.symbols is not None:
            return value, self.symbols.written(value, self.ops.append, self.namer.fresh)
        if isinstance(value, torch.SymBool):
            value = bool(value)
            return value, value
        key.append(value)
        var = self._vars.get(id(value))
        if var is None and isinstance(value, torch.Generator):
            self.check_generator(value)
        return value, value if var is None else var

    def _describe(self, shadow: torch.Tensor) -> tuple[Any, ...]:
        """What a result's metadata can depend on."""
        with torch._C.DisableTorchFunction():
            return (
                shadow.shape, shadow.stride(), shadow.storage_offset(), shadow.dtype, self._devices[id(shadow)],
                shadow.requires_grad, is_leaf(shadow), shadow.is_conj(), shadow.is_neg(), self._constant_key(shadow),
            )  # fmt: skip

    def _constant_key(self, shadow: torch.Tensor) -> str | None:
        """The values of a constant that the program made, on which results may depend (an index)."""
        constant = self._constants.get(id(shadow))
        return None if constant is None else repr(constant.tolist())

    def _adopt(self, value: Any, device: torch.device | None) -> None:
        """Names every new tensor of a result; a fake tensor knows its device itself."""
        if isinstance(value, torch.Tensor):
            if id(value) not in self._vars:
                self.new_var(value, value.device if device is None else device)
        elif isinstance(value, (tuple, list)) and type(value) is not torch.Size:
            for item in value:
                self._adopt(item, device)

    def _new_shadow(self, specification: tuple[Any, ...]) -> torch.Tensor:
        """A fresh shadow: (shape, strides, dtype, device, requires_grad, is_leaf)."""
        shape, stride, dtype, device, requires_grad, leaf = specification
        with contextlib.nullcontext() if self.symbols is None else self.fake_mode:
            shadow = torch.empty_strided(shape, stride, dtype=dtype, device=META if self.symbols is None else device)
        if requires_grad:
            shadow.requires_grad_(True)
            if not leaf:
                # The cheapest way to a tensor that autograd takes for the result of a call.
                with torch.enable_grad():
                    shadow = torch._C._functions.DelayedError("thunder: acquisition has no gradients", 1)(shadow)
        self.new_var(shadow, device)
        return shadow


def is_leaf(tensor: torch.Tensor) -> bool:
    """Whether autograd takes the tensor for a leaf.

    PyTorch refuses to tell of a view that is out of date (one of several, whose base has been changed since).
    """
    try:
        return tensor.is_leaf
    except RuntimeError:
        return False
