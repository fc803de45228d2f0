"""The gate of an MLP: an activation times a second projection.

    out       = act(gate) * up
    grad_gate = grad * up * act'(gate)    grad_up = grad * act(gate)

    gate, up, out, grad: [..., N]

act is silu, x / (1 + exp(-x)); gelu, x * (1 + erf(x / sqrt(2))) / 2; or gelu_tanh, its approximation.  Arithmetic is in
float32.  gate and up may be two halves of one product: rows need not lie behind one another.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.nn import functional as F

from thunder.kernels.activation import ACTIVATIONS, activate
from thunder.kernels.launch import as_rows, empty_contiguous, runs_triton
from thunder.kernels.machine_code import launch_kernel
from thunder.kernels.registry import register_library_kernel

BLOCK = 1024


@triton.jit
def _slope(x, ACTIVATION: tl.constexpr):
    """The derivative of the activation."""
    if ACTIVATION == "silu":
        sigmoid = 1.0 / (1.0 + tl.exp(-x))
        slope = sigmoid * (1.0 + x * (1.0 - sigmoid))
    elif ACTIVATION == "gelu":
        cumulative = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
        slope = cumulative + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    else:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        sigmoid = 1.0 / (1.0 + tl.exp(-2.0 * inner))
        slope = sigmoid + 2.0 * x * sigmoid * (1.0 - sigmoid) * 0.7978845608028654 * (1.0 + 3 * 0.044715 * x * x)
    return slope


@triton.jit
def _gated_kernel(gate_ptr, up_ptr, out_ptr, N, gate_stride, up_stride, BLOCK: tl.constexpr, ACTIVATION: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    gate = tl.load(gate_ptr + row * gate_stride + n, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + n, mask=mask, other=0.0).to(tl.float32)
    out = activate(gate, ACTIVATION) * up
    tl.store(out_ptr + row * N + n, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _gated_backward_kernel(
    grad_ptr, gate_ptr, up_ptr, grad_gate_ptr, grad_up_ptr, N, grad_stride, gate_stride, up_stride,
    BLOCK: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    grad = tl.load(grad_ptr + row * grad_stride + n, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + row * gate_stride + n, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + n, mask=mask, other=0.0).to(tl.float32)
    grad_gate = grad * up * _slope(gate, ACTIVATION)
    grad_up = grad * activate(gate, ACTIVATION)
    tl.store(grad_gate_ptr + row * N + n, grad_gate.to(grad_gate_ptr.dtype.element_ty), mask=mask)
    tl.store(grad_up_ptr + row * N + n, grad_up.to(grad_up_ptr.dtype.element_ty), mask=mask)


def _launch(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    gates, ups, out = as_rows(gate), as_rows(up), empty_contiguous(gate, gate.shape)
    rows, size = gates.shape
    if gate.numel():
        launch_kernel(
            _gated_kernel,
            (rows, triton.cdiv(size, BLOCK)),
            gates,
            ups,
            out,
            size,
            gates.stride(0),
            ups.stride(0),
            BLOCK=BLOCK,
            ACTIVATION=activation,
            num_warps=4,
        )
    return out


def _launch_backward(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    grads, gates, ups = as_rows(grad), as_rows(gate), as_rows(up)
    grad_gate, grad_up = empty_contiguous(gate, gate.shape), empty_contiguous(up, up.shape)
    rows, size = gates.shape
    if gate.numel():
        launch_kernel(_gated_backward_kernel, (rows, triton.cdiv(size, BLOCK)),
            grads, gates, ups, grad_gate, grad_up, size, grads.stride(0), gates.stride(0), ups.stride(0),
            BLOCK=BLOCK, ACTIVATION=activation, num_warps=4,
        )  # fmt: skip
    return grad_gate, grad_up


@torch.library.custom_op("thunder::gated_activation", mutates_args=())
def gated_activation(gate: torch.Tensor, up: torch.Tensor, activation: str = "silu") -> torch.Tensor:
    """act(gate) * up."""
    return _launch(gate, up, activation) if runs_triton(gate) else gated_reference(gate, up, activation)


@torch.library.custom_op("thunder::gated_activation_backward", mutates_args=())
def gated_activation_backward(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of gate and up."""
    if runs_triton(gate):
        return _launch_backward(grad, gate, up, activation)
    return gated_backward_reference(grad, gate, up, activation)


@gated_activation.register_fake
def _(gate, up, activation="silu"):
    return gate.new_empty(gate.shape)


@gated_activation_backward.register_fake
def _(grad, gate, up, activation):
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


def _save(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, str], output: torch.Tensor) -> None:
    gate, up, ctx.activation = inputs
    ctx.save_for_backward(gate, up)


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    return (*torch.ops.thunder.gated_activation_backward(grad, *ctx.saved_tensors, ctx.activation), None)


gated_activation.register_autograd(_differentiate, setup_context=_save)


def gated_reference(gate: torch.Tensor, up: torch.Tensor, activation: str = "silu") -> torch.Tensor:
    """`gated_activation` in plain PyTorch, in float32 or, for float64 arguments, in float64."""
    wide = torch.promote_types(gate.dtype, torch.float32)
    return (ACTIVATIONS[activation](gate.to(wide)) * up.to(wide)).to(gate.dtype).contiguous()


def gated_backward_reference(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """`gated_activation_backward` in plain PyTorch."""
    wide = torch.promote_types(gate.dtype, torch.float32)
    x = gate.to(wide)
    upstream = grad.to(wide) * up.to(wide)
    if activation == "silu":
        grad_gate = torch.ops.aten.silu_backward(upstream, x)
    else:
        grad_gate = torch.ops.aten.gelu_backward(
            upstream, x, approximate="tanh" if activation == "gelu_tanh" else "none"
        )
    grad_up = grad.to(wide) * ACTIVATIONS[activation](x)
    return grad_gate.to(gate.dtype).contiguous(), grad_up.to(up.dtype).contiguous()


def _check(gate: Any, up: Any) -> bool:
    return (
        all(isinstance(value, torch.Tensor) and value.is_floating_point() for value in (gate, up))
        and gate.dim() >= 1
        and gate.shape == up.shape
        and gate.dtype == up.dtype
        and 0 < gate.shape[-1] <= 65535 * BLOCK
    )


def _silu(gate, up):
    return F.silu(gate) * up


def _gelu(gate, up):
    return F.gelu(gate) * up


def _gelu_tanh(gate, up):
    return F.gelu(gate, approximate="tanh") * up


for _name, _pattern in (("silu", _silu), ("gelu", _gelu), ("gelu_tanh", _gelu_tanh)):
    register_library_kernel(
        f"gated_{_name}",
        [_pattern],
        torch.ops.thunder.gated_activation.default,
        check=_check,
        arguments=lambda gate, up, activation=_name: (gate, up, activation),
        is_fusible=True,
    )
