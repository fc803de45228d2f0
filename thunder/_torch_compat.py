"""Every private torch API that thunder uses, one function each, with the versions it was tested on.

Importing this module touches nothing private: an attribute that a version of torch lacks is missed
only by the function that needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.utils.checkpoint


def set_grad_enabled_statement() -> Callable[..., Any]:
    """`torch._C._set_grad_enabled(flag)`: how a `with torch.no_grad()` shows in a trace.  Tested: 2.13."""
    return torch._C._set_grad_enabled


def context_statements() -> dict[Callable[..., Any], Callable[[Any], Any]]:
    """Functions that enter a context and return it, with the function that leaves it.  Tested: 2.13.

    They are how `with torch.autocast(...)` and `with torch.inference_mode()` show in a trace.
    """
    return {
        torch.amp.autocast_mode._enter_autocast: torch.amp.autocast_mode._exit_autocast,
        torch.autograd.grad_mode._enter_inference_mode: torch.autograd.grad_mode._exit_inference_mode,
    }


def tensor_guards(tensors: list[torch.Tensor]) -> Callable[..., bool] | None:
    """A C++ function that checks class, dtype, device, requires_grad, sizes and strides of as many tensors at once,
    or None where torch has none.  Tested: 2.13."""
    guards = getattr(getattr(torch._C, "_dynamo", None), "guards", None)
    kind = getattr(guards, "TensorGuards", None)
    if kind is None or not tensors:
        return None
    sizes = [list(tensor.shape) for tensor in tensors]  # None in place of a number would leave it unchecked
    strides = [list(tensor.stride()) for tensor in tensors]
    check: Callable[..., bool] = kind(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check
    return check


def autocast_device_types() -> tuple[str, ...]:
    """Device types whose autocast state a program may depend on, on this machine.  Tested: 2.13."""
    accelerator = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else None
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)


def is_any_autocast_enabled() -> bool:
    """Whether autocast is on for any device type.  Tested: 2.13."""
    return torch._C._is_any_autocast_enabled()


def below_autograd() -> Any:
    """A context in which operators skip autograd and in-place bookkeeping.  Tested: 2.13."""
    return torch._C._AutoDispatchBelowADInplaceOrView()


def functional_tensor_mode() -> Any:
    """PyTorch's functionalisation as a dispatch mode, the one that AOTAutograd uses.  Tested: 2.13."""
    from torch._subclasses.functional_tensor import FunctionalTensorMode

    return FunctionalTensorMode()


def to_functional(tensor: torch.Tensor) -> torch.Tensor:
    """Wraps a tensor for `functional_tensor_mode`, which must be active.  Tested: 2.13."""
    from torch._subclasses.functional_tensor import FunctionalTensor

    return FunctionalTensor.to_functional(tensor)


def is_functional(value: Any) -> bool:
    """Whether the value is a tensor wrapped by `to_functional`.  Tested: 2.13."""
    from torch._subclasses.functional_tensor import FunctionalTensor

    return isinstance(value, FunctionalTensor)


def from_functional(tensor: Any) -> torch.Tensor:
    """The tensor beneath the wrapper, with every in-place change up to now applied.  Tested: 2.13."""
    torch._sync(tensor)
    return torch._from_functional_tensor(tensor.elem)


def has_data_mutation(tensor: Any) -> bool:
    """Whether the contents of the wrapped tensor were changed in place.  Tested: 2.13."""
    return torch._functionalize_has_data_mutation(tensor.elem)


def has_metadata_mutation(tensor: Any) -> bool:
    """Whether the wrapped tensor itself was given another shape, layout or storage.  Tested: 2.13."""
    return torch._functionalize_has_metadata_mutation(tensor.elem) or torch._functionalize_was_storage_changed(
        tensor.elem
    )


def storage_key(tensor: torch.Tensor) -> int:
    """A number that two tensors share when they share their storage, while they live.  Tested: 2.13."""
    return tensor.untyped_storage()._cdata


def recorder_mode_key() -> Any:
    """The place in the stack of dispatch modes between functionalisation and fake tensors.  Tested: 2.13."""
    return torch._C._TorchDispatchModeKey.PROXY


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether the tensor is a fake tensor.  Tested: 2.13."""
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)


def checkpoint_function() -> Callable[..., Any]:
    """`torch.utils.checkpoint.checkpoint`, which a trace calls with a region.  Tested: 2.13."""
    return torch.utils.checkpoint.checkpoint


def has_kernel(overload: Any) -> bool:
    """Whether the overload is an operator of the dispatcher, with kernels (`prim.device` is not).  Tested: 2.13."""
    return torch._C._dispatch_has_kernel(overload.name())
