"""Products of quantised matrices: `torch._scaled_mm` where the device has it, by capability.

    out[m, n] = sum_k a[m, k] * b[n, k],    a, b quantised along k

| way | formats | device |
|---|---|---|
| "rowwise" | e4m3 with a float32 for each row | Hopper and newer (8.9 with tensorwise scales only) |
| "tensorwise" | e4m3 and e5m2 with one float32 | capability 8.9 and newer |
| "emulated" | all | any: both sides are dequantised and multiplied in 16 or 32 bits |
"""

from __future__ import annotations

import functools

import torch

from thunder import _torch_compat
from thunder.precision.formats import Format, Quantized

_FLOAT8 = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


@functools.cache
def capability(device: torch.device) -> int:
    """90 for Hopper; 0 for anything but CUDA."""
    return _torch_compat.cuda_architecture(device) if device.type == "cuda" and torch.version.cuda else 0


def way_for(device: torch.device, first: Format, second: Format, shape: tuple[int, int], dtype: torch.dtype) -> str:
    """How the product with a weight of this shape [N, K] is computed: a row of the table above."""
    has_float8 = first.element in _FLOAT8 and second.element in _FLOAT8 and capability(device) >= 89
    if not has_float8 or shape[0] % 16 or shape[1] % 16 or dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return "emulated"
    if first.element == second.element == "e5m2" or first.scale != "float32" or second.scale != "float32":
        return "emulated"
    blocks = {(format.rows, format.columns) for format in (first, second)}
    if blocks == {(0, 0)}:
        return "tensorwise"
    if blocks == {(1, 0)} and capability(device) >= 90 and dtype is torch.bfloat16:
        return "rowwise"
    return "emulated"


def scaled_product(
    way: str, a: Quantized, codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype, element: str = "e4m3"
) -> torch.Tensor:
    """The product [M, N] of `a` [M, K] with the weight of these codes [N, K] and scales, on the device."""
    return _torch_compat.scaled_mm(
        a.codes.view(_FLOAT8[a.format.element]),
        codes.view(_FLOAT8[element]).t(),
        a.scales if way == "rowwise" else a.scales.view(()),
        scales.t() if way == "rowwise" else scales.view(()),
        dtype,
    )


def describe_way(way: str, format: Format, device: torch.device) -> str:
    """One line for `compile_stats().notes`."""
    where = f"{device.type} {capability(device) / 10:.1f}" if capability(device) else device.type
    if way == "emulated":
        return f"{format}: no product of this format on {where}; both sides are dequantised"
    return f"{format}: torch._scaled_mm with {way} scales on {where}"
