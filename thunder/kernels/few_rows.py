"""Linear layers on 2 to 16 rows in training: up to three of one input at once, with their gradients.

    outs[i][m, n]         = biases[i][n] + sum_k x[m, k] * weights[i][n, k]
    grad_x[m, k]          = sum_i sum_n grads[i][m, n] * weights[i][n, k]
    grad_weights[i][n, k] = sum_m grads[i][m, n] * x[m, k]

    x, grad_x: [..., K] with M rows    weights, grad_weights: [N_i, K]    biases: [N_i]    outs, grads: [..., N_i]

Every weight is read once, every gradient of a weight written once: that is the time which these take.  Products are
added up in float32, in a fixed order.  Where the sum over n is long it is divided among programs, whose sums a second
kernel adds up.  An operation takes and returns three of each; those that are not there are None, or empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
import triton
import triton.language as tl
from torch.nn import functional as F

from thunder.kernels import skinny
from thunder.kernels.launch import (
    as_rows,
    begins_early,
    empty_contiguous,
    is_interpreted,
    multiprocessor_count,
    rows_of,
    runs_triton,
)
from thunder.kernels.machine_code import launch_kernel

MOST_ROWS = 16
MOST_LAYERS = 3
LARGEST_SMALL = 1 << 22  # elements of weights that are read in no more time than a kernel takes to begin


@triton.jit
def _chosen(number, first, second, third):
    """The value of layer `number`."""
    return tl.where(number == 0, first, tl.where(number == 1, second, third))


@triton.jit
def _outputs_kernel(
    x_ptr, weight_0, weight_1, weight_2, bias_0, bias_1, bias_2, out_0, out_1, out_2, rows, x_stride,
    N_0: tl.constexpr, N_1: tl.constexpr, N_2: tl.constexpr, STRIDE_0: tl.constexpr, STRIDE_1: tl.constexpr,
    STRIDE_2: tl.constexpr, K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
    EVEN: tl.constexpr, HAS_BIAS: tl.constexpr, EARLY: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    FIRST: tl.constexpr = (N_0 + BLOCK_N - 1) // BLOCK_N
    SECOND: tl.constexpr = FIRST + (N_1 + BLOCK_N - 1) // BLOCK_N
    block = tl.program_id(0)
    layer = (block >= FIRST).to(tl.int32) + (block >= SECOND).to(tl.int32)
    weight_ptr = _chosen(layer, weight_0, weight_1, weight_2)
    out_ptr = _chosen(layer, out_0, out_1, out_2)
    N = _chosen(layer, N_0, N_1, N_2)
    stride = _chosen(layer, STRIDE_0, STRIDE_1, STRIDE_2)
    n = (block - _chosen(layer, 0, FIRST, SECOND)) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.arange(0, 16)
    k_block = tl.arange(0, BLOCK_K)
    columns = weight_ptr + n.to(tl.int64)[None, :] * stride
    x_rows = x_ptr + m[:, None] * x_stride
    total = tl.zeros([16, BLOCK_N], tl.float32)
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        k = start + k_block
        if EVEN:
            x = tl.load(x_rows + k[None, :], mask=(m < rows)[:, None], other=0.0)
            weight = tl.load(columns + k[:, None], eviction_policy="evict_first")
        else:
            x = tl.load(x_rows + k[None, :], mask=(m < rows)[:, None] & (k < K)[None, :], other=0.0)
            weight = tl.load(columns + k[:, None], mask=(n < N)[None, :] & (k < K)[:, None], other=0.0)
        if WIDE:
            total += tl.dot(x.to(tl.float32), weight.to(tl.float32), input_precision="ieee")
        else:
            total = tl.dot(x, weight, total, input_precision="ieee")
    if HAS_BIAS:
        bias_ptr = _chosen(layer, bias_0, bias_1, bias_2)
        total += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    mask = (m < rows)[:, None] & (n < N)[None, :]
    tl.store(out_ptr + m[:, None] * N + n[None, :], total.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _input_gradient_kernel(
    grad_0, grad_1, grad_2, weight_0, weight_1, weight_2, out_ptr, rows, grad_stride_0, grad_stride_1, grad_stride_2,
    N_0: tl.constexpr, N_1: tl.constexpr, N_2: tl.constexpr, STRIDE_0: tl.constexpr, STRIDE_1: tl.constexpr,
    STRIDE_2: tl.constexpr, K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SHARE: tl.constexpr,
    STAGES: tl.constexpr, EVEN: tl.constexpr, EARLY: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    # A program adds up SHARE rows of one weight, for BLOCK_K of its columns.
    FIRST: tl.constexpr = (N_0 + SHARE - 1) // SHARE
    SECOND: tl.constexpr = FIRST + (N_1 + SHARE - 1) // SHARE
    share = tl.program_id(1)
    layer = (share >= FIRST).to(tl.int32) + (share >= SECOND).to(tl.int32)
    weight_ptr = _chosen(layer, weight_0, weight_1, weight_2)
    grad_ptr = _chosen(layer, grad_0, grad_1, grad_2)
    grad_stride = _chosen(layer, grad_stride_0, grad_stride_1, grad_stride_2)
    N = _chosen(layer, N_0, N_1, N_2)
    stride = _chosen(layer, STRIDE_0, STRIDE_1, STRIDE_2)
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    m = tl.arange(0, 16)
    n_block = tl.arange(0, BLOCK_N)
    begin = (share - _chosen(layer, 0, FIRST, SECOND)) * SHARE
    end = tl.minimum(begin + SHARE, N)
    grad_rows = grad_ptr + m[:, None] * grad_stride
    columns = weight_ptr + k[None, :]
    total = tl.zeros([16, BLOCK_K], tl.float32)
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    for start in tl.range(begin, end, BLOCK_N, num_stages=STAGES):
        n = start + n_block
        place = columns + n.to(tl.int64)[:, None] * stride
        if EVEN:
            grad = tl.load(grad_rows + n[None, :], mask=(m < rows)[:, None], other=0.0)
            weight = tl.load(place, eviction_policy="evict_first")
        else:
            grad = tl.load(grad_rows + n[None, :], mask=(m < rows)[:, None] & (n < end)[None, :], other=0.0)
            weight = tl.load(place, mask=(n < end)[:, None] & (k < K)[None, :], other=0.0)
        if WIDE:
            total += tl.dot(grad.to(tl.float32), weight.to(tl.float32), input_precision="ieee")
        else:
            total = tl.dot(grad, weight, total, input_precision="ieee")
    out = out_ptr + (share * rows + m[:, None]) * K + k[None, :]
    tl.store(out, total.to(out_ptr.dtype.element_ty), mask=(m < rows)[:, None] & (k < K)[None, :])


@triton.jit
def _sum_of_shares_kernel(parts_ptr, out_ptr, size, SHARES: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    for share in tl.static_range(SHARES):
        total += tl.load(parts_ptr + share * size + place, mask=place < size, other=0.0)
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=place < size)


@triton.jit
def _weight_gradients_kernel(
    x_ptr, grad_0, grad_1, grad_2, out_0, out_1, out_2, rows, x_stride, grad_stride_0, grad_stride_1, grad_stride_2,
    N_0: tl.constexpr, N_1: tl.constexpr, N_2: tl.constexpr, K: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, EVEN: tl.constexpr, EARLY: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    FIRST: tl.constexpr = (N_0 + BLOCK_N - 1) // BLOCK_N
    SECOND: tl.constexpr = FIRST + (N_1 + BLOCK_N - 1) // BLOCK_N
    block = tl.program_id(1)
    layer = (block >= FIRST).to(tl.int32) + (block >= SECOND).to(tl.int32)
    grad_ptr = _chosen(layer, grad_0, grad_1, grad_2)
    grad_stride = _chosen(layer, grad_stride_0, grad_stride_1, grad_stride_2)
    out_ptr = _chosen(layer, out_0, out_1, out_2)
    N = _chosen(layer, N_0, N_1, N_2)
    n = (block - _chosen(layer, 0, FIRST, SECOND)) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    m = tl.arange(0, 16)
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    here = (m < rows)[:, None]
    grad = tl.load(grad_ptr + m[:, None] * grad_stride + n[None, :], mask=here & (n < N)[None, :], other=0.0)
    x = tl.load(x_ptr + m[:, None] * x_stride + k[None, :], mask=here & (k < K)[None, :], other=0.0)
    if WIDE:
        grad, x = grad.to(tl.float32), x.to(tl.float32)
    product = tl.dot(tl.trans(grad), x, input_precision="ieee").to(out_ptr.dtype.element_ty)
    out = out_ptr + n.to(tl.int64)[:, None] * K + k[None, :]
    if EVEN:
        tl.store(out, product)
    else:
        tl.store(out, product, mask=(n < N)[:, None] & (k < K)[None, :])


@dataclass(frozen=True)
class Plan:
    """How a launch is divided into programs.

    Attributes:
        block_n, block_k, warps, stages: of a program; as many blocks less one are on their way while one is used.
        programs: for the gradient of the input, how many a multiprocessor there are to be, about.
    """

    block_n: int
    block_k: int
    warps: int
    stages: int = 1
    programs: float = 2.0


EARLY = True


def outputs_plan(n: int, k: int, device: torch.device) -> skinny.SkinnyPlan:
    """What was fastest on an H100 for the layers of a model of 1.5 billion parameters, as are the plans below."""
    if k > 2048 or not skinny.has_room(device):
        return skinny.choose_plan(n, k, device, gated=False)
    return skinny.SkinnyPlan(16, 256, 2, 4) if n <= 4096 else skinny.SkinnyPlan(32, 128, 4, 6)


def input_gradient_plan(n: int, k: int) -> Plan:
    return Plan(64, 64, 4, 6, programs=4.0) if n * k <= LARGEST_SMALL else Plan(128, 64, 4, 4, programs=1.0)


def weight_gradients_plan(k: int) -> Plan:
    return Plan(128, 64, 4) if k <= 2048 else Plan(64, 128, 4)


def _three(tensors: Sequence[torch.Tensor], other: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Three tensors for a launch, which uses as many as there are."""
    return (*tensors, *[other] * (MOST_LAYERS - len(tensors)))


