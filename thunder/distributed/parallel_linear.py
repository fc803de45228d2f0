"""Linear layers and embeddings of which each process has a part, and the collectives between them.

A *divided* activation differs between processes (each has its columns, or its share of a sum); a *common* one is the
same everywhere.  Every function here is differentiable, and its derivative is the collective that mirrors it:

    Enter            common -> divided use      identity              backward: sum over processes
    Leave            shares of a sum -> common  sum over processes    backward: identity
    Gather           parts -> common            all parts             backward: this process's part
    Split            common -> parts            this process's part   backward: all parts

A part is some columns, or with sequence parallelism some rows of the sequence (the last dimension but one): what stands
between divided layers (norms, dropout, residual sums) is computed for these rows.

    GatherToDivide   parts -> divided use       all parts             backward: sum over processes, own part
    Scatter          shares of a sum -> parts   sum, own part         backward: all parts

Outside of compiled programs, where parameters are DTensors, the forward functions compute with the parts as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from thunder import _torch_compat
from thunder.distributed.collectives import Group, functional
from thunder.distributed.failures import exchange_failure
from thunder.errors import MeshError

Rows = tuple[tuple[int, int], ...]
"""Rows of a matrix: from, to; several times."""


def _finished(collective: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
    """The result of a collective, whose last argument is its group; errors name the ranks that were not there.

    Programs that are lowered have collectives in traces: this runs where they are not.
    """
    try:
        result: torch.Tensor = functional.wait_tensor(collective(*args))
    except RuntimeError as error:
        if type(error) is not RuntimeError and not isinstance(error, dist.DistError):
            raise  # not the transport's
        ranks = dist.get_process_group_ranks(_torch_compat.process_group(args[-1]))
        name = getattr(collective, "_opname", "collective")
        raise exchange_failure(error, f"parts of a layer ({name} of {tuple(args[0].shape)})", ranks) from error
    return result


def _sum(x: torch.Tensor, group: str) -> torch.Tensor:
    return _finished(functional.all_reduce.default, x.contiguous(), "sum", group)


def _all_parts(x: torch.Tensor, dimension: int, size: int, group: str) -> torch.Tensor:
    first = x.movedim(dimension, 0).contiguous()
    gathered = _finished(functional.all_gather_into_tensor.default, first, size, group)
    return gathered.movedim(0, dimension).contiguous()


def _part_of_sum(x: torch.Tensor, dimension: int, size: int, group: str) -> torch.Tensor:
    first = x.movedim(dimension, 0).contiguous()
    own = _finished(functional.reduce_scatter_tensor.default, first, "sum", size, group)
    return own.movedim(0, dimension).contiguous()


def _own_part(x: torch.Tensor, dimension: int, size: int, rank: int) -> torch.Tensor:
    count = x.shape[dimension] // size
    return x.narrow(dimension, rank * count, count).contiguous()


class Enter(torch.autograd.Function):
    """`Enter.apply(x, group)`: x, whose gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: str) -> torch.Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _sum(gradient, ctx.group), None


