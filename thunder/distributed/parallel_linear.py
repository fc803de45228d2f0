"""Linear layers and embeddings of which each process has a part, and the collectives between them.

A *divided* activation differs between processes (each has its columns, or its share of a sum); a *common* one is the
same everywhere.  Every function here is differentiable, and its derivative is the collective that mirrors it:

    enter    common -> divided use      identity               backward: sum over processes
    leave    shares of a sum -> common  sum over processes     backward: identity
    gather   columns -> common          all columns            backward: this process's columns
    split    common -> columns          this process's columns backward: all columns

With sequence parallelism what stands between divided layers (norms, dropout, residual sums) is computed for some rows
of the sequence, the last dimension but one:

    gather_rows    rows -> common              all rows            backward: sum over processes, this process's rows
    scatter_rows   shares of a sum -> rows     sum, own rows       backward: all rows
    split_rows     common -> rows              own rows            backward: all rows
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from thunder.distributed.collectives import Group, functional
from thunder.errors import MeshError


def _sum(x: torch.Tensor, group: str) -> torch.Tensor:
    total: torch.Tensor = functional.wait_tensor(functional.all_reduce(x.contiguous(), "sum", group))
    return total


def _all_columns(x: torch.Tensor, size: int, group: str) -> torch.Tensor:
    rows = x.movedim(-1, 0).contiguous()
    gathered: torch.Tensor = functional.wait_tensor(functional.all_gather_into_tensor(rows, size, group))
    return gathered.movedim(0, -1).contiguous()


def _own_columns(x: torch.Tensor, size: int, rank: int) -> torch.Tensor:
    width = x.shape[-1] // size
    return x.narrow(-1, rank * width, width).contiguous()


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


class GatherColumns(torch.autograd.Function):
    """`GatherColumns.apply(x, size, rank, group)`: all processes' x, side by side in the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: int, rank: int, group: str) -> torch.Tensor:
        ctx.size, ctx.rank = size, rank
        return _all_columns(x, size, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _own_columns(gradient, ctx.size, ctx.rank), None, None, None


class SplitColumns(torch.autograd.Function):
    """`SplitColumns.apply(x, size, rank, group)`: this process's part of the last dimension of x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: int, rank: int, group: str) -> torch.Tensor:
        ctx.size, ctx.group = size, group
        return _own_columns(x, size, rank)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _all_columns(gradient, ctx.size, ctx.group), None, None, None


def _all_rows(x: torch.Tensor, size: int, group: str) -> torch.Tensor:
    rows = x.movedim(-2, 0).contiguous()
    gathered: torch.Tensor = functional.wait_tensor(functional.all_gather_into_tensor(rows, size, group))
    return gathered.movedim(0, -2).contiguous()


def _sum_of_rows(x: torch.Tensor, size: int, group: str) -> torch.Tensor:
    rows = x.movedim(-2, 0).contiguous()
    own: torch.Tensor = functional.wait_tensor(functional.reduce_scatter_tensor(rows, "sum", size, group))
    return own.movedim(0, -2).contiguous()


def _own_rows(x: torch.Tensor, size: int, rank: int) -> torch.Tensor:
    count = x.shape[-2] // size
    return x.narrow(-2, rank * count, count).contiguous()


class GatherRows(torch.autograd.Function):
    """`GatherRows.apply(x, size, group)`: all processes' rows, for divided use."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: int, group: str) -> torch.Tensor:
        ctx.size, ctx.group = size, group
        return _all_rows(x, size, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _sum_of_rows(gradient, ctx.size, ctx.group), None, None


class ScatterRows(torch.autograd.Function):
    """`ScatterRows.apply(x, size, group)`: this process's rows of the sum of all processes' x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: int, group: str) -> torch.Tensor:
        ctx.size, ctx.group = size, group
        return _sum_of_rows(x, size, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _all_rows(gradient, ctx.size, ctx.group), None, None


class SplitRows(torch.autograd.Function):
    """`SplitRows.apply(x, size, rank, group)`: this process's rows of x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: int, rank: int, group: str) -> torch.Tensor:
        ctx.size, ctx.group = size, group
        return _own_rows(x, size, rank)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _all_rows(gradient, ctx.size, ctx.group), None, None, None


class VocabularyCrossEntropy(torch.autograd.Function):
    """`VocabularyCrossEntropy.apply(x, target, ignored, group, start)`: the negative logarithms of the probabilities of
    the targets [rows], zero where the target is `ignored`; x [rows, columns] are this process's columns, from column
    `start` on.

        loss = log(sum over columns of exp(x - m)) + m - x[target],    m = largest x
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, target: torch.Tensor, ignored: int, group: str, start: int) -> torch.Tensor:
        largest = functional.wait_tensor(functional.all_reduce(x.amax(-1), "max", group))
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


def column_linear(module: Any, group: Group, gathers: bool, enters: bool, x: torch.Tensor) -> torch.Tensor:
    """`linear` of which each process has some output columns; `gathers`: the result is common again.

    `enters`: x is common; otherwise its gradient is summed where its rows were gathered.
    """
    if enters:
        x = Enter.apply(x, group.name)
    y = F.linear(x, module.weight, module.bias)
    return GatherColumns.apply(y, group.size, group.rank, group.name) if gathers else y


def row_linear(module: Any, group: Group, splits: bool, scatters: bool, x: torch.Tensor) -> torch.Tensor:
    """`linear` of which each process has some input columns; `splits`: x is common, and has to be divided first.

    `scatters`: the result has this process's rows of the sequence.
    """
    if splits:
        x = SplitColumns.apply(x, group.size, group.rank, group.name)
    y = F.linear(x, module.weight)
    y = ScatterRows.apply(y, group.size, group.name) if scatters else Leave.apply(y, group.name)
    return y if module.bias is None else y + module.bias


def gathered_norm(forward: Any, group: Group, x: torch.Tensor) -> torch.Tensor:
    """A norm of this process's rows of the sequence, whose results are gathered for the layers that follow."""
    return GatherRows.apply(forward(x), group.size, group.name)


def split_sequence(forward: Any, group: Group, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """The first layer of a model, on this process's rows of the sequence."""
    if x.shape[-2] % group.size:
        raise MeshError(
            f"a sequence of {x.shape[-2]} cannot be divided among {group.size} processes",
            remedy="pad it to a multiple, or leave sequence_parallel=True out",
        )
    return forward(SplitRows.apply(x, group.size, group.rank, group.name), *args, **kwargs)


def packed_linear(
    module: Any, group: Group, rows: tuple[tuple[int, int], ...], enters: bool, x: torch.Tensor
) -> torch.Tensor:
    """Several column-divided linears in one weight, `rows` of each being this process's; the weight is common."""

    def own(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor[start:stop] for start, stop in rows])

    bias = None if module.bias is None else own(module.bias)
    return F.linear(Enter.apply(x, group.name) if enters else x, own(module.weight), bias)


def row_embedding(module: Any, group: Group, start: int, tokens: torch.Tensor) -> torch.Tensor:
    """`embedding` of which each process has some rows, from row `start` on."""
    local = tokens - start
    outside = (local < 0) | (local >= module.weight.shape[0])
    found = F.embedding(local.masked_fill(outside, 0), module.weight)
    return Leave.apply(found.masked_fill(outside.unsqueeze(-1), 0), group.name)
