"""Rotary position embedding.

    out[..., i]     = x[..., i] * cos[..., i] - x[..., i + h] * sin[..., i]
    out[..., i + h] = x[..., i + h] * cos[..., i + h] + x[..., i] * sin[..., i + h]        for i < h = D / 2

    x, out: [B, H, S, D]    cos, sin: [B or 1, 1, S, D], of any floating point type

`rope_into_cache` rotates queries and keys, and writes keys and values to their places in a cache:

    keys[:, :, index[s]] = rope(k)[:, :, s]    values[:, :, index[s]] = v[:, :, s]    out = rope(q)

    q, out: [B, H, S, D]    k, v: [B, G, S, D]    keys, values: [B, G, L, D]    index: int64 [S]

Arithmetic is in float32.  A program handles one token and several of its heads, which share cos and sin.  The
gradient is the rotation backwards:

    grad_x[..., i]     = grad[..., i] * cos[..., i] + grad[..., i + h] * sin[..., i + h]
    grad_x[..., i + h] = grad[..., i + h] * cos[..., i + h] - grad[..., i] * sin[..., i]

cos and sin have none.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from thunder.kernels.launch import begins_early, runs_triton
from thunder.kernels.machine_code import launch_kernel
from thunder.kernels.registry import register_library_kernel

LARGEST_HEAD = 512


@triton.jit
def _rotate(first, second, cos_ptr, sin_ptr, i, mask, HALF: tl.constexpr, BACKWARD: tl.constexpr):
    """The two halves, rotated; cos and sin are those of the token."""
    cos_first = tl.load(cos_ptr + i, mask=mask, other=0.0).to(tl.float32)
    cos_second = tl.load(cos_ptr + HALF + i, mask=mask, other=0.0).to(tl.float32)
    sin_first = tl.load(sin_ptr + i, mask=mask, other=0.0).to(tl.float32)
    sin_second = tl.load(sin_ptr + HALF + i, mask=mask, other=0.0).to(tl.float32)
    if BACKWARD:
        out_first = first * cos_first + second * sin_second
        out_second = second * cos_second - first * sin_first
    else:
        out_first = first * cos_first - second * sin_first
        out_second = second * cos_second + first * sin_second
    return out_first, out_second


@triton.jit
def _rope_kernel(
    x_ptr, cos_ptr, sin_ptr, out_ptr, S, H,
    x_b, x_h, x_s, out_b, out_h, out_s, cos_b, cos_s, sin_b, sin_s,
    HALF: tl.constexpr, BLOCK: tl.constexpr, BLOCK_H: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // S).to(tl.int64)
    s = (tl.program_id(0) % S).to(tl.int64)
    h = (tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H))[:, None]
    i = tl.arange(0, BLOCK)[None, :]
    mask = (h < H) & (i < HALF)
    place = x_ptr + b * x_b + h * x_h + s * x_s + i
    first = tl.load(place, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(place + HALF, mask=mask, other=0.0).to(tl.float32)
    cos, sin = cos_ptr + b * cos_b + s * cos_s, sin_ptr + b * sin_b + s * sin_s
    first, second = _rotate(first, second, cos, sin, i, i < HALF, HALF, BACKWARD)
    place = out_ptr + b * out_b + h * out_h + s * out_s + i
    tl.store(place, first.to(out_ptr.dtype.element_ty), mask=mask)
    tl.store(place + HALF, second.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _rope_into_cache_kernel(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, keys_ptr, values_ptr, index_ptr, out_ptr, S, H, G,
    q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s, cos_b, cos_s, sin_b, sin_s,
    keys_b, keys_h, keys_l, values_b, values_h, values_l, out_b, out_h, out_s,
    HALF: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    b = (tl.program_id(0) // S).to(tl.int64)
    s = (tl.program_id(0) % S).to(tl.int64)
    head = tl.program_id(1)
    i = tl.arange(0, BLOCK)
    mask = i < HALF
    slot = tl.load(index_ptr + s)
    # The heads of q come first, then those of k, then those of v.
    if head < H:
        source = q_ptr + b * q_b + head * q_h + s * q_s
        target = out_ptr + b * out_b + head * out_h + s * out_s
    elif head < H + G:
        source = k_ptr + b * k_b + (head - H) * k_h + s * k_s
        target = keys_ptr + b * keys_b + (head - H) * keys_h + slot * keys_l
    else:
        source = v_ptr + b * v_b + (head - H - G) * v_h + s * v_s
        target = values_ptr + b * values_b + (head - H - G) * values_h + slot * values_l
    first = tl.load(source + i, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(source + HALF + i, mask=mask, other=0.0).to(tl.float32)
    if head < H + G:
        cos, sin = cos_ptr + b * cos_b + s * cos_s, sin_ptr + b * sin_b + s * sin_s
        first, second = _rotate(first, second, cos, sin, i, mask, HALF, False)
    tl.store(target + i, first.to(out_ptr.dtype.element_ty), mask=mask)
    tl.store(target + HALF + i, second.to(out_ptr.dtype.element_ty), mask=mask)


def _table_strides(table: torch.Tensor) -> tuple[int, int]:
    """Strides of cos or sin along batch and sequence; a table of one sequence serves the whole batch."""
    return (table.stride(0) if table.shape[0] > 1 else 0), (table.stride(2) if table.shape[2] > 1 else 0)


def _side_by_side(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _empty_out(x: torch.Tensor) -> torch.Tensor:
    """The memory of the rotated x: laid out as x is where the numbers of a head lie side by side, else contiguous."""
    out = torch.empty_like(x)
    return out if out.stride(-1) == 1 else x.new_empty(x.shape)


def _launch(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, backward: bool) -> torch.Tensor:
    out = _empty_out(x)
    x, cos, sin = _side_by_side(x), _side_by_side(cos), _side_by_side(sin)
    batch, heads, length, size = x.shape
    half = size // 2
    block = triton.next_power_of_2(half)
    block_h = min(triton.next_power_of_2(heads), max(1, 2048 // block))
    if x.numel():
        launch_kernel(_rope_kernel, (batch * length, triton.cdiv(heads, block_h)),
            x, cos, sin, out, length, heads, x.stride(0), x.stride(1), x.stride(2),
            out.stride(0), out.stride(1), out.stride(2), *_table_strides(cos), *_table_strides(sin),
            HALF=half, BLOCK=block, BLOCK_H=block_h, BACKWARD=backward, num_warps=4 if block * block_h >= 1024 else 2,
        )  # fmt: skip
    return out


def _launch_into_cache(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    index: torch.Tensor,
    *,
    early: bool = True,
) -> torch.Tensor:
    """`early`: begin while the kernel before is running, and let the next begin (from Hopper on; 16-bit types)."""
    early = early and q.element_size() == 2 and begins_early(q.device)
    q, k, v, cos, sin = map(_side_by_side, (q, k, v, cos, sin))
    batch, heads, length, size = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    launch_kernel(_rope_into_cache_kernel, (batch * length, heads + 2 * k.shape[1]),
        q, k, v, cos, sin, keys, values, index, out, length, heads, k.shape[1],
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *_table_strides(cos), *_table_strides(sin),
        *keys.stride()[:3], *values.stride()[:3], *out.stride()[:3],
        HALF=size // 2, BLOCK=triton.next_power_of_2(size // 2), EARLY=early, num_warps=1,
        launch_pdl=early,
    )  # fmt: skip
    return out


@torch.library.custom_op("thunder::rope", mutates_args=())
def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x rotated by the positions' angles."""
    return _launch(x, cos, sin, backward=False) if runs_triton(x) else rope_reference(x, cos, sin)