def _sizes(name: str, sizes: Sequence[int]) -> dict[str, int]:
    return {f"{name}_{i}": sizes[i] if i < len(sizes) else 0 for i in range(MOST_LAYERS)}


def _begins_early(device: torch.device) -> bool:
    return EARLY and begins_early(device)


def _launch_outputs(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    plan: skinny.SkinnyPlan | None = None,
) -> list[torch.Tensor]:
    sizes, k = [weight.shape[0] for weight in weights], x.shape[1]
    plan = plan or outputs_plan(sum(sizes), k, x.device)
    outs = [empty_contiguous(x, (x.shape[0], n)) for n in sizes]
    if len(weights) == 1:
        return [skinny.launch(x, weights[0], None, biases[0] if biases else None, None, "none", outs[0], plan)]
    early = _begins_early(x.device)
    launch_kernel(_outputs_kernel, (sum(triton.cdiv(n, plan.block_n) for n in sizes),),
        x, *_three(weights, weights[0]), *_three(biases, x), *_three(outs, outs[0]), x.shape[0], x.stride(0),
        **_sizes("N", sizes), **_sizes("STRIDE", [weight.stride(0) for weight in weights]), K=k,
        BLOCK_N=plan.block_n, BLOCK_K=plan.block_k, STAGES=plan.stages,
        EVEN=k % plan.block_k == 0 and all(n % plan.block_n == 0 for n in sizes),
        HAS_BIAS=bool(biases), EARLY=early, WIDE=is_interpreted(), num_warps=plan.warps, launch_pdl=early,
    )  # fmt: skip
    return outs


