"""Giving memory to models made on device "meta", while their weights are loaded.

`prepare_for_loading(model)` adds hooks: `model.load_state_dict(...)`, with `assign=True` or without, then makes each
parameter on the device of the tensor that is loaded into it.  Quantised layers do so by themselves, one after the
other.  Buffers that no state_dict has, such as frequencies of rotary embeddings, are computed again by the model's
own code (`_init_weights` of Hugging Face's models, `reset_parameters`, `reset_buffers` of others).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from thunder.errors import QuantizationError
from thunder.precision.layer import PARTS, QuantizedLinear


def prepare_for_loading(model: nn.Module) -> None:
    """Makes `model.load_state_dict` give memory to parameters and buffers on device "meta"."""
    for module in model.modules():
        own = [*module._parameters.values(), *module._buffers.values()]
        if any(tensor is not None and tensor.is_meta for tensor in own):
            module.register_load_state_dict_pre_hook(_give_memory)
    model.register_load_state_dict_post_hook(_give_memory_to_buffers)


def _give_memory(module: nn.Module, state_dict: Any, prefix: str, *_arguments: Any) -> None:
    """Before a module is loaded: memory for what is about to be loaded."""
    for name, parameter in module._parameters.items():
        value = state_dict.get(prefix + name)
        if parameter is not None and parameter.is_meta and value is not None and not value.is_meta:
            memory = torch.empty(parameter.shape, dtype=parameter.dtype, device=value.device)
            replace_parameter(module, name, parameter, memory)
    for name, buffer in module._buffers.items():
        value = state_dict.get(prefix + name)
        is_part = name in PARTS and isinstance(module, QuantizedLinear)
        if buffer is not None and buffer.is_meta and value is not None and not value.is_meta and not is_part:
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=value.device)


def replace_parameter(module: nn.Module, name: str, old: nn.Parameter, memory: torch.Tensor) -> None:
    """A parameter with memory in the place of one without; modules that share it find it in `old`'s attribute."""
    known = getattr(old, "_thunder_memory", None)
    if known is None or known.device != memory.device:
        known = nn.Parameter(memory, requires_grad=old.requires_grad)
        old._thunder_memory = known  # type: ignore[attr-defined]
    module._parameters[name] = known


def _give_memory_to_buffers(model: nn.Module, _incompatible: Any) -> None:
    """After loading: parameters tied to loaded ones, and buffers that only code can fill."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            known = getattr(parameter, "_thunder_memory", None) if parameter is not None and parameter.is_meta else None
            if known is not None:
                module._parameters[name] = known
    tie = getattr(model, "tie_weights", None)
    if callable(tie):
        tie()
    device = next((p.device for p in [*model.parameters(), *model.buffers()] if not p.is_meta), None)
    if device is not None:
        fill_buffers(model, device)


def fill_buffers(model: nn.Module, device: torch.device) -> None:
    """Computes again the buffers on device "meta" that are not part of a state_dict.

    Raises:
        QuantizationError: names the buffers that no code of the model fills.
    """
    unfilled = []
    for path, module in model.named_modules():
        names = [name for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta]
        names = [name for name in names if name in module._non_persistent_buffers_set]
        if not names:
            continue
        for name in names:
            module._buffers[name] = torch.zeros_like(module._buffers[name], device=device)
        if not _fill(model, module):
            unfilled += [f"{path}.{name}".lstrip(".") for name in names]
    if unfilled:
        raise QuantizationError(
            f"no code of {type(model).__name__} fills the buffers {', '.join(unfilled)}, made on device meta",
            remedy="make the model with these buffers on a real device, or give their modules reset_parameters()",
        )


def _fill(model: nn.Module, module: nn.Module) -> bool:
    """Lets the model's own code fill a module without parameters."""
    for method in ("reset_buffers", "reset_parameters"):
        reset = getattr(module, method, None)
        if callable(reset) and not module._parameters and not module._modules:
            reset()
            return True
    initialise = getattr(model, "_init_weights", None)
    if callable(initialise) and not module._parameters:
        with torch.no_grad():
            initialise(module)
        return True
    return False