@torch.library.custom_op("thunder::rope_backward", mutates_args=())
def rope_backward(grad: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The gradient of x."""
    return _launch(grad, cos, sin, backward=True) if runs_triton(grad) else rope_backward_reference(grad, cos, sin)


@torch.library.custom_op("thunder::rope_into_cache", mutates_args=("keys", "values"))
def rope_into_cache(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    index: torch.Tensor,
) -> torch.Tensor:
    """Rotates q and k, writes k and v into the cache; see the module's docstring."""
    if runs_triton(q):
        return _launch_into_cache(q, k, v, cos, sin, keys, values, index)
    return rope_into_cache_reference(q, k, v, cos, sin, keys, values, index)


@rope.register_fake
@rope_backward.register_fake
def _(x, cos, sin):
    return _empty_out(x)


@rope_into_cache.register_fake
def _(q, k, v, cos, sin, keys, values, index):
    return q.new_empty(q.shape)


ROPE = torch.ops.thunder.rope.default
ROPE_INTO_CACHE = torch.ops.thunder.rope_into_cache.default


def _save(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
    return torch.ops.thunder.rope_backward(grad, *ctx.saved_tensors), None, None


rope.register_autograd(_differentiate, setup_context=_save)


def _rotate_half(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def _like(out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The values of `out` in the type and layout in which the kernel returns them."""
    return _empty_out(x).copy_(out)


def rope_reference(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`rope` in plain PyTorch, in float32 or, for float64 arguments, in float64."""
    wide = torch.promote_types(x.dtype, torch.float32)
    h = x.to(wide)
    out = h * cos.to(wide) + _rotate_half(h) * sin.to(wide)
    return out if out.requires_grad else _like(out, x)


def rope_backward_reference(grad: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`rope_backward` in plain PyTorch."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    g = grad.to(wide)
    return _like(g * cos.to(wide) - _rotate_half(g * sin.to(wide)), grad)


def rope_into_cache_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    index: torch.Tensor,
) -> torch.Tensor:
    """`rope_into_cache` in plain PyTorch."""
    keys.index_copy_(2, index, rope_reference(k, cos, sin).to(keys.dtype))
    values.index_copy_(2, index, v)
    return rope_reference(q, cos, sin).contiguous()


def is_supported(x: Any, cos: Any, sin: Any) -> bool:
    """Whether the kernel takes these."""
    if not all(isinstance(tensor, torch.Tensor) and tensor.dim() == 4 for tensor in (x, cos, sin)):
        return False
    batch, _, length, size = x.shape
    tables = ((batch, 1, length, size), (1, 1, length, size))
    return (
        x.is_floating_point()
        and size % 2 == 0
        and 2 <= size <= LARGEST_HEAD
        and tuple(cos.shape) in tables
        and tuple(sin.shape) in tables
        and cos.is_floating_point()
        and not (cos.requires_grad or sin.requires_grad)
    )


def _check(x: Any, cos: Any, sin: Any, half: Any, dtype: Any = None) -> bool:
    return is_supported(x, cos, sin) and half == x.shape[-1] // 2 and dtype in (None, x.dtype)


def _hugging_face(x, cos, sin, half):
    rotated = torch.cat((-x[..., slice(half, None)], x[..., slice(None, half)]), dim=-1)
    return x * cos + rotated * sin


def _litgpt(x, cos, sin, half, dtype):
    return _hugging_face(x, cos, sin, half).to(dtype)


register_library_kernel(
    "rope",
    [_litgpt, _hugging_face],
    ROPE,
    check=_check,
    arguments=lambda x, cos, sin, **_: (x, cos, sin),
    is_fusible=True,
)