def _share(sizes: Sequence[int], k: int, device: torch.device, plan: Plan) -> int:
    """How many rows of a weight a program adds up: all, or so many that the device has enough to do."""
    across = triton.cdiv(k, plan.block_k)
    wanted = max(1, int(plan.programs * multiprocessor_count(device) / across))
    blocks = sum(triton.cdiv(n, plan.block_n) for n in sizes)
    return plan.block_n * max(1, triton.cdiv(blocks, wanted))


def _launch_input_gradient(
    grads: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], plan: Plan | None = None
) -> torch.Tensor:
    sizes, k, rows = [weight.shape[0] for weight in weights], weights[0].shape[1], grads[0].shape[0]
    plan = plan or input_gradient_plan(sum(sizes), k)
    share = _share(sizes, k, grads[0].device, plan)
    shares = sum(triton.cdiv(n, share) for n in sizes)
    out = empty_contiguous(grads[0], (rows, k))
    parts = out if shares == 1 else empty_contiguous(out, (shares, rows, k), torch.float32)
    early = _begins_early(out.device)
    strides = [grad.stride(0) for grad in grads]
    launch_kernel(_input_gradient_kernel, (triton.cdiv(k, plan.block_k), shares),
        *_three(grads, grads[0]), *_three(weights, weights[0]), parts, rows,
        *strides, *[0] * (MOST_LAYERS - len(strides)),
        **_sizes("N", sizes), **_sizes("STRIDE", [weight.stride(0) for weight in weights]), K=k,
        BLOCK_N=plan.block_n, BLOCK_K=plan.block_k, SHARE=share, STAGES=plan.stages,
        EVEN=k % plan.block_k == 0 and all(n % plan.block_n == 0 for n in sizes),
        EARLY=early, WIDE=is_interpreted(), num_warps=plan.warps, launch_pdl=early,
    )  # fmt: skip
    if shares > 1:
        launch_kernel(_sum_of_shares_kernel, (triton.cdiv(rows * k, 128),),
            parts, out, rows * k, SHARES=shares, BLOCK=128, EARLY=early, num_warps=2, launch_pdl=early,
        )  # fmt: skip
    return out