class Leave(torch.autograd.Function):
    """`Leave.apply(x, group)`: the sum of all processes' x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: str) -> torch.Tensor:
        return _sum(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, None


class Gather(torch.autograd.Function):
    """`Gather.apply(x, dimension, size, rank, group)`: all processes' x, one behind the other, for common use."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dimension: int, size: int, rank: int, group: str) -> torch.Tensor:
        ctx.place = dimension, size, rank
        return _all_parts(x, dimension, size, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _own_part(gradient, *ctx.place), None, None, None, None


class GatherToDivide(torch.autograd.Function):
    """`GatherToDivide.apply(x, dimension, size, group)`: all processes' x, for divided use."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dimension: int, size: int, group: str) -> torch.Tensor:
        ctx.place = dimension, size, group
        return _all_parts(x, dimension, size, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _part_of_sum(gradient, *ctx.place), None, None, None


class Split(torch.autograd.Function):
    """`Split.apply(x, dimension, size, rank, group)`: this process's part of a common x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dimension: int, size: int, rank: int, group: str) -> torch.Tensor:
        ctx.place = dimension, size, group
        return _own_part(x, dimension, size, rank)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _all_parts(gradient, *ctx.place), None, None, None, None


class Scatter(torch.autograd.Function):
    """`Scatter.apply(x, dimension, size, group)`: this process's part of the sum of all processes' x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dimension: int, size: int, group: str) -> torch.Tensor:
        ctx.place = dimension, size, group
        return _part_of_sum(x, dimension, size, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _all_parts(gradient, *ctx.place), None, None, None


class VocabularyCrossEntropy(torch.autograd.Function):
    """`VocabularyCrossEntropy.apply(x, target, ignored, group, start)`: the negative logarithms of the probabilities of
    the targets [rows], zero where the target is `ignored`; x [rows, columns] are this process's columns, from column
    `start` on.

        loss = log(sum over columns of exp(x - m)) + m - x[target],    m = largest x
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, target: torch.Tensor, ignored: int, group: str, start: int) -> torch.Tensor:
        largest = _finished(functional.all_reduce.default, x.amax(-1), "max", group)
        exponentials = (x - largest.unsqueeze(-1)).exp()
        total = _sum(exponentials.sum(-1), group)
        local = target - start
        outside = (local < 0) | (local >= x.shape[-1])
        chosen = x.gather(-1, local.masked_fill(outside, 0).unsqueeze(-1)).squeeze(-1)
        chosen = _sum(chosen.masked_fill(outside, 0), group)
        is_ignored = target == ignored
        ctx.save_for_backward(exponentials / total.unsqueeze(-1), local, outside, is_ignored)
        return (total.log() + largest - chosen).masked_fill(is_ignored, 0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        probabilities, local, outside, is_ignored = ctx.saved_tensors
        hits = torch.ones_like(gradient).masked_fill(outside, 0).unsqueeze(-1)
        moved = probabilities.scatter_add(-1, local.masked_fill(outside, 0).unsqueeze(-1), -hits)
        return moved * gradient.masked_fill(is_ignored, 0).unsqueeze(-1), None, None, None, None


def vocabulary_cross_entropy(
    x: torch.Tensor, target: torch.Tensor, ignored: int, reduction: str, group: str, start: int
) -> torch.Tensor:
    """`F.cross_entropy` of logits [rows, columns] of which each process has some columns."""
    losses: torch.Tensor = VocabularyCrossEntropy.apply(x, target, ignored, group, start)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (target != ignored).sum()


# The forward functions of modules that are divided; `thunder.distributed.tensor_parallel` puts them in.


COLUMNS, ROWS = -1, -2


def own_part(parameter: Any) -> Any:
    """What this process has of a parameter; compiled programs see nothing else."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def is_transposed(module: Any) -> bool:
    """Whether a module is transformers' `Conv1D`: a linear layer whose weight is [inputs, outputs]."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")


def on_own_parts(module: Any, names: tuple[str, ...], forward: Callable[..., Any], *args: Any) -> Any:
    """A module's own forward on what this process has of its parameters `names`."""
    whole = {name: module._parameters[name] for name in names}
    if not isinstance(whole[names[0]], DTensor):
        return forward(*args)  # a compiled program
    try:
        module._parameters.update({name: own_part(parameter) for name, parameter in whole.items()})
        return forward(*args)
    finally:
        module._parameters.update(whole)


def product(module: Any, x: torch.Tensor, bias: torch.Tensor | None, rows: Rows | None = None) -> torch.Tensor:
    """x times the weight of a linear layer, or some rows of it; layers with a `product` compute it their own way."""
    weight: Any = own_part(module.weight) if "weight" in module._parameters else None  # quantised layers have none
    if rows is not None and weight is not None:
        weight = select_rows(weight, rows)
    if is_transposed(module):
        weight = weight.t()
    own = getattr(module, "product", F.linear)
    result: torch.Tensor = own(x, weight, own_part(bias))
    return result


def select_rows(tensor: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Some rows of a tensor, one behind the other."""
    return torch.cat([tensor[start:stop] for start, stop in rows])


def column_linear(module: Any, group: Group, gathers: bool, enters: bool, x: torch.Tensor) -> torch.Tensor:
    """`linear` of which each process has some output columns; `gathers`: the result is common again.

    `enters`: x is common; otherwise its gradient is summed where its rows were gathered.
    """
    y = product(module, Enter.apply(x, group.name) if enters else x, module.bias)
    return Gather.apply(y, COLUMNS, group.size, group.rank, group.name) if gathers else y


def row_linear(module: Any, group: Group, splits: bool, scatters: bool, x: torch.Tensor) -> torch.Tensor:
    """`linear` of which each process has some input columns; `splits`: x is common, and has to be divided first.

    `scatters`: the result has this process's rows of the sequence.
    """
    if splits:
        x = Split.apply(x, COLUMNS, group.size, group.rank, group.name)
    y = product(module, x, None)
    y = Scatter.apply(y, ROWS, group.size, group.name) if scatters else Leave.apply(y, group.name)
    return y if module.bias is None else y + module.bias


def gathered_norm(forward: Any, group: Group, x: torch.Tensor) -> torch.Tensor:
    """A norm of this process's rows of the sequence, whose results are gathered for the layers that follow."""
    return GatherToDivide.apply(forward(x), ROWS, group.size, group.name)


def split_sequence(forward: Any, group: Group, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """The first layer of a model, on this process's rows of the sequence."""
    if x.shape[ROWS] % group.size:
        raise MeshError(
            f"a sequence of {x.shape[ROWS]} cannot be divided among {group.size} processes",
            remedy="pad it to a multiple, or leave sequence_parallel=True out",
        )
    return forward(Split.apply(x, ROWS, group.size, group.rank, group.name), *args, **kwargs)


def packed_linear(module: Any, group: Group, rows: Rows | None, enters: bool, x: torch.Tensor) -> torch.Tensor:
    """Several column-divided linears in one weight, `rows` of each being this process's.

    The weight is common; where it is stored in few bits a process has its rows alone, and `rows` is None.
    """
    bias = module.bias if rows is None or module.bias is None else select_rows(module.bias, rows)
    return product(module, Enter.apply(x, group.name) if enters else x, bias, rows)


def row_embedding(
    module: Any, group: Group, start: int, forward: Callable[..., torch.Tensor], tokens: torch.Tensor
) -> torch.Tensor:
    """`embedding` of which each process has some rows, from row `start` on; `forward` looks one token up in them."""
    local = tokens - start
    outside = (local < 0) | (local >= module.num_embeddings // group.size)
    found = on_own_parts(module, ("weight",), forward, local.masked_fill(outside, 0))
    return Leave.apply(found.masked_fill(outside.unsqueeze(-1), 0), group.name)


def routed_experts(
    module: Any,
    group: Group,
    start: int,
    names: tuple[str, ...],
    forward: Callable[..., torch.Tensor],
    x: torch.Tensor,
    index: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """The experts of one layer, of which each process has some, from number `start` on; `names`: their parameters.

    A token's other experts count for nothing here: expert 0 is computed with weight 0 in place of each.
    """
    local = index - start
    outside = (local < 0) | (local >= module.num_experts)
    share = Enter.apply(weights, group.name).masked_fill(outside, 0)
    y = on_own_parts(module, names, forward, Enter.apply(x, group.name), local.masked_fill(outside, 0), share)
    return Leave.apply(y, group.name)
