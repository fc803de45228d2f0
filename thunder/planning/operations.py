"""What an operation of an executed trace is on a GPU: its kernels, and the memory that it needs meanwhile.

Input: an operation.  Output: `OpCost`.  Products, attention and the library's composed kernels have rules here;
any other operation is taken for one kernel that reads its inputs and writes its results, with the operations that
PyTorch's own counter knows of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

from thunder.executors.triton_fusion import FusedKernel
from thunder.kernels.linear_cross_entropy import CHUNK_BYTES
from thunder.lower.operators import aten, is_aten, is_uninitialised, is_view, tensor_bytes
from thunder.planning.kernel_time import Attention, KernelShape, Matmul, Traffic
from thunder.trace import Op, Region


@dataclass(frozen=True)
class OpCost:
    """The kernels of an operation, and bytes that it allocates and frees again."""

    kernels: tuple[KernelShape, ...] = ()
    workspace: int = 0


Rule = Callable[[Op], OpCost]
_FREE = OpCost()


def cost_of(op: Op) -> OpCost:
    """The cost of one operation that calls no further trace."""
    target = op.target
    if isinstance(target, Region):
        if isinstance(target.implementation, FusedKernel):
            return OpCost((Traffic(target.implementation.bytes_moved()),))
        return OpCost(tuple(kernel for inner in target.trace.ops for kernel in cost_of(inner).kernels))
    rule = _RULES.get(_name(target))
    if rule is not None:
        return rule(op)
    if not is_aten(target) or is_view(op) or is_uninitialised(op) or is_free_reshape(op):
        return _FREE
    return OpCost((_other(op),))


def _name(target: Any) -> str:
    """`aten.mm` of `aten.mm.default`; the name of anything else."""
    return str(target).rpartition(".")[0] if is_aten(target) else getattr(target, "__name__", "")


def is_free_reshape(op: Op) -> bool:
    """Whether a reshape of contiguous memory moves nothing."""
    if op.target is not aten.reshape.default:
        return False
    source = next(op.inputs()).value
    return bool(source.is_contiguous())


def _bytes(op: Op) -> int:
    inputs = {id(var): var for var in op.inputs()}
    return sum(tensor_bytes(var.value) for var in [*inputs.values(), *op.outputs()])


def _other(op: Op) -> KernelShape:
    """One kernel; copies that bring elements into another order are slower."""
    tensors = [var.value for var in op.inputs() if isinstance(var.value, torch.Tensor)]
    results = [var.value for var in op.outputs() if isinstance(var.value, torch.Tensor)]
    reorders = (
        op.target in _COPIES
        and bool(tensors)
        and bool(results)
        and tensors[-1].stride() != results[0].stride()
        and tensor_bytes(results[0]) > 0
    )
    packet = getattr(op.target, "_overloadpacket", None)
    operations = 0
    if packet in flop_registry:
        arguments = [_value(argument) for argument in op.args]
        keywords = {name: _value(argument) for name, argument in op.kwargs.items()}
        operations = int(flop_registry[packet](*arguments, **keywords, out_val=_value(op.result)))
    if operations:
        element_size = tensors[0].element_size() if tensors else 2
        return _as_product(operations, results[0], element_size, _bytes(op))
    return Traffic(_bytes(op), "strided" if reorders else "eager")


_COPIES = frozenset({aten.clone.default, aten.copy.default, aten.reshape.default, aten._to_copy.default})


def _value(argument: Any) -> Any:
    if isinstance(argument, (tuple, list)):
        return type(argument)(_value(item) for item in argument)
    return getattr(argument, "value", argument)


def _as_product(operations: int, result: torch.Tensor, element_size: int, traffic: int) -> Matmul:
    """A convolution as the product that it amounts to: a row for each place, a column for each channel."""
    columns = result.shape[1] if result.dim() > 1 else 1
    rows = max(1, result.numel() // max(1, columns))
    depth = max(1, operations // (2 * rows * columns))
    return Matmul(rows, columns, depth, element_size=element_size, traffic=traffic)


# Products ------------------------------------------------------------------------------------------------------------
def _product(left: Any, right: Any, traffic: int = 0) -> Matmul:
    count = math.prod(left.shape[:-2])
    m, k, n = left.shape[-2], left.shape[-1], right.shape[-1]
    return Matmul(m, n, k, count, left.element_size(), traffic)


def _matrix_product(op: Op) -> OpCost:
    """mm, bmm: the two matrices come first; addmm, baddbmm: after the addend."""
    first = 1 if "add" in _name(op.target) else 0
    left, right = op.args[first].value, op.args[first + 1].value
    return OpCost((_product(left, right),))


def _linear(rows: int, hidden: Any, outputs: int) -> Matmul:
    return Matmul(rows, outputs, hidden.shape[-1], element_size=hidden.element_size())


def _rows(tensor: Any) -> int:
    return tensor.numel() // max(1, tensor.shape[-1])


def _merged_linear(op: Op) -> OpCost:
    """One product for several layers of the same input."""
    hidden = op.args[0].value
    outputs = sum(weight.value.shape[0] for weight in op.args[1])
    return OpCost((_linear(_rows(hidden), hidden, outputs),))


# Attention -----------------------------------------------------------------------------------------------------------
def _attention(op: Op) -> OpCost:
    query, key = op.args[0].value, op.args[1].value
    has_bias = len(op.args) > 3 and op.args[3] is not None
    is_causal = bool(op.args[6]) if len(op.args) > 6 else bool(op.kwargs.get("is_causal", False))
    return OpCost((_attention_shape(query, key, is_causal, has_bias, False, _bytes(op)),))


def _attention_backward(op: Op) -> OpCost:
    """Takes the gradient, then query, key and value; besides the kernel, gradients are prepared and rounded."""
    query, key = op.args[1].value, op.args[2].value
    schema = [argument.name for argument in op.target._schema.arguments]
    values = dict(zip(schema, op.args)) | op.kwargs
    kernel = _attention_shape(
        query, key, bool(values.get("is_causal", False)), values.get("attn_bias") is not None, True, _bytes(op)
    )
    return OpCost((kernel,), workspace=2 * tensor_bytes(query))  # the gradient of the query is added up in float32


def _attention_shape(
    query: Any, key: Any, is_causal: bool, has_bias: bool, is_backward: bool, traffic: int
) -> Attention:
    batch = query.shape[0] * query.shape[1]
    return Attention(
        batch, query.shape[2], key.shape[2], query.shape[3], is_causal, has_bias, is_backward, traffic
    )


# The library's composed kernels --------------------------------------------------------------------------------------
def _loss_with_logits(op: Op) -> OpCost:
    """linear_cross_entropy_with_logits: the product, and one kernel that reads the logits."""
    hidden, weight = op.args[0].value, op.args[1].value
    logits = _rows(hidden) * weight.shape[0] * hidden.element_size()
    return OpCost((_linear(_rows(hidden), hidden, weight.shape[0]), Traffic(logits)))


def _loss_backward(op: Op) -> OpCost:
    """linear_cross_entropy_backward: chunk by chunk the logits' gradient, and the products of both gradients."""
    hidden, weight = op.args[3].value, op.args[4].value
    return _chunked_loss(hidden, weight, forward=False)


