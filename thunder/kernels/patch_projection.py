"""Convolutions of patches that do not overlap, as matrix products.

    y[b, g, o] = bias[o] + sum over c, i of x[b, c, patch g, element i] * weight[o, c, i]

Input: a torch-level trace.  Output: the same program, in which a convolution whose stride is its kernel (no padding,
dilation or groups) is one linear layer on rows that hold a patch each.  cuDNN brings image and weight into another
layout and back, which takes several times as long as the product.

Two uses are replaced, whose results need no copy to be as they were: `conv(x).flatten(2).transpose(1, 2)`, as vision
transformers have it, and convolutions whose kernel covers all of the image (one patch).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from thunder.kernels.pattern import Definitions
from thunder.kernels.registry import current_mode, is_disabled, is_wanted_on
from thunder.kernels.substitute import Surroundings, gives_the_same
from thunder.trace import Op, Trace, Var, trace_pass

_CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
_PARAMETERS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def project_patches(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Linear layer on each patch: `[b, c, *image]`, `[o, c, *kernel]` -> `[b, patches, o]`."""
    kernel = weight.shape[2:]
    grid = [size // part for size, part in zip(x.shape[2:], kernel)]
    split = [number for pair in zip(grid, kernel) for number in pair]
    count = len(kernel)
    order = [0, *range(2, 2 + 2 * count, 2), 1, *range(3, 3 + 2 * count, 2)]
    rows = x.reshape(*x.shape[:2], *split).permute(order).reshape(x.shape[0], -1, weight[0].numel())
    return F.linear(rows, weight.flatten(1), bias)


def project_image(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of an image that is one patch: `[b, c, *kernel]`, `[o, c, *kernel]` -> `[b, o, 1, ...]`."""
    result = F.linear(x.flatten(1), weight.flatten(1), bias)
    return result.reshape(*result.shape, *[1] * (x.dim() - 2))


@trace_pass
def use_patch_projections(trace: Trace) -> Trace:
    """Replaces convolutions of patches on devices that kernels are wanted on."""
    if is_disabled("patch_projection") or not any(op.name in _CONVOLUTIONS for op in trace.ops):
        return trace
    definitions, surroundings = Definitions(trace), Surroundings(trace)
    calls: dict[int, Op] = {}
    dropped: set[int] = set()
    for op in trace.ops:
        arguments = _patch_arguments(op)
        if arguments is None:
            continue
        x, weight, _bias = arguments
        whole = replace(op, target=project_image, args=arguments, kwargs={})
        if x.value.shape[2:] == weight.value.shape[2:] and gives_the_same(whole, [op.result]):
            calls[id(op)] = whole
            continue
        chain = _flattened_and_transposed(op, definitions, surroundings)
        if chain is None:
            continue
        flatten, transpose = chain
        values = [var for var in arguments if var is not None]
        if id(transpose.result) in surroundings.returned or not surroundings.may_move(
            [op, flatten, transpose], transpose, values
        ):
            continue
        calls[id(transpose)] = replace(transpose, target=project_patches, args=arguments, kwargs={})
        dropped |= {id(op), id(flatten)}
    if not calls:
        return trace
    return trace.replace(ops=[calls.get(id(op), op) for op in trace.ops if id(op) not in dropped])


def _patch_arguments(op: Op) -> tuple[Var, Var, Var | None] | None:
    """Image, weight and bias of a convolution of patches that do not overlap, else None."""
    count = _CONVOLUTIONS.get(op.name)
    if count is None or not isinstance(op.result, Var) or len(op.args) > len(_PARAMETERS):
        return None
    given: dict[str, Any] = {**dict(zip(_PARAMETERS, op.args)), **op.kwargs}
    x, weight, bias = given.get("input"), given.get("weight"), given.get("bias")
    if not (isinstance(x, Var) and isinstance(weight, Var)) or not (bias is None or isinstance(bias, Var)):
        return None
    image, kernel = tuple(x.value.shape[2:]), tuple(weight.value.shape[2:])
    if x.value.dim() != count + 2 or any(type(size) is not int for size in x.value.shape):
        return None
    if not is_wanted_on(x.value.device.type) or not _is_fast(x.value) or given.get("groups", 1) != 1:
        return None
    settings = (("stride", 1, kernel), ("padding", 0, (0,) * count), ("dilation", 1, (1,) * count))
    for name, default, wanted in settings:
        value = given.get(name, default)
        numbers = (value,) * count if isinstance(value, int) else value
        if not isinstance(numbers, (tuple, list)) or tuple(numbers) != wanted:
            return None
    if not all(size and size % part == 0 for size, part in zip(image, kernel)):
        return None
    return x, weight, bias


def _is_fast(x: Tensor) -> bool:
    """Products of 16 bits: in float32 convolutions may use TF32 where products of matrices may not."""
    return x.element_size() == 2 or current_mode() == "always"


def _flattened_and_transposed(op: Op, definitions: Definitions, surroundings: Surroundings) -> tuple[Op, Op] | None:
    """The operations that make `[b, patches, o]` of the convolution's result, which nothing else uses."""
    found: list[Op] = []
    before = op
    for position in range(2):
        users = surroundings.users.get(id(before.result), [])
        if id(before.result) in surroundings.returned or len(users) != 1 or not isinstance(users[0].result, Var):
            return None
        user = users[0]
        call = definitions.call(user)
        name, numbers = call.name, list(call.arguments.values())[1:]
        if position == 0:
            fits = name == "flatten" and numbers in ([2], [2, -1])
        else:
            fits = (name == "transpose" and sorted(numbers) in ([1, 2], [-2, -1], [-2, 2], [-1, 1])) or (
                name == "permute" and numbers in ([0, 2, 1], [(0, 2, 1)])
            )
        if not fits:
            return None
        found.append(user)
        before = user
    return found[0], found[1]
