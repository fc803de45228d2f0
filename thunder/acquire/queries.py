"""Torch calls that ask: for metadata (answered at once, not recorded) or for values (impossible while acquiring)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_PROPERTIES = (
    "shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_leaf", "is_sparse", "is_sparse_csr",
    "is_quantized", "is_meta", "is_nested", "is_cuda", "is_cpu", "is_mps", "is_xla", "is_xpu", "is_ipu",
    "is_maia", "is_vulkan", "is_mkldnn", "is_mtia", "itemsize", "nbytes", "name", "names", "volatile",
    "output_nr", "_version", "grad_fn", "_base", "_backward_hooks", "_post_accumulate_grad_hooks", "_grad_fn",
)  # fmt: skip
_METHODS = (
    "size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "is_contiguous", "element_size",
    "is_floating_point", "is_complex", "is_signed", "is_inference", "is_conj", "is_neg", "is_shared", "is_pinned",
    "get_device", "__len__", "is_same_size", "is_set_to", "has_names", "dim_order", "_is_view",
    "is_coalesced", "sparse_dim", "dense_dim", "__hash__", "_is_zerotensor", "is_distributed", "__dir__",
)  # fmt: skip
_FUNCTIONS = (
    "is_floating_point", "is_complex", "is_signed", "is_inference", "is_conj", "is_neg", "numel", "is_same_size",
    "result_type", "promote_types", "can_cast", "is_tensor", "is_storage", "broadcast_shapes",
)  # fmt: skip


def _getter(name: str) -> Any:
    return getattr(getattr(torch.Tensor, name, None), "__get__", None)


def _collect() -> frozenset[Any]:
    found = [_getter(name) for name in _PROPERTIES]
    found += [getattr(torch.Tensor, name, None) for name in _METHODS]
    found += [getattr(torch, name, None) for name in _FUNCTIONS]
    return frozenset(query for query in found if query is not None)


QUERIES = _collect()
"""Calls answered from metadata."""

DEVICE_QUERIES: dict[Any, Callable[[torch.device], Any]] = {
    _getter("device"): lambda device: device,
    torch.Tensor.get_device: lambda device: device.index if device.index is not None else -1,
}
"""Queries about the device, which the shadow itself does not know."""


def _add_device_kinds() -> None:
    def asks_for(kind: str) -> Callable[[torch.device], bool]:
        return lambda device: device.type == kind

    for kind in ("cuda", "cpu", "meta", "mps", "xla", "xpu"):
        DEVICE_QUERIES[_getter(f"is_{kind}")] = asks_for(kind)


_add_device_kinds()

BREAK_REMEDY = "or let such calls run in plain Python: thunder.jit(..., on_break='eager')"
_OUTSIDE = "return the tensor and do this outside of the compiled function"
_ARITHMETIC = "use torch.where (or torch.cond), or decide on shapes instead of values"

VALUE_READS: dict[str, tuple[bool, str]] = {
    "__bool__": (True, _ARITHMETIC),
    "is_nonzero": (True, _ARITHMETIC),
    "item": (True, "keep the number in a tensor, or compute it outside"),
    "__int__": (True, "keep the number in a tensor, or compute it outside"),
    "__float__": (True, "keep the number in a tensor, or compute it outside"),
    "__index__": (True, "index with the tensor itself, or compute the number outside"),
    "__complex__": (True, "keep the number in a tensor, or compute it outside"),
    "tolist": (True, _OUTSIDE),
    "numpy": (True, _OUTSIDE),
    "__array__": (True, _OUTSIDE),
    "__repr__": (True, "print its shape, or " + _OUTSIDE),
    "__str__": (True, "print its shape, or " + _OUTSIDE),
    "__format__": (True, "print its shape, or " + _OUTSIDE),
    "print": (True, "print its shape, or return the tensor and print it outside"),
    "__contains__": (True, "use (tensor == value).any() in tensor arithmetic"),
    "__reversed__": (False, "use torch.flip"),
    "data_ptr": (True, "take addresses outside of the compiled function"),
    "equal": (True, "use (a == b).all() in tensor arithmetic"),
    "allclose": (True, "use torch.isclose(a, b).all() in tensor arithmetic"),
    "nonzero": (False, "use torch.where with three arguments: the size of this result depends on values"),
    "argwhere": (False, "use torch.where with three arguments: the size of this result depends on values"),
    "unique": (False, "compute it outside: the size of this result depends on values"),
    "masked_select": (False, "use torch.where: the size of this result depends on values"),
    "__getitem__": (
        False,
        "index with integers, or use torch.where: the size of this result depends on values",
    ),
}
"""Calls that read values: (always an error on a shadow, what to do instead)."""


def call_name(func: Any) -> str:
    """The name of a torch callable; for the getter of a property, the property's name."""
    name = getattr(func, "__name__", None) or type(func).__name__
    if name == "__get__":
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name