def _launch_weight_gradients(
    x: torch.Tensor, grads: Sequence[torch.Tensor], plan: Plan | None = None
) -> list[torch.Tensor]:
    sizes, k = [grad.shape[1] for grad in grads], x.shape[1]
    plan = plan or weight_gradients_plan(k)
    outs = [empty_contiguous(x, (n, k)) for n in sizes]
    early = _begins_early(x.device)
    strides = [grad.stride(0) for grad in grads]
    launch_kernel(
        _weight_gradients_kernel,
        (triton.cdiv(k, plan.block_k), sum(triton.cdiv(n, plan.block_n) for n in sizes)),
        x, *_three(grads, grads[0]), *_three(outs, outs[0]), x.shape[0], x.stride(0),
        *strides, *[0] * (MOST_LAYERS - len(strides)),
        **_sizes("N", sizes), K=k, BLOCK_N=plan.block_n, BLOCK_K=plan.block_k,
        EVEN=k % plan.block_k == 0 and all(n % plan.block_n == 0 for n in sizes),
        EARLY=early, WIDE=is_interpreted(), num_warps=plan.warps, launch_pdl=early,
    )  # fmt: skip
    return outs


def _present(*tensors: torch.Tensor | None) -> list[torch.Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def _filled(tensors: Sequence[torch.Tensor], like: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Three results: empty ones for layers that are not there."""
    return (*tensors, *(like.new_empty(0) for _ in range(MOST_LAYERS - len(tensors))))


Results = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@torch.library.custom_op("thunder::few_rows_linear", mutates_args=())
def few_rows_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: Optional[torch.Tensor] = None,  # noqa: UP045  (torch.library reads the annotations)
    weight_1: Optional[torch.Tensor] = None,  # noqa: UP045
    bias_1: Optional[torch.Tensor] = None,  # noqa: UP045
    weight_2: Optional[torch.Tensor] = None,  # noqa: UP045
    bias_2: Optional[torch.Tensor] = None,  # noqa: UP045
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Up to three linear layers of one input, all with a bias or none; see the module's docstring."""
    weights, biases = _present(weight, weight_1, weight_2), _present(bias, bias_1, bias_2)
    if runs_triton(x):
        outs = [out.view(*x.shape[:-1], out.shape[1]) for out in _launch_outputs(as_rows(x), weights, biases)]
    else:
        outs = [F.linear(x, w, biases[i] if biases else None).contiguous() for i, w in enumerate(weights)]
    return _filled(outs, x)  # type: ignore[return-value]


@few_rows_linear.register_fake
def _(x, weight, bias=None, weight_1=None, bias_1=None, weight_2=None, bias_2=None):
    return _filled([x.new_empty((*x.shape[:-1], w.shape[0])) for w in _present(weight, weight_1, weight_2)], x)


@torch.library.custom_op("thunder::few_rows_input_gradient", mutates_args=())
def few_rows_input_gradient(
    grad: torch.Tensor,
    weight: torch.Tensor,
    grad_1: Optional[torch.Tensor] = None,  # noqa: UP045
    weight_1: Optional[torch.Tensor] = None,  # noqa: UP045
    grad_2: Optional[torch.Tensor] = None,  # noqa: UP045
    weight_2: Optional[torch.Tensor] = None,  # noqa: UP045
) -> torch.Tensor:
    """The gradient of the input of `few_rows_linear`."""
    grads, weights = _present(grad, grad_1, grad_2), _present(weight, weight_1, weight_2)
    shape = (*grad.shape[:-1], weight.shape[1])
    if runs_triton(grad):
        return _launch_input_gradient([as_rows(g) for g in grads], weights).view(shape)
    return input_gradient_reference(grads, weights).to(grad.dtype)


@few_rows_input_gradient.register_fake
def _(grad, weight, grad_1=None, weight_1=None, grad_2=None, weight_2=None):
    return grad.new_empty((*grad.shape[:-1], weight.shape[1]))


@torch.library.custom_op("thunder::few_rows_weight_gradients", mutates_args=())
def few_rows_weight_gradients(
    x: torch.Tensor,
    grad: torch.Tensor,
    grad_1: Optional[torch.Tensor] = None,  # noqa: UP045
    grad_2: Optional[torch.Tensor] = None,  # noqa: UP045
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of the weights of `few_rows_linear`."""
    grads = [as_rows(g) for g in _present(grad, grad_1, grad_2)]
    rows = as_rows(x)
    if runs_triton(x):
        return _filled(_launch_weight_gradients(rows, grads), x)  # type: ignore[return-value]
    return _filled([torch.mm(g.t(), rows) for g in grads], x)  # type: ignore[return-value]


@few_rows_weight_gradients.register_fake
def _(x, grad, grad_1=None, grad_2=None):
    grads = _present(grad, grad_1, grad_2)
    return _filled([x.new_empty((g.shape[-1], x.shape[-1])) for g in grads], x)


FEW_ROWS_LINEAR = torch.ops.thunder.few_rows_linear.default


def _save(ctx: Any, inputs: tuple[Any, ...], output: Results) -> None:
    x, weight, bias, weight_1, _, weight_2, _ = inputs
    ctx.save_for_backward(x, weight, weight_1, weight_2)
    ctx.has_bias = bias is not None
    ctx.mark_non_differentiable(*output[len(_present(weight, weight_1, weight_2)) :])


def _differentiate(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, *saved = ctx.saved_tensors
    weights = _present(*saved)
    needs = ctx.needs_input_grad
    given = grads[: len(weights)]
    grad_x = None
    if needs[0]:
        pairs = [tensor for pair in zip(given, weights) for tensor in pair]
        grad_x = torch.ops.thunder.few_rows_input_gradient(*pairs)
    found: list[torch.Tensor | None] = [None] * (2 * MOST_LAYERS)
    if any(needs[1::2]):
        for i, grad_weight in enumerate(torch.ops.thunder.few_rows_weight_gradients(x, *given)[: len(weights)]):
            found[2 * i] = grad_weight if needs[1 + 2 * i] else None
    for i, grad in enumerate(given):
        if ctx.has_bias and needs[2 + 2 * i]:
            found[2 * i + 1] = grad.reshape(-1, grad.shape[-1]).sum(0)
    return grad_x, *found


few_rows_linear.register_autograd(_differentiate, setup_context=_save)


def input_gradient_reference(grads: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """The gradient of the input in plain PyTorch, added up in float32 or, for float64 arguments, in float64."""
    wide = torch.promote_types(grads[0].dtype, torch.float32)
    return torch.stack([g.to(wide) @ w.to(wide) for g, w in zip(grads, weights)]).sum(0)


def is_supported(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> bool:
    """Whether the kernels are used on these: 2 to 16 rows, 16-bit (on the CPU any) types, layers large together."""
    types = (torch.bfloat16, torch.float16) if x.is_cuda else (torch.bfloat16, torch.float16, torch.float32)
    if not (x.dim() >= 2 and 2 <= rows_of(x) <= MOST_ROWS and x.dtype in types):
        return False
    if any(w.dtype is not x.dtype or w.dim() != 2 or w.stride(1) != 1 or w.device != x.device for w in weights):
        return False
    return not x.is_cuda or skinny.is_fastest(sum(w.shape[0] for w in weights), x.shape[-1], x.device)