def _loss_and_gradients(op: Op) -> OpCost:
    """linear_cross_entropy: forward and gradients chunk by chunk."""
    return _chunked_loss(op.args[0].value, op.args[1].value, forward=True)


def _chunked_loss(hidden: Any, weight: Any, *, forward: bool) -> OpCost:
    rows, vocabulary, width, size = _rows(hidden), weight.shape[0], hidden.shape[-1], hidden.element_size()
    chunk = max(1, CHUNK_BYTES // (vocabulary * size))
    count = max(1, math.ceil(rows / chunk))
    chunk = math.ceil(rows / count)
    kernels: list[KernelShape] = []
    for number in range(count):
        kernels += [
            *([Matmul(chunk, vocabulary, width, element_size=size)] if forward else []),
            Traffic(2 * chunk * vocabulary * size),
            Matmul(chunk, width, vocabulary, element_size=size),
            Matmul(vocabulary, width, chunk, element_size=size),
        ]
        if number:  # the gradient of the weight is read to be added to
            kernels.append(Traffic(vocabulary * width * size))
    return OpCost(tuple(kernels), workspace=chunk * vocabulary * size)


def _embedding(op: Op) -> OpCost:
    """Reads and writes the rows of the result."""
    return OpCost((Traffic(2 * sum(tensor_bytes(var.value) for var in op.outputs())),))


def _embedding_backward(op: Op) -> OpCost:
    """Fills the gradient with zeros, sorts the numbers of the rows, adds rows up."""
    result, gradient, ids = next(op.outputs()).value, op.args[0].value, op.args[1].value
    return OpCost(
        (
            Traffic(tensor_bytes(result), "eager"),
            Traffic(4 * tensor_bytes(ids), "eager"),
            Traffic(2 * tensor_bytes(gradient)),
        )
    )


def _few_rows(op: Op) -> OpCost:
    """The kernels for few rows read weights once, and reach less of the bandwidth than copies do."""
    return OpCost((Traffic(_bytes(op), "few rows"),))


def _read_and_write(op: Op) -> OpCost:
    """A kernel of the library's that reads its inputs and writes its results."""
    return OpCost((Traffic(_bytes(op)),))


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm"), _matrix_product),
    "aten._scaled_dot_product_cudnn_attention": _attention,
    "aten._scaled_dot_product_cudnn_attention_backward": _attention_backward,
    "aten.embedding": _embedding,
    "thunder.embedding": _embedding,
    "thunder.embedding_backward": _embedding_backward,
    "thunder.merged_linear": _merged_linear,
    **dict.fromkeys(("thunder.gemv", "thunder.gemv_gated"), _few_rows),
    "thunder.linear_cross_entropy_with_logits": _loss_with_logits,
    "thunder.linear_cross_entropy_backward": _loss_backward,
    "thunder.linear_cross_entropy": _loss_and_gradients,
    **dict.fromkeys(
        (
            "thunder.rms_norm", "thunder.add_rms_norm",
            "thunder.rms_norm_backward", "thunder.layer_norm", "thunder.add_layer_norm", "thunder.layer_norm_backward",
            "thunder.rope", "thunder.rope_backward", "thunder.gated_activation", "thunder.gated_activation_backward",
            "thunder.cross_entropy", "thunder.cross_entropy_backward",
            "thunder.few_rows_linear", "thunder.few_rows_input_gradient", "thunder.few_rows_weight_gradients",
        ),
        _read_and_write,
    ),
}  # fmt: skip
